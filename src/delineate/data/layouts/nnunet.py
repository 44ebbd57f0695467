"""nnU-Net raw data: files CASE_0000, CASE_0001 … in ``imagesTr``, one a channel, and ``labelsTr``.

dataset.json    version 2: "channel_names", "labels", "file_ending"; version 1: "modality", "labels"
imagesTr/CASE_0000.nii.gz  imagesTr/CASE_0001.nii.gz
labelsTr/CASE.nii.gz
imagesTs/CASE_0000.nii.gz                               labelsTs/ may be there

What ``dataset.json`` does not say is taken from the files, and noted. Version 1 lists files without
the number of the channel: those on disk are taken.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from delineate.core.case import Case
from delineate.core.errors import LayoutError
from delineate.core.schema import IGNORE, Label, Schema
from delineate.data.layouts._listing import (
    OWN_SUBJECT,
    Listing,
    entry,
    files,
    lateral,
    load_json,
    modality,
    relative,
    schema_from_files,
    suffix,
)

_PARTS = {"Tr": "train", "Va": "validation", "Ts": "test"}
_CHANNEL = re.compile(r"(.+)_(\d{4})")
_Scans = dict[str, dict[int, Path]]
#: Id, part, files by channel number, label.
_Item = tuple[str, str, dict[int, Path], Path | None]


def recognise(root: Path) -> bool:
    """Whether ``dataset.json`` is version 2's, or images bear a channel number that labels lack."""
    if not root.is_dir() or not any((root / f"images{part}").is_dir() for part in _PARTS):
        return False
    document = load_json(root / "dataset.json") or {}
    if {"channel_names", "labels"} <= document.keys():
        return True
    labels = {name for name, _ in _named(root / "labelsTr")}
    scans = [_CHANNEL.fullmatch(name) for name, _ in _named(root / "imagesTr")]
    return any(match and match[1] in labels and match[0] not in labels for match in scans)


def cases(root: Path) -> Listing:
    """Cases of ``imagesTr`` and ``imagesTs``; a case that lacks a channel is left out and noted."""
    document = load_json(root / "dataset.json") or {}
    ending = str(document.get("file_ending", "")).lower()
    items: list[_Item] = []
    unpaired: list[str] = []
    for short, part in _PARTS.items():
        scans, unnumbered = _channels(root / f"images{short}", ending)
        unpaired += [f"{relative(root, path)} (not CASE_0000{ending})" for path in unnumbered]
        labels = dict(_named(root / f"labels{short}", ending))
        items += [(n, part, group, labels.pop(n, None)) for n, group in scans.items()]
        unpaired += [f"{relative(root, path)} (no image)" for path in labels.values()]
    items += _listed(root, document.get("dataset"))
    channels, notes = _named_channels(root, document, [group for _, _, group, _ in items])
    listed: list[Case] = []
    for name, part, group, label in items:
        missing = [channels[i] for i in sorted(channels) if i not in group]
        if missing:
            unpaired.append(f"{name} (left out: no {', '.join(missing)})")
            continue
        if label is None and part == "train":
            unpaired.append(f"{name} (no label)")
        images = {channels[i]: group[i] for i in sorted(channels)}
        listed.append(Case(name, name, images, label, split=part))
    count = sum(case.split == "train" for case in listed)
    if "numTraining" in document and document["numTraining"] != count:
        notes.append(f"dataset.json says numTraining {document['numTraining']}, got {count}")
    if "labels" in document:
        schema, label_notes = _schema(root, _values(_object(root, document, "labels")))
    else:
        schema, values = schema_from_files([case.label for case in listed if case.label])
        label_notes = ["dataset.json names no labels", *values]
    return Listing(
        cases=tuple(listed),
        schema=schema,
        modalities={name: modality(name) for name in channels.values()},
        notes=(OWN_SUBJECT, *notes, *label_notes),
        unpaired=tuple(unpaired),
    )


def _named(folder: Path, ending: str = "") -> list[tuple[str, Path]]:
    """Name without its ending, and path, of the images of a folder."""
    paths = files(folder) if folder.is_dir() else []
    ends = [(path, ending or suffix(path)) for path in paths]
    return [(p.name[: -len(end)], p) for p, end in ends if p.name.lower().endswith(end)]


