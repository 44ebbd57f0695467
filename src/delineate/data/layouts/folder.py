"""Images with masks: ``images/`` and ``masks/`` side by side, or ``NAME_mask`` beside ``NAME``.

    images/a.png  masks/a.png              sibling folders, also below train/ val/ test/
    images/a.png  labels/a_mask.png        the mask may carry a suffix
    x/a.png       x/a_mask.png             beside each other, in the root or in subfolders
    x/image.nii   x/mask.nii               one pair a folder
    x/PET_image.nii  x/PET_mask.nii        several pairs a folder: the name tells the channel

A subfolder is a subject. Where a mask has rivals (``_1stHO``, ``_2ndHO``: two observers), the first
is the label and the second is kept in ``meta``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from delineate.core.case import Case
from delineate.core.errors import LayoutError
from delineate.data.layouts._listing import (
    FOLDER_SUBJECT,
    OWN_SUBJECT,
    SPLITS,
    Listing,
    files,
    folders,
    ids,
    modality,
    modality_of_file,
    relative,
    schema_from_files,
    stem,
)

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "scans")
LABEL_FOLDERS = ("masks", "mask", "labels", "label", "segmentations", "annotations", "gt")
_LABEL = re.compile(
    r"(?:^|[_\-.])(?:mask|masks|seg|segmentation|label|labels|gt|roi|manual\d?|1stho|2ndho)$", re.I
)
_IMAGE = re.compile(r"(?:^|[_\-.])(?:image|img|scan)$", re.I)
_SECOND = re.compile(r"(?:2ndho|manual2)$", re.I)


def recognise(root: Path) -> bool:
    """Whether images and masks lie side by side, or at least one mask lies beside its image."""
    if not root.is_dir():
        return False
    return bool(_siblings(root)) or any(first for _, first, _ in _beside(root)[0])


def cases(root: Path) -> Listing:
    """Pairs of images and masks; whatever finds no partner is noted.

    Raises:
        LayoutError: No image has a mask.
    """
    places = _siblings(root)
    pairs, unpaired = _in_siblings(root, places) if places else _beside(root)
    if not any(label for _, label, _ in pairs):
        raise LayoutError(
            f"expected masks that are named like their images, got none among {len(pairs)} images: "
            + "; ".join(unpaired[:6]),
            where=root,
            fix="give masks the names of their images, or write a table with the columns "
            "image and label",
            code="no-pairs",
        )
    return _listing(root, pairs, unpaired, bool(places))


#: Image, its mask or None, and a second observer's mask or None.
_Pair = tuple[Path, Path | None, Path | None]


def _listing(root: Path, pairs: list[_Pair], unpaired: list[str], siblings: bool) -> Listing:
    bases = [image.with_name(_IMAGE.sub("", stem(image)) or "image") for image, _, _ in pairs]
    repeated = Counter(base.name for base in bases)
    # "images" says nothing of the case: train/images/a is train_a, s1/image is s1.
    plain = [
        root.joinpath(*(p for p in base.relative_to(root).parts if p.lower() not in IMAGE_FOLDERS))
        for base in bases
    ]
    names = ids(root, bases if root in plain or len(set(plain)) < len(plain) else plain)
    nested = not siblings and any(base.parent != root for base in bases)
    found = []
    for name, base, (image, label, second) in zip(names, bases, pairs, strict=True):
        parts = Path(relative(root, image)).parts[:-1]
        declared = [SPLITS[p.lower()] for p in parts if p.lower() in SPLITS]
        own = [p for p in parts if p.lower() not in SPLITS]
        # A name that comes back from folder to folder is what was scanned, not who.
        channel = base.name.lower() if nested and repeated[base.name] > 1 else "image"
        found.append(
            Case(
                id=name,
                subject="/".join(own) if nested and own else name,
                images={channel: image},
                label=label,
                split=declared[0] if declared else None,
                meta={"second_label": relative(root, second)} if second else {},
            )
        )
    schema, notes = schema_from_files([case.label for case in found if case.label])
    firsts = {channel: source for case in found for channel, source in case.images.items()}
    return Listing(
        cases=tuple(found),
        schema=schema,
        modalities={
            c: modality(c) if c != "image" else modality_of_file(firsts[c]) for c in firsts
        },
        notes=(
            FOLDER_SUBJECT if nested else OWN_SUBJECT,
            *notes,
            *(["a second observer's masks are in meta: second_label"] * any(p[2] for p in pairs)),
            *([f"cases have different channels: {', '.join(sorted(firsts))}"] * (len(firsts) > 1)),
        ),
        unpaired=tuple(unpaired),
    )


def _siblings(root: Path) -> list[tuple[Path, Path]]:
    """Pairs of an image folder and a label folder, in the root or in train/, val/, test/."""
    places = [root, *(f for f in folders(root) if f.name.lower() in SPLITS)]
    pairs = []
    for place in places:
        names = {folder.name.lower(): folder for folder in folders(place)}
        image = next((names[n] for n in IMAGE_FOLDERS if n in names), None)
        label = next((names[n] for n in LABEL_FOLDERS if n in names), None)
        if image and label:
            pairs.append((image, label))
    return pairs


def _in_siblings(root: Path, places: list[tuple[Path, Path]]) -> tuple[list[_Pair], list[str]]:
    pairs: list[_Pair] = []
    unpaired: list[str] = []
    for images, labels in places:
        masks: dict[Path, Path] = {}
        for path in files(labels):
            key = _key(path.relative_to(labels))
            if key in masks:
                unpaired.append(f"{relative(root, path)} (another mask of the same image)")
            masks.setdefault(key, path)
        for image in files(images):
            mask = masks.pop(_key(image.relative_to(images)), None)
            pairs.append((image, mask, None))
            unpaired += [] if mask else [f"{relative(root, image)} (no label)"]
        unpaired += [f"{relative(root, path)} (no image)" for path in masks.values()]
    return pairs, unpaired


def _key(path: Path) -> Path:
    """What an image and its mask have in common."""
    name = stem(path)
    return path.with_name(_IMAGE.sub("", _LABEL.sub("", name)) or name)


def _beside(root: Path) -> tuple[list[_Pair], list[str]]:
    pairs: list[_Pair] = []
    unpaired: list[str] = []
    for folder, group in _by_folder(files(root)):
        labels = [path for path in group if _LABEL.search(stem(path))]
        firsts: dict[str, Path] = {}
        seconds: dict[str, Path] = {}
        for path in labels:
            table = seconds if _SECOND.search(stem(path)) else firsts
            if table.setdefault(_base(path), path) != path:
                unpaired.append(f"{relative(root, path)} (another mask of the same image)")
        for image in (path for path in group if path not in labels):
            base = _IMAGE.sub("", stem(image))
            label = firsts.pop(base, None)
            pairs.append((image, label, seconds.pop(base, None)))
            unpaired += [] if label else [f"{relative(root, image)} (no label)"]
        lonely = [*firsts.values(), *seconds.values()]
        unpaired += [f"{relative(root, folder / path.name)} (no image)" for path in lonely]
    return pairs, unpaired


def _base(label: Path) -> str:
    """Name of a mask's image without the words "image" and "mask"."""
    return _IMAGE.sub("", _LABEL.sub("", stem(label)))


def _by_folder(paths: list[Path]) -> Iterator[tuple[Path, list[Path]]]:
    groups: dict[Path, list[Path]] = {}
    for path in paths:
        groups.setdefault(path.parent, []).append(path)
    yield from groups.items()
