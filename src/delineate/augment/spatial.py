"""Rotation, scale, shift and mirror of a batch, drawn first and applied afterwards.

The sampler reads a region somewhat larger than the patch; the transform looks up the patch's
voxels in it, so that rotated corners are filled with real surroundings where there are any.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from delineate.core.errors import ConfigError


@dataclass(frozen=True)
class Config:
    """Ranges of the spatial augmentation."""

    rotation_degrees: float = field(default=15.0, metadata={"help": "largest angle, each axis"})
    scale: tuple[float, float] = field(
        default=(0.7, 1.4), metadata={"help": "zoom, smallest first"}
    )
    probability: float = field(default=0.5, metadata={"help": "chance of rotation, and of scale"})
    shift: float = field(default=0.05, metadata={"help": "largest shift, as part of the patch"})

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ConfigError(f"expected 0 < scale[0] <= scale[1], got {self.scale}")


def draw(
    config: Config,
    batch: int,
    spacing: Sequence[float],
    mirror_axes: Sequence[int],
    generator: torch.Generator,
) -> Tensor:
    """Matrices that take a voxel offset in the patch to a voxel offset in the region.

    Args:
        config: Ranges.
        batch: Number of patches B.
        spacing: Voxel size of the nd axes; rotations are rigid in mm, not in voxels.
        mirror_axes: Spatial axes that may be mirrored.
        generator: Source of randomness, on the CPU.

    Returns:
        ``(B, nd, nd + 1)``; the last column is the shift as a part of the patch size.
    """
    nd = len(spacing)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    def chance() -> float:
        return torch.rand(1, generator=generator).item()

    size = torch.diag(torch.tensor([float(s) for s in spacing]))
    inverse = size.inverse()
    limit = math.radians(config.rotation_degrees)
    matrices = []
    for _ in range(batch):
        turn, zoom, flip = torch.eye(nd), 1.0, torch.ones(nd)
        if chance() < config.probability:
            turn = _rotation(uniform(-limit, limit, 3), nd)
        if chance() < config.probability:
            zoom = math.exp(float(uniform(math.log(config.scale[0]), math.log(config.scale[1]), 1)))
        for axis in mirror_axes:
            if chance() < 0.5:
                flip[axis] = -1
        matrix = inverse @ turn @ size @ torch.diag(flip) / zoom
        shift = uniform(-config.shift, config.shift, nd)
        matrices.append(torch.cat([matrix, shift[:, None]], 1))
    return torch.stack(matrices)


def _rotation(angles: Tensor, nd: int) -> Tensor:
    """Rotation matrix ``(nd, nd)`` from three angles in radians; 2D takes the first."""
    total = torch.eye(nd)
    planes = [(0, 1), (0, 2), (1, 2)] if nd == 3 else [(0, 1)]
    for angle, (a, b) in zip(angles.tolist(), planes, strict=False):
        rotation = torch.eye(nd)
        rotation[a, a] = rotation[b, b] = math.cos(angle)
        rotation[a, b], rotation[b, a] = -math.sin(angle), math.sin(angle)
        total = total @ rotation
    return total


def apply(
    matrices: Tensor, image: Tensor, label: Tensor, patch: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Patches at the transformed places; outside the region there is 0 and background.

    Shifts are of whole voxels: between voxels, interpolation would smooth every patch, which no
    image that the network will ever see in use has gone through.

    Args:
        matrices: From ``draw``.
        image: ``(B, C, *R)``, the region read.
        label: ``(B, *R)`` indices.
        patch: Size ``*S`` of the result.

    Returns:
        ``(B, C, *S)`` by linear and ``(B, *S)`` by nearest interpolation.
    """
    nd = len(patch)
    region = torch.tensor(image.shape[2:], dtype=torch.float32)
    shift = (matrices[:, :, nd] * torch.tensor(patch, dtype=torch.float32)).round()
    points = torch.einsum("bij,...j->b...i", matrices[:, :, :nd], _offsets(tuple(patch)))
    points = points + shift.view(-1, *(1,) * nd, nd)
    # grid_sample wants the last axis first, in units of half the region
    grid = (points / ((region - 1) / 2).clamp_min(0.5)).flip(-1).to(image.device)
    moved = F.grid_sample(image, grid, mode="bilinear", align_corners=True)
    mask = label.unsqueeze(1).to(image.dtype)
    mask = F.grid_sample(mask, grid, mode="nearest", align_corners=True)
    return moved, mask[:, 0].to(label.dtype)


@lru_cache(maxsize=2)
def _offsets(patch: tuple[int, ...]) -> Tensor:
    """Of each voxel of a patch from its middle, ``(*S, nd)``; never changed."""
    axes = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in patch]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)


def crop_centre(image: Tensor, label: Tensor, patch: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The patch at the region's centre, without any transform."""
    window: tuple[slice, ...] = tuple(
        slice((n - p) // 2, (n - p) // 2 + p) for n, p in zip(image.shape[2:], patch, strict=True)
    )
    everything = slice(None)
    return image[(everything, everything, *window)], label[(everything, *window)]
