"""Several masks of one image, of which each marks another part, as one label map."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core.case import Masks
from delineate.core.errors import GeometryError, LabelError
from delineate.core.image import Image
from delineate.data.readers._placing import onto, union


def unite(masks: Sequence[Image], source: Masks) -> Image:
    """What any of the masks ``(1, *S)`` marks; where files name structures, each under its name.

    Raises:
        GeometryError: They lie on different grids.
        LabelError: Two mark the same part, as those of two observers do, or a voxel differently,
            or not all name theirs.
    """
    number = numbered([mask.meta.get("names") for mask in masks])
    meta = dict(masks[0].meta)
    if number:
        masks = [_renumbered(mask, number, path) for mask, path in zip(masks, source, strict=True)]
        meta["names"] = {n: name for name, n in number.items()}
    if any(mask.meta.get("partial") for mask in masks):
        meta["partial"] = True
    whole = reduce(union, [mask.grid for mask in masks])
    masks = [onto(mask, whole) for mask in masks]
    united = masks[0].array
    for path, mask in zip(source[1:], masks[1:], strict=True):
        if not masks[0].grid.same_as(mask.grid):
            raise GeometryError(
                f"expected the grid of {source[0].name}, got another",
                where=path,
                fix="make all masks of an image on the image's grid",
                code="masks-grid",
            )
        if number:  # what is named is of structures, not of observers
            _refuse_contradiction(united, mask, path, meta["names"])
        shared = np.count_nonzero((united != 0) & (mask.array != 0))
        smaller = min(np.count_nonzero(united), np.count_nonzero(mask.array))
        if 2 * shared > smaller:
            raise LabelError(
                f"expected masks of different parts, got one that shares {shared} of {smaller} "
                f"marked voxels with {source[0].name}",
                where=path,
                fix="if they are of several observers, name them _rater1, _rater2 and choose one "
                "with --observer; else take one away",
                code="masks-overlap",
            )
        _refuse_contradiction(united, mask, path, {})
        united = np.where(mask.array != 0, mask.array, united)
    return dataclasses.replace(masks[0], array=united, meta=meta)


def numbered(names: Sequence[Mapping[int, str] | None]) -> dict[str, int]:
    """Structure -> value in the united label map, from the names of each file."""
    all_names = [name for names_of_mask in names for name in (names_of_mask or {}).values()]
    return {name: n for n, name in enumerate(dict.fromkeys(all_names), start=1)}


def _renumbered(mask: Image, number: Mapping[str, int], path: Path) -> Image:
    names = mask.meta.get("names")
    present = [value for value in np.unique(mask.array).tolist() if value]
    if names is None or not set(present) <= names.keys():
        raise LabelError(
            f"expected a name of every structure, as in the other files, got {present}",
            where=path,
            fix="name the segments of every file",
            code="label-names",
        )
    array = np.zeros(mask.array.shape, np.min_scalar_type(len(number)))
    for value in present:
        array[mask.array == value] = number[names[value]]
    return dataclasses.replace(mask, array=array)


def _refuse_contradiction(
    united: NDArray[Any], mask: Image, path: Path, names: Mapping[int, str]
) -> None:
    """Refuse voxels that one mask calls this and another that: there is no one label of them."""
    shared = (united != 0) & (mask.array != 0) & (united != mask.array)
    if shared.any():
        first, second = (
            repr(names.get(value, value))
            for value in (int(array[shared][0]) for array in (united, mask.array))
        )
        raise LabelError(
            f"structures overlap: {first} and {second} share {int(shared.sum()):,} voxels",
            where=path,
            fix="a voxel has one label here: cut one structure out of the other and save again",
            code="label-overlap",
        )
