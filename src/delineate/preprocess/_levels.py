"""Grey levels and their counts, which equalisation and clustering share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Mask = NDArray[np.bool_]
#: OpenCV counts in float32, which holds whole numbers up to here.
_COUNTED = 1 << 24


def flat(array: Array) -> Array:
    """``(*S)`` as the two-dimensional array that OpenCV wants, without a copy where that can be."""
    array = np.ascontiguousarray(array)
    array = array.view(np.uint8) if array.dtype == np.bool_ else array
    return array.reshape(array.shape[0], -1)


def span(values: Array, mask: Mask | None = None) -> tuple[float, float]:
    """Smallest and largest value of ``(*S)`` inside the mask."""
    import cv2

    if values.dtype not in (np.uint8, np.uint16, np.int16, np.float32):
        inside = values if mask is None else values[mask]
        return float(inside.min()), float(inside.max())
    low, high, *_ = cv2.minMaxLoc(flat(values), mask=None if mask is None else flat(mask))
    return float(low), float(high)


def to_bytes(values: Array, low: float, high: float) -> NDArray[np.uint8]:
    """The nearest of 256 grey levels: ``low`` becomes 0, ``high`` 255, beyond is clamped."""
    import cv2

    scale = 255.0 / (high - low) if high > low else 0.0
    plain = flat(np.asarray(values, np.float32))
    grey: Any = cv2.addWeighted(plain, scale, plain, 0.0, -low * scale, dtype=cv2.CV_8U)
    levels: NDArray[np.uint8] = grey.reshape(values.shape)
    return levels


def count(levels: Array, bins: int, mask: Mask | None = None) -> NDArray[np.int64]:
    """How often each of ``bins`` levels occurs in ``(*S)`` of uint8 or uint16, inside the mask."""
    import cv2

    outside = 0
    if mask is not None:  # OpenCV counts a masked image ten times as slowly
        levels, outside = levels * mask, mask.size - int(np.count_nonzero(mask))
    total = np.zeros(bins, np.int64)
    whole = np.ascontiguousarray(levels).reshape(-1)
    for start in range(0, whole.size, _COUNTED):
        part = whole[start : start + _COUNTED].reshape(1, -1)
        total += cv2.calcHist([part], [0], None, [bins], [0, bins]).ravel().astype(np.int64)
    total[0] -= outside
    return total
