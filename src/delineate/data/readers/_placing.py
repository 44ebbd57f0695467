"""Segmentations that leave out what is empty, brought onto the whole grid of an image.

DICOM SEG omits empty slices, 3D Slicer crops to what is drawn. Voxels move to voxels, by whole
steps, swaps and flips of axes; nothing is interpolated.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from delineate.core.errors import GeometryError
from delineate.core.image import TOLERANCE_MM, FloatArray, Grid, Image

#: Voxels that lie nearer than this share of their size are the same.
_SHARE = 0.01


def onto(label: Image, grid: Grid, where: object = None) -> Image:
    """A label map ``(1, *S)`` on another grid, background where it says nothing.

    Args:
        label: With ``meta["partial"]``, where its file leaves out what is empty.
        grid: Of the image.
        where: The file, for errors.

    Left as it is where its file holds all of its grid, or where its voxels do not lie on those of
    ``grid``: whoever compares the two grids says so. A flat image is a volume of one slice, and
    the other way round, where both say how they lie in the body.

    Raises:
        GeometryError: Something is drawn outside of ``grid``.
    """
    if not label.meta.get("partial"):
        return _of_one_slice(label, grid)
    if label.grid.ndim == 2 and not label.grid.oriented and label.grid.shape == grid.shape:
        return dataclasses.replace(label, grid=grid, meta=_whole(label))  # pixel by pixel
    steps = _steps(label.grid, grid, float(label.meta.get("slack_mm", 0.0)))
    if steps is None:
        return label
    turn, start = np.rint(steps[:3, :3]).astype(int), np.rint(steps[:3, 3]).astype(int)
    axes = [int(np.abs(turn[a]).argmax()) for a in range(3)]  # of the label, in the grid's order
    array = label.array[0].transpose(axes)
    source, target = [], []
    for axis, n in enumerate(grid.shape):
        size, sign = array.shape[axis], int(turn[axis, axes[axis]])
        low = int(start[axis]) if sign > 0 else int(start[axis]) - size + 1
        array = array if sign > 0 else np.flip(array, axis)
        source.append(slice(max(0, -low), max(0, min(size, n - low))))
        target.append(slice(max(0, low), max(0, min(n, low + size))))
    out = np.zeros(grid.shape, array.dtype)
    inside = array[tuple(source)]
    if np.count_nonzero(inside) < np.count_nonzero(array):
        raise GeometryError(
            "structures are drawn outside of the image that the segmentation is placed on",
            where=where if where is None else str(where),
            fix="give the image that they were drawn on",
            code="label-outside",
        )
    if inside.size:
        out[tuple(target)] = inside
    return dataclasses.replace(label, array=out[None], grid=grid, meta=_whole(label))


def union(grid: Grid, other: Grid) -> Grid:
    """The least grid of ``grid``'s voxels that holds both; ``grid`` where they share no voxels."""
    steps = _steps(other, grid)
    if steps is None:
        return grid
    corners = np.rint(steps[:3] @ _corners(other.shape)).astype(int)
    low = np.minimum(corners.min(1), 0)
    high = np.maximum(corners.max(1) + 1, grid.shape)
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ low
    return Grid(tuple(high - low), affine, grid.oriented, grid.spacing_known)


def _of_one_slice(label: Image, grid: Grid) -> Image:
    shapes = {len(g.shape): g.shape for g in (label.grid, grid)}
    known = label.grid.oriented and grid.oriented
    if not known or len(shapes) < 2 or shapes[3] != (*shapes[2], 1):
        return label
    deep = [Grid(shapes[3], g.affine, True, g.spacing_known) for g in (label.grid, grid)]
    if not deep[0].same_as(deep[1]):
        return label
    return dataclasses.replace(label, array=label.array.reshape(1, *grid.shape), grid=grid)


def _whole(label: Image) -> dict[str, object]:
    return {**label.meta, "partial": False}


def _steps(label: Grid, grid: Grid, slack_mm: float = 0.0) -> FloatArray | None:
    """Voxel of ``label`` -> voxel of ``grid``, ``(4, 4)``; None where they do not meet.

    They meet if corners lie within a hundredth of a voxel. Slices may be off by ``slack_mm`` more
    along their normal: a series is not always even.
    """
    if label.ndim != 3 or grid.ndim != 3 or label.oriented != grid.oriented:
        return None
    steps = np.rint(np.linalg.solve(grid.affine, label.affine))
    turn = np.abs(steps[:3, :3])
    if (turn.sum(0) != 1).any() or (turn.sum(1) != 1).any():
        return None
    corner_offsets = (grid.affine @ steps - label.affine)[:3] @ _corners(label.shape)
    normal = label.affine[:3, 2] / label.spacing_mm[2]
    along = normal @ corner_offsets
    across = np.linalg.norm(corner_offsets - np.outer(normal, along), axis=0)
    tolerance_mm = max(TOLERANCE_MM, _SHARE * min(label.spacing_mm))
    fits = across.max() <= tolerance_mm and np.abs(along).max() <= tolerance_mm + slack_mm
    return steps if fits else None


def _corners(shape: tuple[int, ...]) -> FloatArray:
    """Corner voxels of a volume, ``(4, 8)``."""
    ends = np.meshgrid(*[(0.0, n - 1.0) for n in shape], indexing="ij")
    return np.vstack([np.array(ends).reshape(3, -1), np.ones(8)])
