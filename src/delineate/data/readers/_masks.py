"""Several masks of one image, of which each marks another part, as one label map."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from delineate.core.case import Masks
from delineate.core.errors import GeometryError, LabelError
from delineate.core.image import TOLERANCE_MM, Image


def unite(masks: Sequence[Image], source: Masks) -> Image:
    """What any of the masks ``(1, *S)`` marks.

    Raises:
        GeometryError: They lie on different grids.
        LabelError: Two mark the same part, as those of two observers do.
    """
    united = masks[0].array
    for path, mask in zip(source[1:], masks[1:], strict=True):
        ours, theirs = masks[0].grid, mask.grid
        if ours.shape != theirs.shape or ours.difference_mm(theirs) > TOLERANCE_MM:
            raise GeometryError(
                f"expected the grid of {source[0].name}, got another",
                where=path,
                fix="make all masks of an image on the image's grid",
                code="masks-grid",
            )
        both = np.count_nonzero((united != 0) & (mask.array != 0))
        least = min(np.count_nonzero(united), np.count_nonzero(mask.array))
        if 2 * both > least:
            raise LabelError(
                f"expected masks of different parts, got one that shares {both} of {least} marked "
                f"voxels with {source[0].name}",
                where=path,
                fix="if they are of several observers, name them _rater1, _rater2 and choose one "
                "with --observer; else take one away",
                code="masks-overlap",
            )
        united = np.where(mask.array != 0, mask.array, united)
    return dataclasses.replace(masks[0], array=united)
