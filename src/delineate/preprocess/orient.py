"""Bring the axes of an image to right, anterior, superior: permute and flip, never interpolate.

Oblique grids go to the nearest of the 48 axis orientations; the affine keeps the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core.image import Grid, Image


def plan(grid: Grid) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Which array axis goes where, and which are then flipped, to bring ``grid`` to RAS+.

    The assignment of array axes to body axes is the one with the largest sum of direction
    cosines, so that no order of treatment decides between two nearly equal ones. Flat grids keep
    the order of the body axes that they span.

    Returns:
        ``axes``: new axis ``a`` is old axis ``axes[a]``; ``flips``: by new axis.
    """
    directions = grid.affine[:3, : grid.ndim] / np.linalg.norm(grid.affine[:3, : grid.ndim], axis=0)
    best = max(
        permutations(range(3), grid.ndim),
        key=lambda body: sum(abs(directions[b, a]) for a, b in enumerate(body)),
    )
    axes = tuple(sorted(range(grid.ndim), key=lambda a: best[a]))
    return axes, tuple(bool(directions[best[a], a] < 0) for a in axes)


def ras_grid(grid: Grid) -> Grid:
    """The grid that ``to_ras`` would give; unoriented grids come back as they are."""
    if not grid.oriented:
        return grid
    axes, flips = plan(grid)
    shape = tuple(grid.shape[a] for a in axes)
    step = np.eye(4)
    step[:3, :3] = 0
    for new, (old, flip) in enumerate(zip(axes, flips, strict=True)):
        step[old, new] = -1 if flip else 1
        step[old, 3] = shape[new] - 1 if flip else 0
    if grid.ndim == 2:
        step[2, 2] = 1
    return Grid(shape, grid.affine @ step, grid.oriented, grid.spacing_known)


def to_ras(image: Image) -> Image:
    """Permute and flip the axes of ``(C, *S)`` until they point as nearly as can be to R, A, S.

    Values are untouched. Images that do not say how they lie in the body are left alone.
    """
    if not image.grid.oriented:
        return image
    axes, flips = plan(image.grid)
    if axes == tuple(range(image.grid.ndim)) and not any(flips):
        return image
    step = {"axes": list(axes), "flips": list(flips), **grid_facts(image.grid)}
    return image.with_step("orient", replay(image.array, step), ras_grid(image.grid), **step)


def replay(array: NDArray[Any], step: Mapping[str, Any]) -> NDArray[Any]:
    """Do a recorded step to another array ``(C, *S)`` of the same grid."""
    moved = np.transpose(array, (0, *(a + 1 for a in step["axes"])))
    return np.flip(moved, _flipped(step))


def _flipped(step: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(a + 1 for a, flip in enumerate(step["flips"]) if flip)


def grid_facts(grid: Grid) -> dict[str, Any]:
    """What a geometry step records of the grid it started from."""
    return {"from_shape": list(grid.shape), "from_affine": grid.affine.tolist()}
