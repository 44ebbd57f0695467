"""Smooth random fields and named random streams: what every part of the phantom draws from."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]

#: Variance of a uniform cubic B-spline with unit normal coefficients, mean over a cell: 151 / 315.
_SPLINE_VARIANCE = 151 / 315


class Stream(IntEnum):
    """Purposes that draw apart, so that a new draw in one leaves the others as they are."""

    COHORT = 0
    PERSON = 1
    WARP = 2
    TUMOUR = 3
    GROWTH = 4
    TISSUE = 5
    SCAN = 6
    RENDER = 7
    TEMPLATE = 8


def stream(seed: int, purpose: Stream, index: int = 0) -> np.random.Generator:
    """The generator of one purpose and one subject: the same whoever asks, and when."""
    return np.random.default_rng([seed, int(purpose), index])


def spline(coefficients: Field, shape: tuple[int, ...]) -> Field:
    """Uniform cubic B-spline, read at the centres of ``shape`` equal cells along each axis.

    Args:
        coefficients: ``(n0, n1, n2)`` control points, at least four along each axis.
        shape: Output shape.
    """
    out = coefficients
    for axis, size in enumerate(shape):
        nodes = out.shape[axis] - 3
        place = (np.arange(size, dtype=np.float32) + 0.5) * (nodes / size)
        cell = np.minimum(place.astype(np.intp), nodes - 1)
        t = place - cell
        weights = (
            (1 - t) ** 3 / 6,
            (3 * t**3 - 6 * t**2 + 4) / 6,
            (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
            t**3 / 6,
        )
        column = tuple(-1 if a == axis else 1 for a in range(3))
        out = sum(
            w.astype(np.float32).reshape(column) * out.take(cell + k, axis=axis)
            for k, w in enumerate(weights)
        )
    return out


def noise(
    rng: np.random.Generator, shape: tuple[int, ...], spacing_mm: float, node_mm: float
) -> Field:
    """Smooth random field of about zero mean and unit variance.

    Args:
        rng: Where the control points come from.
        shape: Output shape.
        spacing_mm: Voxel size.
        node_mm: Distance of the control points; the field's Gaussian width is about 0.6 of it.
    """
    nodes = [max(1, round(n * spacing_mm / node_mm)) + 3 for n in shape]
    coarse = rng.standard_normal(nodes, dtype=np.float32)
    return spline(coarse / np.float32(_SPLINE_VARIANCE**1.5), shape)
