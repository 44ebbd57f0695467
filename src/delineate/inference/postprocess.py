"""Post-processing that earned its place on validation data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

#: Name of the rule that looks at all labels as one, for structures that touch.
TOGETHER = "all structures together"
#: Voxels that are counted at once: NumPy makes eight bytes of each.
_COUNTED = 1 << 16


def keep_largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected component of ``(*S)``; neighbours may touch at a corner.

    Of components of one size the first in array order is kept; an empty mask stays empty.
    """
    parts, count = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
    if count < 2:
        return mask
    sizes = np.zeros(count + 1, dtype=np.intp)
    flat, step = parts.ravel(), max(_COUNTED, count)
    for start in range(0, flat.size, step):
        sizes += np.bincount(flat[start : start + step], minlength=count + 1)
    sizes[0] = 0
    largest: NDArray[np.bool_] = parts == sizes.argmax()
    return largest


def keep_largest_components(
    labels: NDArray[Any], rules: Sequence[int], together: bool = False
) -> NDArray[Any]:
    """Set every voxel outside the largest component of its label to background.

    Args:
        labels: ``(*S)`` label indices, 0 is background.
        rules: Label indices to which this applies.
        together: First, what is outside the largest component of all labels becomes background.

    Returns:
        ``(*S)`` of the same type; the input itself is not changed.
    """
    cleaned = labels.copy()
    if together:
        cleaned[~keep_largest(labels > 0)] = 0
    for index in rules:
        mask = cleaned == index
        cleaned[mask & ~keep_largest(mask)] = 0
    return cleaned


def without_specks(
    labels: NDArray[Any], least: Mapping[int, float], voxel_volume: float
) -> tuple[NDArray[Any], dict[int, float]]:
    """Take away every structure that is smaller, as a whole, than it can be.

    Each of its components becomes what touches it most: a speck of rim in a core is core.

    Args:
        labels: ``(*S)`` label indices, 0 is background.
        least: Label index -> the volume below which it is none.
        voxel_volume: Of one voxel, in the same unit.

    Returns:
        ``(*S)`` of the same type, the input itself where nothing changes; and the volume of each
        structure that was taken away.
    """
    cleaned, removed = labels, dict[int, float]()
    for index, volume in least.items():
        mask = cleaned == index
        count = int(np.count_nonzero(mask))
        if not 0 < count * voxel_volume < volume:
            continue
        cleaned = cleaned.copy() if cleaned is labels else cleaned
        parts, number = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
        for part, box in enumerate(ndimage.find_objects(parts, number), start=1):
            around = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in box)
            inside = parts[around] == part
            ring = ndimage.binary_dilation(inside) & ~mask[around]
            neighbours = cleaned[around][ring]
            cleaned[around][inside] = np.bincount(neighbours).argmax() if neighbours.size else 0
        removed[index] = count * voxel_volume
    return cleaned, removed
