"""What a classifier sees of a prepared image: one slice, or the whole, brought to one size.

A classifier judges a picture as a whole, so it is given all of it: a slice of a volume, or a flat
image, or a whole volume, resized to the size that the network was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

#: A slice is worth looking at if so much of it is not empty, in shares of the fullest slice.
LEAST_CONTENT = 0.1


def slice_axis(shape: Sequence[int], ndim: int, preferred: int | None) -> int | None:
    """Axis along which slices are taken; None where the network sees the whole image.

    Args:
        shape: Spatial shape of the image.
        ndim: Dimensions that the network sees.
        preferred: The axis along which the image was acquired, where that is known.
    """
    if len(shape) == ndim:
        return None
    return len(shape) - 1 if preferred is None else preferred


def places(image: NDArray[Any], axis: int | None) -> list[int | None]:
    """Slices with content, in order; ``[None]`` for an image that is seen whole.

    Preparation sets what lies outside the body to zero (MR) or to the level of air, so a slice
    whose values are all alike is empty. Where that holds of all (a phantom of even slices), each
    is a picture of its own.

    Args:
        image: ``(C, *S)``.
        axis: Spatial axis, from ``slice_axis``.
    """
    if axis is None:
        return [None]
    moved = np.moveaxis(np.asarray(image), axis + 1, 0)
    content = np.array([float((plane != plane.flat[0]).mean()) for plane in moved])
    with_content = np.flatnonzero(content >= LEAST_CONTENT * content.max())
    return [int(k) for k in with_content]


def view_label(
    label: NDArray[Any], axis: int | None, place: int | None, size: Sequence[int]
) -> Tensor:
    """Label indices ``(*size)`` uint8 of what ``view`` shows; of each place the nearest voxel's."""
    import torch
    import torch.nn.functional as F

    array = label if axis is None or place is None else np.take(label, place, axis=axis)
    plane = torch.from_numpy(np.array(array, order="C"))
    resized = F.interpolate(plane[None, None].float(), tuple(size), mode="nearest-exact")
    return resized[0, 0].to(torch.uint8)


def view(image: NDArray[Any], axis: int | None, place: int | None, size: Sequence[int]) -> Tensor:
    """One slice, or the whole image, as ``(C, *size)`` float32.

    Shrinking averages, so that nothing is skipped; enlarging interpolates linearly.

    Args:
        image: ``(C, *S)``.
        axis: Spatial axis, None for the whole.
        place: Index along it.
        size: Of the result.
    """
    import torch
    import torch.nn.functional as F

    array = image if axis is None or place is None else np.take(image, place, axis=axis + 1)
    plane = torch.from_numpy(np.array(array, dtype=np.float32, order="C"))
    shape = tuple(plane.shape[1:])
    if shape == tuple(size):
        return plane
    linear = "trilinear" if len(shape) == 3 else "bilinear"
    grown = tuple(max(a, b) for a, b in zip(shape, size, strict=True))
    if grown != shape:
        plane = F.interpolate(plane[None], grown, mode=linear, align_corners=False)[0]
    if grown != tuple(size):
        plane = F.interpolate(plane[None], tuple(size), mode="area")[0]
    return plane
