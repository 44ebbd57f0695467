"""Medical Segmentation Decathlon: ``dataset.json`` with "modality", "labels" and "training".

dataset.json
imagesTr/NAME.nii.gz    one volume, or several channels as a fourth axis
labelsTr/NAME.nii.gz
imagesTs/NAME.nii.gz    without labels
"""

from __future__ import annotations

from collections.abc import Iterable
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
    stem,
)


def recognise(root: Path) -> bool:
    """Whether ``dataset.json`` is the Decathlon's."""
    document = load_json(root / "dataset.json")
    return document is not None and {"training", "labels", "modality"} <= document.keys()


def cases(root: Path) -> Listing:
    """Cases of ``dataset.json``; entries without a file and files without an entry are noted."""
    document = load_json(root / "dataset.json") or {}
    channels = _named(root, document, "modality")
    labels = {v: n for v, n in _named(root, document, "labels").items() if v != 0}
    ignored = next((value for value, name in labels.items() if name.casefold() == IGNORE), None)
    labels.pop(ignored or 0, None)
    listed: list[Case] = []
    unpaired: list[str] = []
    used: set[Path] = set()
    meta = {"channels": [channels[i] for i in sorted(channels)]} if len(channels) > 1 else {}
    for part, key in (
        ("train", "training"),
        ("validation", "validation"),
        ("test", "test"),
    ):
        for item in document.get(key) or []:
            names = item if isinstance(item, dict) else {"image": item}
            image, label = entry(root, names.get("image")), entry(root, names.get("label"))
            used |= {path for path in (image, label) if path}
            if image is None:
                unpaired.append(f"{names.get('image')} (in dataset.json, not on disk)")
                continue
            if label is None and part == "train":
                unpaired.append(f"{relative(root, image)} (no label)")
            name = stem(image)
            listed.append(Case(name, name, {"image": image}, label, split=part, meta=meta))
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        unpaired += [
            f"{relative(root, path)} (not in dataset.json)"
            for path in (files(root / folder) if (root / folder).is_dir() else [])
            if path not in used
        ]
    return Listing(
        cases=tuple(listed),
        schema=Schema(
            labels=tuple(Label(labels[value], value) for value in sorted(labels)),
            lateral=lateral(labels.values()),
            ignore=ignored,
        ),
        modalities=_modalities(channels.values()),
        notes=(OWN_SUBJECT,),
        unpaired=tuple(unpaired),
    )


def _modalities(channels: Iterable[str]) -> dict[str, str]:
    """Of the image, if all of its channels are of one, and of each channel."""
    known = {name: modality(name) for name in channels}
    kinds = set(known.values())
    return {"image": kinds.pop() if len(kinds) == 1 else "unknown", **(known if kinds else {})}


def _named(root: Path, document: dict[str, Any], key: str) -> dict[int, str]:
    """A ``{"0": name}`` object with its keys as integers."""
    try:
        return {int(number): str(name) for number, name in document[key].items()}
    except (AttributeError, ValueError):
        raise LayoutError(
            f'expected "{key}" as an object of numbers and names, got {document[key]!r}',
            where=root / "dataset.json",
            fix=f'write "{key}": {{"0": "...", "1": "..."}}',
            code="msd-json",
        ) from None