def _channels(folder: Path, ending: str) -> tuple[_Scans, list[Path]]:
    """Case -> channel number -> file, and files that are not named so."""
    groups: _Scans = {}
    named = {path: _CHANNEL.fullmatch(name) for name, path in _named(folder, ending)}
    for path, match in named.items():
        if match:
            groups.setdefault(match[1], {})[int(match[2])] = path
    others = files(folder) if folder.is_dir() else []
    return groups, [path for path in others if not named.get(path)]


def _listed(root: Path, document: object) -> list[_Item]:
    """Cases that version 2 lists by their files, in place of the folders."""
    items: list[_Item] = []
    for name, item in document.items() if isinstance(document, dict) else ():
        paths = [entry(root, text) for text in item.get("images", ())]
        scans = {n: path for n, path in enumerate(paths) if path is not None}
        items.append((str(name), "train", scans, entry(root, item.get("label"))))
    return items


def _named_channels(
    root: Path, document: dict[str, Any], groups: list[dict[int, Path]]
) -> tuple[dict[int, str], list[str]]:
    """Number -> name of each channel, and notes."""
    numbers = {number for group in groups for number in group}
    key = "channel_names" if "channel_names" in document else "modality"
    value = document.get(key)
    if value is None:
        return {n: f"channel {n}" for n in sorted(numbers)}, ["dataset.json names no channels"]
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, dict) or not all(str(n).isdecimal() for n in value):
        raise _wrong(root, key, value)
    channels = {int(n): str(name) for n, name in value.items()}
    if len(set(channels.values())) < len(channels):
        channels = {n: f"{name} {n}" for n, name in channels.items()}
    unnamed = sorted(numbers - channels.keys())
    return channels, [f"channels that dataset.json does not name are left out: {unnamed}"] * bool(
        unnamed
    )


def _object(root: Path, document: dict[str, Any], key: str) -> dict[str, Any]:
    value = document.get(key)
    if not isinstance(value, dict):
        raise _wrong(root, key, value)
    return value


def _wrong(root: Path, key: str, value: object) -> LayoutError:
    return LayoutError(
        f'expected "{key}" as an object, got {value!r}',
        where=root / "dataset.json",
        fix=f'write "{key}": {{...}}, as nnU-Net v2 does',
        code="nnunet-json",
    )


def _values(labels: dict[str, Any]) -> dict[str, Any]:
    """Labels as version 2 writes them: name -> value; version 1 wrote value -> name."""
    if labels and all(number.isdecimal() for number in labels):
        return {str(name): int(number) for number, name in labels.items()}
    return labels


def _schema(root: Path, labels: dict[str, Any]) -> tuple[Schema, list[str]]:
    """Schema of nnU-Net labels, where a list of values is a region."""
    notes = []
    values: dict[str, tuple[int, ...]] = {}
    for name, value in labels.items():
        label_values = value if isinstance(value, list) else [value]
        try:
            values[name] = tuple(int(v) for v in label_values)
        except (TypeError, ValueError):
            raise LayoutError(
                f"expected a label value or a list of them for {name!r}, got {value!r}",
                where=root / "dataset.json",
                code="nnunet-json",
            ) from None
    values.pop("background", None)
    ignore = _ignored(root, values)
    if ignore is not None:
        notes.append(f"voxels of value {ignore} are not annotated: they are left out everywhere")
    single = {group[0]: name for name, group in values.items() if len(group) == 1}
    atoms = sorted({v for group in values.values() for v in group} - {0})
    name_of_value = {v: single.get(v, f"label {v}") for v in atoms}
    regions = {}
    if any(len(group) > 1 for group in values.values()):
        regions = {name: tuple(name_of_value[v] for v in group) for name, group in values.items()}
        notes.append("regions are unions of labels: " + ", ".join(regions))
    return (
        Schema(
            labels=tuple(Label(name_of_value[v], v) for v in atoms),
            regions=regions,
            lateral=lateral(name_of_value.values()),
            ignore=ignore,
        ),
        notes,
    )


def _ignored(root: Path, values: dict[str, tuple[int, ...]]) -> int | None:
    """Takes the value of the ignore label out of ``values``."""
    name = next((name for name in values if name.casefold() == IGNORE), IGNORE)
    ignored = values.pop(name, None)
    if ignored is None:
        return None
    others = {value for group in values.values() for value in group}
    if len(ignored) != 1 or ignored[0] == 0 or ignored[0] in others:
        raise LayoutError(
            f"expected one value of its own for the label {IGNORE!r}, got {list(ignored)}",
            where=root / "dataset.json",
            fix="give it a value that no structure and no background has",
            code="nnunet-json",
        )
    return ignored[0]
