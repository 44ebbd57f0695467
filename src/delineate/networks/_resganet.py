"""Blocks of the ResGANet family; ``nd`` is the number of spatial dimensions, 2 or 3.

Cheng et al. 2022 (doi:10.1016/j.media.2021.102313) put attention over groups of channels into
ResNet's blocks, and save parameters by convolving each group by itself. Where the abstract leaves
a choice open, the block here is: 1 x 1 unit, 3 x 3 unit in groups, softmax across the groups,
spatial gate, 1 x 1 convolution, residual.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from delineate.networks import _blocks as blocks


class GroupAttention(nn.Module):
    """Weighs groups of channels against each other, ``(B, C, *S) -> (B, C, *S)``.

    Each group is pooled over space and scored by a fully connected layer of its own; a softmax
    across the groups turns the scores of corresponding channels into weights.
    """

    def __init__(self, nd: int, width: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        kind = nn.Conv3d if nd == 3 else nn.Conv2d
        self.score = kind(width, width, 1, groups=groups)

    def weights(self, x: Tensor) -> Tensor:
        """Weights ``(B, groups, C / groups)``, which sum to 1 over the groups."""
        pooled = x.mean(tuple(range(2, x.ndim)), keepdim=True)
        scores: Tensor = self.score(pooled)
        return scores.reshape(len(x), self.groups, -1).softmax(1)

    def forward(self, x: Tensor) -> Tensor:
        """The features, weighted."""
        return x * self.weights(x).reshape(*x.shape[:2], *[1] * (x.ndim - 2))


class SpatialGate(nn.Module):
    """Weighs places, ``(B, C, *S) -> (B, C, *S)``: Woo et al. 2018, arXiv:1807.06521, eq. 3."""

    def __init__(self, nd: int, kernel: int = 7) -> None:
        super().__init__()
        self.conv = blocks.conv(nd, 2, 1, kernel)

    def weights(self, x: Tensor) -> Tensor:
        """Weights ``(B, 1, *S)`` in 0 to 1, from the mean and the maximum over the channels."""
        pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return torch.sigmoid(self.conv(pooled))

    def forward(self, x: Tensor) -> Tensor:
        """The features, weighted."""
        return x * self.weights(x)


class Block(nn.Module):
    """Residual block with group attention, ``(B, before, *S) -> (B, after, *S / stride)``.

    Where the groups do not divide the channels, there are some more of them inside.
    """

    def __init__(
        self, nd: int, before: int, after: int, groups: int, norm: str, stride: int = 1
    ) -> None:
        super().__init__()
        kind = nn.Conv3d if nd == 3 else nn.Conv2d
        inner = -(-after // groups) * groups
        self.branch = nn.Sequential(
            blocks.conv(nd, before, inner, 1),
            blocks.norm(nd, inner, norm),
            nn.LeakyReLU(blocks.SLOPE, inplace=True),
            kind(inner, inner, 3, stride, 1, groups=groups),
            blocks.norm(nd, inner, norm),
            nn.LeakyReLU(blocks.SLOPE, inplace=True),
            GroupAttention(nd, inner, groups),
            SpatialGate(nd),
            blocks.conv(nd, inner, after, 1),
            blocks.norm(nd, after, norm),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(
                blocks.conv(nd, before, after, 1, stride), blocks.norm(nd, after, norm)
            )
        self.activation = nn.LeakyReLU(blocks.SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        """The attended features, and ``x`` added."""
        output: Tensor = self.activation(self.branch(x) + self.shortcut(x))
        return output


def stages(
    nd: int, channels: int, widths: Sequence[int], groups: int, norm: str
) -> list[nn.Module]:
    """Stages of two blocks; the first has a stem before it, the others halve the resolution."""

    def stage(before: int, width: int, stride: int) -> list[nn.Module]:
        first = Block(nd, before, width, groups, norm, stride)
        return [first, Block(nd, width, width, groups, norm)]

    stem = blocks.conv_unit(nd, channels, widths[0], norm)
    modules = [nn.Sequential(stem, *stage(widths[0], widths[0], 1))]
    modules += [nn.Sequential(*stage(before, width, 2)) for before, width in pairwise(widths)]
    return list(modules)
