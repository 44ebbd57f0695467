"""VGG-like bricks, ``(B, C, *S) -> (B, 8 width, *S/16)``, for FCN, SegNet and DeepLab.

The thirteen convolutions of VGG-16 (Simonyan & Zisserman 2015, arXiv:1409.1556) in five stages of
``width`` to ``8 width`` channels. Each convolution has a norm behind it: the papers began with
weights from ImageNet, here everything is trained from scratch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks

#: Convolutions in each of VGG-16's stages.
CONVOLUTIONS = (2, 2, 3, 3, 3)


def widths(width: int, stages: int) -> list[int]:
    """Channels of the stages: doubled up to eight times the first."""
    return [width * min(2**i, 8) for i in range(stages)]


def check(ndim: int, width: int, norm: str, levels: int, most: int | None = None) -> None:
    """Refuse settings that no network of these bricks can have.

    Raises:
        ConfigError: Says what was expected.
    """
    if ndim not in (2, 3) or width < 1:
        raise ConfigError(f"expected ndim 2 or 3 and width >= 1, got {ndim}, {width}")
    if norm not in ("instance", "batch"):
        raise ConfigError(f"expected norm 'instance' or 'batch', got {norm!r}")
    if levels < 2 or (most is not None and levels > most):
        limit = ">= 2" if most is None else f"from 2 to {most}"
        raise ConfigError(f"expected levels {limit}, got {levels}")


def unit(
    nd: int, before: int, after: int, kernel: int = 3, rate: int = 1, norm: str = "instance"
) -> nn.Sequential:
    """Atrous convolution that keeps the size, norm, leaky ReLU; kernel taps lie ``rate`` apart."""
    kind = nn.Conv3d if nd == 3 else nn.Conv2d
    return nn.Sequential(
        kind(before, after, kernel, padding=kernel // 2 * rate, dilation=rate),
        blocks.norm(nd, after, norm),
        nn.LeakyReLU(blocks.SLOPE, inplace=True),
    )


def encoder(
    nd: int, channels: int, width: int, stages: int, norm: str, rates: Sequence[int] = (1,) * 5
) -> nn.ModuleList:
    """The first stages of VGG-16, each without the pooling that follows it."""
    after = widths(width, stages)
    return nn.ModuleList(
        nn.Sequential(
            unit(nd, first, last, rate=rate, norm=norm),
            *(unit(nd, last, last, rate=rate, norm=norm) for _ in range(count - 1)),
        )
        for first, last, count, rate in zip(
            [channels, *after], after, CONVOLUTIONS, rates, strict=False
        )
    )


def atrous_encoder(nd: int, channels: int, width: int, norm: str) -> nn.Sequential:
    """All of VGG-16 at an eighth of the resolution: ``(B, C, *S) -> (B, 8 width, *S/8)``.

    The last two poolings have lost their stride, and the last stage has rate 2 to make up for it
    (Chen et al. 2015, arXiv:1412.7062).
    """
    *first, fourth, fifth = encoder(nd, channels, width, 5, norm, (1, 1, 1, 1, 2))
    pool = nn.MaxPool3d if nd == 3 else nn.MaxPool2d
    halved = [layer for stage in first for layer in (stage, blocks.max_pool(nd))]
    return nn.Sequential(*halved, fourth, pool(3, 1, 1), fifth, pool(3, 1, 1))


def atrous_head(
    nd: int, width: int, outputs: int, rate: int, norm: str, dropout: float
) -> nn.Sequential:
    """DeepLab's ``fc6`` with its taps rate apart, ``fc7`` and scores, at the features' size."""
    top = 16 * width
    return nn.Sequential(
        unit(nd, 8 * width, top, rate=rate, norm=norm),
        nn.Dropout(dropout),
        unit(nd, top, top, kernel=1, norm=norm),
        nn.Dropout(dropout),
        blocks.conv(nd, top, outputs, 1),
    )


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bi- or trilinear interpolation of ``(B, C, *S)`` to another size; borders stay level."""
    mode = "trilinear" if x.ndim == 5 else "bilinear"
    return F.interpolate(x, size=tuple(size), mode=mode, align_corners=False)


def require_size(size: Sequence[int], least: int) -> None:
    """Refuse sizes that cannot be halved, or of which one voxel alone would be left.

    Raises:
        ConfigError: Names the nearest size that works.
    """
    blocks.require_multiple(size, least)
    if all(n == least for n in size):
        raise ConfigError(
            f"expected more than one voxel at the coarsest level, got {tuple(size)}",
            fix=f"pad to {(2 * least,) * len(size)}",
            code="size",
        )


def scaled_rate(rate: int, patch: Sequence[int]) -> int:
    """An atrous rate published for crops of 321 pixels, for patches of another size.

    Taps beyond the features' border would see zeros and learn nothing.
    """
    return max(1, round(rate * min(patch) / 321))
