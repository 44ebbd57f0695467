"""Replay the geometry of a prepared image on its label; ``inverse`` brings labels back.

Everything here works from the history alone: each step recorded what it did and the grid it
started from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core.errors import GeometryError
from delineate.core.image import Grid, Image
from delineate.preprocess import crop, orient, resample

#: Steps of a history that change the grid.
GEOMETRY = ("orient", "crop", "resample")


def apply_label(label: Image, like: Image) -> NDArray[Any]:
    """Bring a label map ``(1, *S)`` onto the grid of a prepared image, by the image's own steps.

    Args:
        label: Integers, on the grid of the image before it was prepared.
        like: The prepared image.

    Returns:
        ``(*S')`` of the label's type.

    Raises:
        GeometryError: The label lies on another grid than the image did.
    """
    steps = _steps(like.history)
    grid = _grid_before(steps[0], like.grid) if steps else like.grid
    if not label.grid.same_as(grid):
        off = label.grid.difference_mm(grid)
        raise GeometryError(
            f"expected the label on the grid of its image, {grid.shape}, got {label.grid.shape}"
            + (f", up to {off:.3g} mm away" if np.isfinite(off) else ""),
            fix="export the label on the image's grid; nothing is resampled silently",
            code="label-grid",
        )
    array = label.array
    for step in steps:
        array = _replay(array, step)
    return np.ascontiguousarray(array[0])


def apply_image(array: NDArray[Any], like: Image) -> NDArray[np.float32]:
    """Bring channels that were read with an image onto its prepared grid, interpolated as it was.

    Args:
        array: ``(K, *S)``, on the grid of the image before it was prepared.
        like: The prepared image.

    Returns:
        ``(K, *S')``; values are left as they are.
    """
    for step in _steps(like.history):
        array = _replay(array, step, order=None)
    return np.ascontiguousarray(array, dtype=np.float32)


def cropped_away(label: Image, like: Image) -> int:
    """Number of labelled voxels of ``(1, *S)`` that lie outside what was kept of the image."""
    array = label.array
    for step in _steps(like.history):
        if step["step"] != "resample":
            array = _replay(array, step)
    return int(np.count_nonzero(label.array)) - int(np.count_nonzero(array))


def _replay(array: NDArray[Any], step: Mapping[str, Any], order: int | None = 1) -> NDArray[Any]:
    if step["step"] == "orient":
        return orient.replay(array, step)
    if step["step"] == "crop":
        return crop.replay(array, step)
    return resample.replay(array, step, order)


def _grid_before(step: Mapping[str, Any], like: Grid) -> Grid:
    """The grid that a recorded step started from."""
    return Grid(
        tuple(step["from_shape"]), np.array(step["from_affine"]), like.oriented, like.spacing_known
    )


def stack_channels(images: Sequence[Image], names: Sequence[str] | None = None) -> Image:
    """Join images of one grid to one image ``(C1 + C2 + …, *S)``; history and facts of the first.

    Raises:
        GeometryError: A channel lies on another grid than the first; it is never resampled here.
    """
    first = images[0]
    for i, image in enumerate(images[1:], start=1):
        if not image.grid.same_as(first.grid):
            off = image.grid.difference_mm(first.grid)
            names_of_pair = [names[k] if names else str(k) for k in (0, i)]
            raise GeometryError(
                f"expected channel {names_of_pair[1]!r} on the grid of channel "
                f"{names_of_pair[0]!r}, {first.grid.shape}, got {image.grid.shape}"
                + (f", up to {off:.3g} mm away" if np.isfinite(off) else ""),
                fix="register and resample the scans of a subject to one grid first",
                code="channels-grid",
            )
    if len(images) == 1:
        return first
    notes = dict.fromkeys(note for image in images for note in image.meta.get("notes", ()))
    return dataclasses.replace(
        first,
        array=np.concatenate([image.array for image in images]),
        meta={**first.meta, "notes": tuple(notes)},
    )


def check_shape(
    shape_got: tuple[int, ...], history: Sequence[Mapping[str, Any]], original: Grid
) -> None:
    """Refuse arrays ``(*S')`` that the history does not lead to from the original grid.

    Raises:
        GeometryError: It leads from another grid, or to another shape.
    """
    steps = _steps(history)
    before = _grid_before(steps[0], original) if steps else original
    if not before.same_as(original):
        raise GeometryError(
            f"expected a history that starts from the grid {original.shape}, got one from "
            f"{before.shape}, {before.difference_mm(original):.3g} mm away",
            code="history-grid",
        )
    shape = original.shape
    for step in steps:
        if step["step"] == "orient":
            shape = tuple(shape[a] for a in step["axes"])
        elif step["step"] == "crop":
            shape = tuple(stop - start for start, stop in step["box"])
        else:
            shape = tuple(step["shape"])
    if shape_got != shape:
        raise GeometryError(
            f"expected an array (C, *{shape}) as the image was prepared, got (C, *{shape_got})",
            code="history-grid",
        )


def _steps(history: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [step for step in history if step["step"] in GEOMETRY]
