"""nnU-Net raw data, version 2: ``dataset.json`` with "channel_names" and "file_ending".

dataset.json
imagesTr/CASE_0000.nii.gz  imagesTr/CASE_0001.nii.gz    one file a channel
labelsTr/CASE.nii.gz
imagesTs/CASE_0000.nii.gz                               labelsTs/ may be there
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from delineate.core.case import Case
from delineate.core.errors import LayoutError
from delineate.core.schema import Label, Schema
from delineate.data.layouts._listing import (
    OWN_SUBJECT,
    Listing,
    files,
    lateral,
    load_json,
    modality,
    relative,
)


def recognise(root: Path) -> bool:
    """Whether ``dataset.json`` is nnU-Net's and there are training or test images."""
    document = load_json(root / "dataset.json")
    return (
        document is not None
        and {"channel_names", "labels"} <= document.keys()
        and any((root / name).is_dir() for name in ("imagesTr", "imagesTs"))
    )


def cases(root: Path) -> Listing:
    """Cases of ``imagesTr`` and ``imagesTs``; a case that lacks a channel is left out and noted."""
    document = load_json(root / "dataset.json") or {}
    channels = {int(n): str(name) for n, name in _object(root, document, "channel_names").items()}
    ending = str(document.get("file_ending", ".nii.gz"))
    schema, notes = _schema(root, _object(root, document, "labels"))
    found: list[Case] = []
    unpaired: list[str] = []
    for part, short in (("train", "Tr"), ("test", "Ts")):
        groups, strange = _channels(root / f"images{short}", ending)
        unpaired += [f"{relative(root, path)} (not CASE_0000{ending})" for path in strange]
        folder = root / f"labels{short}"
        labels = {p.name[: -len(ending)]: p for p in _files(folder) if p.name.endswith(ending)}
        for name, scans in groups.items():
            label = labels.pop(name, None)
            missing = [channels[i] for i in sorted(channels) if i not in scans]
            if missing:
                unpaired.append(f"{name} (left out: no {', '.join(missing)})")
                continue
            if label is None and part == "train":
                unpaired.append(f"{name} (no label)")
            images = {channels[i]: scans[i] for i in sorted(channels)}
            found.append(Case(name, name, images, label, split=part))
        unpaired += [f"{relative(root, path)} (no image)" for path in labels.values()]
    return Listing(
        cases=tuple(found),
        schema=schema,
        modalities={name: modality(name) for name in channels.values()},
        notes=(OWN_SUBJECT, *notes),
        unpaired=tuple(unpaired),
    )


def _files(folder: Path) -> list[Path]:
    return files(folder) if folder.is_dir() else []


def _channels(folder: Path, ending: str) -> tuple[dict[str, dict[int, Path]], list[Path]]:
    """Case -> channel number -> file, and files that are not named so."""
    pattern = re.compile(rf"(.+)_(\d{{4}}){re.escape(ending)}")
    groups: dict[str, dict[int, Path]] = {}
    strange = []
    for path in _files(folder):
        match = pattern.fullmatch(path.name)
        if match:
            groups.setdefault(match[1], {})[int(match[2])] = path
        else:
            strange.append(path)
    return groups, strange


def _object(root: Path, document: dict[str, Any], key: str) -> dict[str, Any]:
    value = document.get(key)
    if not isinstance(value, dict):
        raise LayoutError(
            f'expected "{key}" as an object, got {value!r}',
            where=root / "dataset.json",
            fix=f'write "{key}": {{...}}, as nnU-Net v2 does',
            code="nnunet-json",
        )
    return value


def _schema(root: Path, labels: dict[str, Any]) -> tuple[Schema, list[str]]:
    """Schema of nnU-Net labels, where a list of values is a region."""
    notes = []
    values: dict[str, tuple[int, ...]] = {}
    for name, value in labels.items():
        many = value if isinstance(value, list) else [value]
        try:
            values[name] = tuple(int(v) for v in many)
        except (TypeError, ValueError):
            raise LayoutError(
                f"expected a label value or a list of them for {name!r}, got {value!r}",
                where=root / "dataset.json",
                code="nnunet-json",
            ) from None
    values.pop("background", None)
    if ignored := values.pop("ignore", None):
        notes.append(
            f"the ignore label (value {ignored[0]}) is not among the labels: "
            "label files that hold it are refused"
        )
    single = {group[0]: name for name, group in values.items() if len(group) == 1}
    atoms = sorted({v for group in values.values() for v in group} - {0})
    named = {v: single.get(v, f"label {v}") for v in atoms}
    regions = {}
    if any(len(group) > 1 for group in values.values()):
        regions = {name: tuple(named[v] for v in group) for name, group in values.items()}
        notes.append("regions are unions of labels: " + ", ".join(regions))
    return (
        Schema(
            labels=tuple(Label(named[v], v) for v in atoms),
            regions=regions,
            lateral=lateral(named.values()),
        ),
        notes,
    )
