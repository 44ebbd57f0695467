"""Voxels that nobody has annotated count on neither side of a comparison."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core.schema import IGNORED


def without_ignored(
    prediction: NDArray[Any], truth: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any], int]:
    """Both masks with background where the truth is ``IGNORED``, and how many voxels that is.

    A structure that goes on there ends at the border in both masks, so that the cut itself is no
    difference between them.

    Args:
        prediction: Label indices ``(*S)``; they are not changed.
        truth: The same.
    """
    ignored = truth == IGNORED
    count = int(np.count_nonzero(ignored))
    if count == 0:
        return prediction, truth, 0
    return np.where(ignored, 0, prediction), np.where(ignored, 0, truth), count
