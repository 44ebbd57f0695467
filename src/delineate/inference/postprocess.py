"""Post-processing that earned its place on validation data."""

from __future__ import annotations

from collections.abc import Sequence
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
