"""What a label file stores -> whole numbers, or the reason why there are none.

Values may only change where the file itself shows what they were: by the rounding of its scale, or
of a lossy mask of two values. What was done is said; everything else is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from delineate.core.errors import LabelError

Labels = tuple[NDArray[Any], tuple[str, ...]]

#: A coarser step of ``scl_slope`` than this could turn one whole number into its neighbour.
_COARSEST = 0.5
#: Values this near to whole numbers were labels once.
_NEARLY = 0.05
#: A lossy mask of two values holds none between these.
DARK, _BRIGHT = 15, 240
#: Greys are edges if so many of them lie between a smaller and a larger value.
_EDGES = 0.95
_ROUND = (
    "labels seem to have been scaled or stored as fractions: round them (numpy.rint) and store "
    "them as integers, without scl_slope"
)
_COARSE = (
    "the scale is too coarse to tell labels apart, or these are no labels: write them again from "
    "their source as integers, without scl_slope"
)
_RESAMPLED = "if it was resampled with interpolation, make it again with nearest neighbour"
_FLOAT32 = float(np.finfo(np.float32).eps)


def whole(values: NDArray[Any], path: Path) -> Labels:
    """Values as integers, and notes: integer types as they are, whole floats as int32.

    Raises:
        LabelError: A value is not a whole number, not finite or beyond 32 bits.
    """
    if values.dtype == np.bool_:
        return values.astype(np.uint8), ()
    if values.dtype.kind in "iu":
        return values.astype(values.dtype.newbyteorder("="), copy=False), ()
    noise = 4 * max(_FLOAT32, float(np.finfo(values.dtype).eps))
    with np.errstate(invalid="ignore"):
        rounded = np.rint(values)
        distance = np.abs(values - rounded)
        not_whole = ~(
            (distance <= noise * np.maximum(1, np.abs(values))) & (np.abs(values) < 2**31)
        )
    if not_whole.any():
        raise _not_whole(values[not_whole], path, "")
    off = values[distance > 0]
    notes = (f"values such as {off[0]:.8g} were rounded to whole numbers",) if off.size else ()
    return rounded.astype(np.int32), notes


def unscaled(stored: NDArray[Any], slope: float, intercept: float, path: Path) -> Labels:
    """Whole numbers that were stored through a scale, and notes.

    A writer that scales labels into the range of an integer type stores the step nearest to each:
    a label is found again if no step is coarser than half a label, and each label has one step.

    Raises:
        LabelError: The scale does not explain why the values are not whole.
    """
    steps = np.unique(stored)
    values = steps * np.float64(slope) + intercept
    labels = np.rint(values)
    distance = np.abs(values - labels)
    exact = np.maximum(1e-4, 4 * _FLOAT32 * np.abs(values))
    nearest = abs(slope) / 2 if stored.dtype.kind in "iu" and abs(slope) < _COARSEST else 0.0
    explained = (distance <= exact + nearest) & (np.abs(labels) < 2**31)
    if not explained.all() or len(np.unique(labels)) < len(labels):
        unexplained = values[~explained] if not explained.all() else values[distance > exact]
        raise _not_whole(
            unexplained, path, f" through scl_slope {slope:.6g} and scl_inter {intercept:g}"
        )
    notes: tuple[str, ...] = ()
    if (distance > exact).any():
        first = int(np.argmax(distance > exact))
        notes = (
            f"stored through scl_slope {slope:.6g}, so that {labels[first]:g} reads as "
            f"{values[first]:.7g}: rounded to whole numbers",
        )
    return labels.astype(np.int32)[np.searchsorted(steps, stored)], notes


def lossless(labels: NDArray[Any], jpeg: bool, path: Path) -> Labels:
    """A mask whose values have survived, and notes.

    A JPEG may turn any value into its neighbours, so that it can hold two structures of 0 and 255
    at most: of these, values close to either are taken for it. A lossless file with values close
    to both was made from such a JPEG, or holds labels that lie so; which, it does not say.

    Raises:
        LabelError: The values are not those that were meant, or nobody can tell.
    """
    if not labels.size or labels.min() < 0 or labels.max() > 255:
        return labels, ()
    if not jpeg and labels.max() < _BRIGHT:
        return labels, ()
    present = np.zeros(256, np.bool_)
    for plane in labels[0] if len(labels) == 1 else labels:
        present[plane] = True  # much faster than sorting
    values = np.flatnonzero(present).tolist()
    between = [v for v in values if DARK < v < _BRIGHT]
    grey_values = [v for v in values if v not in (0, 255)]
    at_both_ends = (
        grey_values and not between and min(grey_values) <= DARK and max(grey_values) >= _BRIGHT
    )
    edges = not jpeg and len(between) > 1 and _only_edges(labels[0])
    if not grey_values or not (jpeg or edges or (at_both_ends and {0, 255} <= set(values))):
        return labels, ()
    listed = ", ".join(map(str, values[:8])) + (" …" if len(values) > 8 else "")
    two = values[0] <= DARK and values[-1] >= _BRIGHT and not between
    if jpeg and two:
        note = f"JPEG is lossy: {listed} were read as 0 and 255, no value lies between"
        return np.where(labels > 127, 255, 0).astype(np.uint8), (note,)
    cause = "JPEG is lossy" if jpeg else "a lossless copy of a lossy mask"
    cause = "greys along edges alone, as interpolation makes them" if edges else cause
    raise LabelError(
        f"{cause}: {len(values)} different values ({listed}), where a mask of two has 0 and 255",
        where=path,
        fix="use the original mask as PNG or TIFF, resized by nearest neighbour if at all"
        + ("; thresholding would guess at the outline" if between and jpeg else "")
        + (", or set all above 127 to 255 and the rest to 0" if not jpeg else ""),
        code="label-lossy",
    )


def _only_edges(labels: NDArray[Any]) -> bool:
    """Whether values other than 0 and 255 lie between a smaller and a larger one, everywhere.

    So do the edges of a mask that was resized with interpolation; structures have an inside.
    """
    between = (labels != 0) & (labels != 255)
    if not between.any() or (labels == 255).sum() < between.sum() / 2:
        return False
    size = (3,) * 2 + (1,) * (labels.ndim - 2)
    low = ndimage.minimum_filter(labels, size)[between]
    high = ndimage.maximum_filter(labels, size)[between]
    inner = labels[between]
    return bool(((low < inner) & (inner < high)).mean() > _EDGES)


def _not_whole(wrong: NDArray[Any], path: Path, through_scale: str) -> LabelError:
    values = np.unique(wrong)
    examples = ", ".join(f"{v:.7g}" for v in values[:6].tolist())
    nearly = np.isfinite(values).all() and np.abs(values - np.rint(values)).max() <= _NEARLY
    return LabelError(
        f"expected whole numbers, got {wrong.size:,} other values such as "
        f"{examples}{through_scale}",
        where=path,
        fix=_ROUND if nearly else _COARSE if through_scale else _RESAMPLED,
        code="label-not-integer",
    )
