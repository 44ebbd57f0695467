"""The way home step by step, by SciPy: what ``preprocess.Inverse`` must agree with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def home(
    array: NDArray[Any], history: Sequence[Mapping[str, Any]], fill: Sequence[float] = (0.0,)
) -> NDArray[Any]:
    """``(C, *S')`` of a prepared image on the grid it came from; ``fill``: of what was cropped."""
    fills = np.broadcast_to(np.asarray(fill, array.dtype), len(array))
    return np.stack([_channel(c, history, f) for c, f in zip(array, fills, strict=True)])


def _channel(array: NDArray[Any], history: Sequence[Mapping[str, Any]], fill: Any) -> NDArray[Any]:
    for step in reversed(history):
        shape = step.get("from_shape")
        if step["step"] == "orient":
            array = np.flip(array, [a for a, flip in enumerate(step["flips"]) if flip])
            array = np.transpose(array, np.argsort(step["axes"]))
        elif step["step"] == "crop":
            whole = np.full(shape, fill, array.dtype)
            whole[tuple(slice(*side) for side in step["box"])] = array
            array = whole
        elif step["step"] == "resample":
            at = [
                (np.arange(n) + 0.5) * m / n - 0.5 for n, m in zip(shape, array.shape, strict=True)
            ]
            array = ndimage.map_coordinates(
                array, np.meshgrid(*at, indexing="ij"), order=1, mode="nearest"
            )
    return array
