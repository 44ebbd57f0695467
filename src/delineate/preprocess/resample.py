"""Change the voxel size, keeping the field of view.

Interpolation by splines is separable, so each axis is resampled by itself: order 0 picks, order 1
mixes two neighbours, order 3 multiplies with the matrix of the one-dimensional cubic B-spline
interpolator. The voxel edges of the first and last voxel stay where they are, so the new spacing
is extent / count: as near to the target as a whole number of voxels allows, and the affine says
exactly which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core.image import Grid, Image
from delineate.preprocess.orient import grid_facts

#: Spacings that differ by less than this share are taken as equal.
SAME_SPACING = 0.01
#: Through-plane spacing over in-plane spacing from which slices are not mixed by cubic splines.
ANISOTROPIC = 3.0


def resample(image: Image, spacing_mm: Sequence[float | None], order: int = 3) -> Image:
    """Resample ``(C, *S)`` to a voxel size near ``spacing_mm``.

    Values stay within the range of each channel (cubic splines would overshoot). Where voxels are
    more than three times as long along one axis, that axis goes by order 1 at most, because
    cubic splines ring across thick slices (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z,
    treat it apart for the same reason). Arrays of an integer type are label maps: they go by
    linear interpolation of each label's mask and the largest wins, or by ``order=0``.

    Args:
        image: Any image; label maps as integers.
        spacing_mm: Target by axis, None to keep an axis as it is.
        order: 3 cubic, 1 linear, 0 nearest.
    """
    shape = new_shape(image.grid, spacing_mm)
    if shape == image.grid.shape:
        return image
    orders = _orders(image.grid, spacing_mm, order)
    step = {
        "spacing_mm": list(spacing_mm), "orders": orders, "shape": list(shape),
        **grid_facts(image.grid),
    }  # fmt: skip
    return image.with_step("resample", replay(image.array, step), _grid(image.grid, shape), **step)


def new_shape(grid: Grid, spacing_mm: Sequence[float | None]) -> tuple[int, ...]:
    """Shape after resampling; axes within 1 % of their target keep their count."""
    return tuple(
        n if to is None or abs(mm / to - 1) <= SAME_SPACING else max(1, round(n * mm / to))
        for n, mm, to in zip(grid.shape, grid.spacing_mm, spacing_mm, strict=True)
    )


def replay(array: NDArray[Any], step: Mapping[str, Any], order: int | None = None) -> NDArray[Any]:
    """Do a recorded step to another array ``(C, *S)`` of the same grid."""
    orders = [min(o, 3 if order is None else order) for o in step["orders"]]
    return _to_shape(array, tuple(step["shape"]), orders)


def undo_rows(
    array: NDArray[Any], step: Mapping[str, Any], axis: int, first: int, rows: slice
) -> NDArray[Any]:
    """Undo a recorded step by linear interpolation, for some rows of one channel.

    What a row becomes does not depend, to the last bit, on which others are asked for.

    Args:
        array: ``(*S')``, of ``axis`` only the indices from ``first`` on that the rows need.
        step: The recorded step.
        axis: Along which rows are counted.
        first: Index along ``axis`` at which the array begins.
        rows: Wanted indices along ``axis`` after the undoing.
    """
    olds, news = step["shape"], step["from_shape"]
    for a in _sequence(olds, news):
        if a == axis:
            array = _linear(array, positions(olds[a], news[a])[rows] - first, a)
        elif olds[a] != news[a]:
            array = _linear(array, positions(olds[a], news[a]), a)
    return array


def positions(old: int, new: int) -> NDArray[np.float64]:
    """Where the centres of ``new`` voxels lie among those of ``old`` over the same length."""
    places: NDArray[np.float64] = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return places


def _sequence(olds: Sequence[int], news: Sequence[int]) -> list[int]:
    """Axes in the order in which they are resampled: those that shrink first."""
    return sorted(range(len(olds)), key=lambda a: news[a] / olds[a])


def _orders(grid: Grid, spacing_mm: Sequence[float | None], order: int) -> list[int]:
    """Order by axis: at most linear along an axis far coarser than the finest."""
    coarse = [False] * grid.ndim
    target = [to or mm for mm, to in zip(grid.spacing_mm, spacing_mm, strict=True)]
    for spacing in (grid.spacing_mm, target):
        for axis, mm in enumerate(spacing):
            coarse[axis] |= mm > ANISOTROPIC * min(spacing)
    return [min(order, 1) if c else order for c in coarse]


def _grid(grid: Grid, shape: tuple[int, ...]) -> Grid:
    """The grid of ``shape`` voxels over the same field of view."""
    scale = np.ones(3)
    scale[: grid.ndim] = np.divide(grid.shape, shape)
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ (0.5 * scale - 0.5)
    affine[:3, :3] *= scale
    return Grid(shape, affine, grid.oriented, grid.spacing_known)


def _to_shape(array: NDArray[Any], shape: tuple[int, ...], orders: Sequence[int]) -> NDArray[Any]:
    """Resample ``(C, *S)`` to ``(C, *shape)``, one channel and one axis at a time."""
    if array.shape[1:] == shape:
        return array
    integer = not np.issubdtype(array.dtype, np.floating)
    out = np.empty((array.shape[0], *shape), dtype=array.dtype if integer else np.float32)
    for target, channel in zip(out, array, strict=True):
        if not integer:
            target[...] = _separable(channel.astype(np.float32, copy=False), shape, orders)
            if max(orders) > 1:
                np.clip(target, channel.min(), channel.max(), out=target)
        elif max(orders) == 0:
            target[...] = _separable(channel, shape, orders)
        else:
            target[...] = _labels(channel, shape, [min(o, 1) for o in orders])
    return out


def _labels(labels: NDArray[Any], shape: tuple[int, ...], orders: Sequence[int]) -> NDArray[Any]:
    """Linear interpolation of each label's mask; the largest wins, the lower label a tie."""
    values = np.unique(labels)
    out = np.full(shape, values[0], dtype=labels.dtype)
    best = np.full(shape, -np.inf, dtype=np.float32)
    for value in values:
        share = _separable((labels == value).astype(np.float32), shape, orders)
        # Shares of equal size differ in the last bit, which must not decide.
        larger = share > best + 1e-6
        out[larger], best[larger] = value, share[larger]
    return out


def _separable(array: NDArray[Any], shape: tuple[int, ...], orders: Sequence[int]) -> NDArray[Any]:
    """Resample ``(*S)`` axis by axis, those that shrink first."""
    for axis in _sequence(array.shape, shape):
        old, new = array.shape[axis], shape[axis]
        if old == new:
            continue
        where = positions(old, new)
        if orders[axis] == 0 or old == 1:
            # Half-way cases go down, as in the label rule that the lower one wins.
            array = np.take(array, np.ceil(where - 0.5 - 1e-9).astype(np.intp), axis=axis)
        elif orders[axis] == 1:
            array = _linear(array, where, axis)
        else:
            array = _multiply(_matrix(old, new), array, axis)
    return array


def _linear(array: NDArray[Any], where: NDArray[np.float64], axis: int) -> NDArray[Any]:
    """Mix two neighbours along ``axis``."""
    low = np.floor(where).astype(np.intp)
    high = np.minimum(low + 1, array.shape[axis] - 1)
    shape = [1] * array.ndim
    shape[axis] = -1
    weight = (where - low).astype(array.dtype).reshape(shape)
    out: NDArray[Any] = np.take(array, high, axis=axis)
    base = np.take(array, low, axis=axis)
    out -= base
    out *= weight
    out += base
    return out


def _multiply(matrix: NDArray[Any], array: NDArray[Any], axis: int) -> NDArray[Any]:
    """Multiply ``(new, old)`` with ``axis`` of an array, moving no axis."""
    before, after = array.shape[:axis], array.shape[axis + 1 :]
    if not after:
        last: NDArray[Any] = np.matmul(array, matrix.T)
        return last
    stack = np.ascontiguousarray(array).reshape(-1, array.shape[axis], int(np.prod(after)))
    product: NDArray[Any] = np.matmul(matrix, stack)
    return product.reshape(*before, matrix.shape[0], *after)


@lru_cache(maxsize=64)
def _matrix(old: int, new: int) -> NDArray[np.float32]:
    """The ``(new, old)`` matrix of cubic B-spline interpolation with edges repeated."""
    from scipy.ndimage import map_coordinates

    where = (np.arange(new) + 0.5) * old / new - 0.5
    columns = [map_coordinates(unit, [where], order=3, mode="nearest") for unit in np.eye(old)]
    return np.stack(columns, axis=1).astype(np.float32)
