"""Bricks shared by networks; ``nd`` is the number of spatial dimensions, 2 or 3."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from delineate.core.errors import ConfigError

SLOPE = 0.01


def conv(nd: int, before: int, after: int, kernel: int = 3, stride: int = 1) -> nn.Module:
    """Convolution that keeps the size at stride 1."""
    kind = nn.Conv3d if nd == 3 else nn.Conv2d
    return kind(before, after, kernel, stride=stride, padding=kernel // 2)


def norm(nd: int, width: int, kind: str = "instance") -> nn.Module:
    """Instance or batch norm with affine parameters."""
    if kind not in ("instance", "batch"):
        raise ConfigError(f"expected norm 'instance' or 'batch', got {kind!r}")
    table = {
        ("instance", 2): nn.InstanceNorm2d,
        ("instance", 3): nn.InstanceNorm3d,
        ("batch", 2): nn.BatchNorm2d,
        ("batch", 3): nn.BatchNorm3d,
    }
    return table[kind, nd](width, affine=True)


def conv_unit(
    nd: int, before: int, after: int, kind: str = "instance", stride: int = 1
) -> nn.Sequential:
    """Convolution, norm, leaky ReLU."""
    return nn.Sequential(
        conv(nd, before, after, 3, stride),
        norm(nd, after, kind),
        nn.LeakyReLU(SLOPE, inplace=True),
    )


def up_conv(nd: int, before: int, after: int) -> nn.Module:
    """Transposed convolution that doubles every spatial size."""
    kind = nn.ConvTranspose3d if nd == 3 else nn.ConvTranspose2d
    return kind(before, after, 2, 2)


def max_pool(nd: int) -> nn.Module:
    """Maximum over 2 x 2 (x 2)."""
    return nn.MaxPool3d(2) if nd == 3 else nn.MaxPool2d(2)


def require_multiple(size: Sequence[int], multiple: int) -> None:
    """Refuse sizes a network cannot halve often enough.

    Raises:
        ConfigError: Names the nearest size that works.
    """
    if any(n % multiple for n in size):
        nearest = tuple(-(-n // multiple) * multiple for n in size)
        raise ConfigError(
            f"expected spatial sizes that are multiples of {multiple}, got {tuple(size)}",
            fix=f"pad to {nearest}",
            code="size",
        )


def initialise(module: nn.Module) -> None:
    """He initialisation for leaky ReLU, zero biases."""
    for part in module.modules():
        if isinstance(part, nn.modules.conv._ConvNd | nn.Linear):
            nn.init.kaiming_normal_(part.weight, a=SLOPE)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def count_parameters(module: nn.Module) -> int:
    """Number of trainable numbers."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def one_hot(indices: Tensor, outputs: int) -> Tensor:
    """``(B, *S)`` integers -> ``(B, outputs, *S)`` float."""
    hot = torch.zeros((indices.shape[0], outputs, *indices.shape[1:]), device=indices.device)
    return hot.scatter_(1, indices.long().unsqueeze(1), 1.0)
