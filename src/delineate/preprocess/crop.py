"""Cut off the margins that hold nothing: black borders, air that was set to one value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core.image import Grid, Image
from delineate.preprocess.orient import grid_facts

Box = tuple[tuple[int, int], ...]

#: A constant background holds at least this share of the border voxels …
BORDER_SHARE = 0.5
#: … while at most this share lies near it without being equal (air noise) …
NOISE_SHARE = 0.05
#: … near meaning within this share of the range to the 99th percentile.
NEAR = 0.05


def background(channel: NDArray[Any]) -> float | None:
    """The value of a constant background of ``(*S)``, None where there is none.

    Skull-stripped volumes and pictures with black borders have one. Air with noise is not
    constant, and neither is a scan cut tightly around an organ.
    """
    faces = [np.take(channel, i, axis=a).ravel() for a in range(channel.ndim) for i in (0, -1)]
    border = np.concatenate(faces)
    values, counts = np.unique(border, return_counts=True)
    value = float(values[counts.argmax()])
    top = float(np.percentile(sparse(channel), 99))
    other = border[border != value]
    near_background = np.abs(other - value) < NEAR * abs(top - value)
    clean = (
        counts.max() >= BORDER_SHARE * border.size
        and near_background.sum() <= NOISE_SHARE * border.size
    )
    return value if clean else None


def sparse(channel: NDArray[Any], limit: int = 2_000_000) -> NDArray[Any]:
    """At most ``limit`` evenly spread values of an array, for percentiles of large volumes."""
    flat = channel.reshape(-1)
    return flat[:: -(-flat.size // limit)]


def foreground(array: NDArray[Any], backgrounds: Sequence[float | None]) -> NDArray[np.bool_]:
    """Voxels ``(*S)`` of ``(C, *S)`` that differ from the background in any channel.

    All of them where a channel has no constant background.
    """
    if any(value is None for value in backgrounds):
        return np.ones(array.shape[1:], dtype=bool)
    inside = np.zeros(array.shape[1:], dtype=bool)
    for channel, value in zip(array, backgrounds, strict=True):
        inside |= channel != value
    return inside


def foreground_box(image: Image, backgrounds: Sequence[float | None]) -> Box:
    """Smallest box that holds every voxel that differs from the background in any channel."""
    whole = tuple((0, n) for n in image.grid.shape)
    box = []
    inside = foreground(image.array, backgrounds)
    for axis in range(inside.ndim):
        others = tuple(a for a in range(inside.ndim) if a != axis)
        occupied = np.flatnonzero(inside.any(axis=others))
        if occupied.size == 0:
            return whole
        box.append((int(occupied[0]), int(occupied[-1]) + 1))
    return tuple(box)


def crop_foreground(image: Image, box: Box | None = None, *, least_saving: float = 0.1) -> Image:
    """Cut ``(C, *S)`` down to ``box``, if that removes a share of voxels worth the trouble.

    Args:
        image: Any image.
        box: ``(start, stop)`` by axis; by default the box of the foreground.
        least_saving: Smallest share of voxels that must go; below it the image is left alone.
    """
    if box is None:
        box = foreground_box(image, [background(channel) for channel in image.array])
    saving = 1 - np.prod([(b - a) / n for (a, b), n in zip(box, image.grid.shape, strict=True)])
    if saving <= 0 or saving < least_saving:
        return image
    step = {"box": [list(side) for side in box], **grid_facts(image.grid)}
    array = replay(image.array, step)
    affine = image.grid.affine.copy()
    affine[:3, 3] += affine[:3, : image.grid.ndim] @ [start for start, _ in box]
    grid = Grid(array.shape[1:], affine, image.grid.oriented, image.grid.spacing_known)
    return image.with_step("crop", array, grid, **step)


def replay(array: NDArray[Any], step: Mapping[str, Any]) -> NDArray[Any]:
    """Do a recorded step to another array ``(C, *S)`` of the same grid."""
    return array[(slice(None), *(slice(start, stop) for start, stop in step["box"]))]
