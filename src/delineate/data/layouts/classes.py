"""One folder of flat images a class, possibly below ``Training``/``Testing`` or ``train``/``val``.

glioma/a.jpg  meningioma/b.jpg
Training/glioma/a.jpg  Testing/glioma/b.jpg     the split is kept
"""

from __future__ import annotations

import re
from pathlib import Path

from delineate.core.case import Case
from delineate.core.schema import Schema
from delineate.data.layouts._listing import (
    OWN_SUBJECT,
    RASTER,
    SPLITS,
    Listing,
    files,
    folders,
    ids,
    modality_of_file,
    relative,
    stem,
    suffix,
)
from delineate.data.layouts._names import of_folders

#: Folders that differ by a number alone are classes (grades) up to here, and subjects beyond.
MOST_NUMBERED = 10
LEAST_IMAGES = 2


def recognise(root: Path) -> bool:
    """Whether there are two class folders or more, each of several flat images and nothing else."""
    if not root.is_dir():
        return False
    places = _places(root)
    names = {name for name, _, _ in places}
    numbered = len({re.sub(r"\d+", "", name) for name in names}) == 1
    return (
        len(names) > 1
        and not (numbered and len(names) > MOST_NUMBERED)
        and not any(of_folders((name,)).role for name in names)
        and all(_is_class(folder) for _, folder, _ in places)
    )


def cases(root: Path) -> Listing:
    """One case an image; the class is the folder's name."""
    images: list[tuple[Path, str, str | None]] = []
    for name, folder, split in _places(root):
        images += [(path, name, split) for path in files(folder)]
    names = ids(root, [path.with_name(stem(path)) for path, _, _ in images])
    listed = tuple(
        Case(id=name, subject=name, images={"image": path}, class_name=class_name, split=split)
        for name, (path, class_name, split) in zip(names, images, strict=True)
    )
    used = {path for path, _, _ in images}
    return Listing(
        cases=listed,
        schema=Schema(classes=tuple(sorted({class_name for _, class_name, _ in images}))),
        modalities={"image": modality_of_file(images[0][0])} if images else {},
        notes=(OWN_SUBJECT, "classes are named after their folders"),
        unpaired=tuple(
            f"{relative(root, path)} (in no class)" for path in files(root) if path not in used
        ),
    )


def _places(root: Path) -> list[tuple[str, Path, str | None]]:
    """Class name, its folder and its split."""
    tops = folders(root)
    parts = [folder for folder in tops if folder.name.lower() in SPLITS]
    if parts:
        return [(f.name, f, SPLITS[p.name.lower()]) for p in parts for f in folders(p)]
    return [(folder.name, folder, None) for folder in tops]


def _is_class(folder: Path) -> bool:
    paths = files(folder)
    return len(paths) >= LEAST_IMAGES and all(suffix(path) in RASTER for path in paths)
