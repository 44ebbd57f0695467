"""Blocks of the large-kernel CNN/MLP family; ``nd`` is the number of spatial dimensions, 2 or 3.

Xue et al. 2026 (doi:10.1371/journal.pone.0340108) replace self-attention by three light modules,
of which the names are public: linear-attention feed-forward, spatial encoding, smooth depthwise
feed-forward. What they hold is a reading of these names; the large kernel is decomposed as by
Guo et al. 2022 (arXiv:2202.09741), residuals are scaled as by Touvron et al. 2021
(arXiv:2103.17239). The full resolution is left to plain convolutions, as transformers leave it to
their patch embedding. Group norm with one group does not mind small batches, keeps the
differences between channels' means, and works on a single voxel.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from delineate.networks import _blocks as blocks

#: Where LayerScale begins.
SCALE = 1e-2
#: Extent of the large kernel in voxels: 5 wide, then 7 wide with gaps of 3.
REACH = 5 + 3 * (7 - 1)


def depthwise(nd: int, width: int, kernel: int, dilation: int = 1) -> nn.Module:
    """Convolution of each channel by itself, at the same size.

    In 3D a kernel wider than 3 is one line an axis, one after the other (Lau et al. 2023,
    arXiv:2309.01439): 21 weights a channel and not 343, and ten times as fast on a CPU.
    """
    if nd == 2:
        padding = dilation * (kernel // 2)
        return nn.Conv2d(width, width, kernel, 1, padding, dilation, groups=width)
    if kernel <= 3:
        return nn.Conv3d(width, width, kernel, 1, dilation, dilation, groups=width)
    ahead = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv3d(width, width, (kernel, 1, 1), 1, (ahead, 0, 0), dilation, groups=width),
        nn.Conv3d(width, width, (1, kernel, 1), 1, (0, ahead, 0), dilation, groups=width),
        nn.Conv3d(width, width, (1, 1, kernel), 1, (0, 0, ahead), dilation, groups=width),
    )


class LinearAttention(nn.Module):
    """``W2(GELU(W1 x) * LKA(W1 x))``: features gated by a large kernel's view of them."""

    def __init__(self, nd: int, width: int) -> None:
        super().__init__()
        self.first = blocks.conv(nd, width, width, 1)
        self.large_kernel = nn.Sequential(
            depthwise(nd, width, 5), depthwise(nd, width, 7, 3), blocks.conv(nd, width, width, 1)
        )
        self.act = nn.GELU()
        self.second = blocks.conv(nd, width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, *S) -> (B, C, *S)``."""
        x = self.first(x)
        output: Tensor = self.second(self.act(x) * self.large_kernel(x))
        return output


class SpatialEncoding(nn.Module):
    """Depthwise convolutions 3, 5 and 7 wide side by side, summed, then mixed."""

    def __init__(self, nd: int, width: int) -> None:
        super().__init__()
        self.scales = nn.ModuleList(depthwise(nd, width, kernel) for kernel in (3, 5, 7))
        self.mix = blocks.conv(nd, width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, *S) -> (B, C, *S)``."""
        output: Tensor = self.mix(torch.stack([scale(x) for scale in self.scales]).sum(0))
        return output


def smooth_feed_forward(nd: int, width: int, expansion: int = 4) -> nn.Sequential:
    """Feed-forward layers with a depthwise convolution between them."""
    inner = expansion * width
    return nn.Sequential(
        blocks.conv(nd, width, inner, 1),
        depthwise(nd, inner, 3),
        nn.GELU(),
        blocks.conv(nd, inner, width, 1),
    )


class Residual(nn.Module):
    """``x + scale * module(norm(x))``, with one scale a channel that begins small."""

    def __init__(self, width: int, module: nn.Module) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.module = module
        self.scale = nn.Parameter(torch.full((width,), SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, *S) -> (B, C, *S)``."""
        scale = self.scale.view(-1, *[1] * (x.ndim - 2))
        output: Tensor = x + scale * self.module(self.norm(x))
        return output


def block(nd: int, width: int) -> nn.Sequential:
    """The three modules, each with its residual."""
    return nn.Sequential(
        Residual(width, LinearAttention(nd, width)),
        Residual(width, SpatialEncoding(nd, width)),
        Residual(width, smooth_feed_forward(nd, width)),
    )


def several(nd: int, width: int, depth: int) -> list[nn.Module]:
    """Blocks in a row."""
    return [block(nd, width) for _ in range(depth)]


def plain(nd: int, before: int, after: int) -> nn.Sequential:
    """Two convolutions with norm and GELU, for the full resolution."""
    return nn.Sequential(
        *(
            part
            for channels in (before, after)
            for part in (blocks.conv(nd, channels, after), nn.GroupNorm(1, after), nn.GELU())
        )
    )


def stages(nd: int, channels: int, widths: Sequence[int], depth: int) -> list[nn.Module]:
    """Plain convolutions, then stages of blocks, each at half the resolution of the last."""
    modules = [plain(nd, channels, widths[0])]
    for before, width in pairwise(widths):
        down = [nn.GroupNorm(1, before), blocks.conv(nd, before, width, 3, 2)]
        modules.append(nn.Sequential(*down, *several(nd, width, depth)))
    return list(modules)
