"""Axial-attention U-Net, ``(B, C, *S) -> (B, outputs, *S)``, in 2D or 3D.

A U-Net whose coarse levels look along whole rows, columns and stacks: position-sensitive axial
attention (Wang et al. 2020, arXiv:2003.07853), one layer an axis, with the learned gates on the
positions that small medical data sets need (Valanarasu et al. 2021, arXiv:2102.10662). Positions
are relative, and beyond ``reach`` voxels alike (Shaw et al. 2018, arXiv:1803.02155), so any size
works. Batch norm of the logits is replaced by 1 / sqrt(d), since batches here are small.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks

PAPER = "Wang et al. 2020, arXiv:2003.07853; Valanarasu et al. 2021, arXiv:2102.10662"
KIND = "segmenter"


@dataclass(frozen=True)
class Config(blocks.UShapeConfig):
    """Shape of an axial-attention U-Net."""

    attention_levels: int = field(
        default=2, metadata={"help": "coarsest levels with attention; never the full resolution"}
    )
    attention_heads: int = field(default=4, metadata={"help": "heads of an attention layer"})
    reach: int = field(
        default=32, metadata={"help": "voxels of a level up to which distances are told apart"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.attention_levels, self.attention_heads, self.reach) < 1:
            raise ConfigError(
                "expected attention_levels, attention_heads and reach >= 1, got "
                f"{self.attention_levels}, {self.attention_heads}, {self.reach}"
            )


def divisor(config: Config) -> int:
    """Every spatial size must be a multiple of this."""
    return int(2 ** (config.levels - 1))


def build(config: Config, channels: int, outputs: int) -> blocks.UShape:
    """An axial-attention U-Net with fresh weights.

    Args:
        config: Shape of the network.
        channels: Input channels C.
        outputs: Output channels, background included.
    """
    nd, widths = config.ndim, config.widths
    net = blocks.UShape(
        config,
        nn.ModuleList(
            _stage(config, i, before) for i, before in enumerate([channels, *widths[:-1]])
        ),
        nn.ModuleList(blocks.up_conv(nd, coarse, fine) for fine, coarse in pairwise(widths)),
        nn.ModuleList(
            _stage(config, i, 2 * width, down=False) for i, width in enumerate(widths[:-1])
        ),
        blocks.heads(nd, widths, outputs, config.deep_supervision),
    )
    blocks.initialise(net)
    return net


def _stage(config: Config, level: int, before: int, down: bool = True) -> nn.Sequential:
    """A convolution, then another or attention along all axes."""
    nd, width, norm = config.ndim, config.widths[level], config.norm
    stride = 2 if level and down else 1
    if level < max(1, config.levels - config.attention_levels):
        return blocks.double_conv(nd, before, width, norm, stride)
    return nn.Sequential(
        blocks.conv_unit(nd, before, width, norm, stride), AxialBlock(config, width)
    )


class AxialAttention(nn.Module):
    """Self-attention along one axis, ``(B, C, *S) -> (B, C, *S)``: Wang et al. 2020, eq. 4.

    With q, k of ``C / (2 heads)`` channels, v of ``C / heads`` and relative vectors r shared by
    the heads::

        y_o = sum_p softmax_p((q_o k_p + a q_o r^q_{p-o} + b k_p r^k_{p-o}) / sqrt(d))
                    (v_p + c r^v_{p-o})

    a, b, c are the gates. They begin at 0.1, so that the content speaks first.
    """

    def __init__(self, nd: int, width: int, heads: int, reach: int, axis: int) -> None:
        super().__init__()
        self.axis, self.heads, self.reach = axis, heads, reach
        self.qk_width = width // (2 * heads)
        self.qkv = blocks.conv(nd, width, 2 * width, 1)
        self.relative = nn.Parameter(torch.empty(4 * self.qk_width, 2 * reach - 1))
        self.gates = nn.Parameter(torch.full((3,), 0.1))
        nn.init.normal_(self.relative, std=self.qk_width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """What each voxel finds on its line along the axis."""
        lines = self.qkv(x).movedim(2 + self.axis, -1)
        length, d = lines.shape[-1], self.qk_width
        per_head = lines.reshape(len(x), self.heads, 4 * d, -1, length)
        q, k, v = torch.tensor_split(per_head, (d, 2 * d), 2)  # (B, heads, d or 2d, lines, L)
        place = torch.arange(length, device=x.device)
        distance = (place[None] - place[:, None]).clamp(1 - self.reach, self.reach - 1)
        relative = self.relative[:, distance + self.reach - 1]
        r_q, r_k, r_v = torch.tensor_split(relative, (d, 2 * d), 0)  # (d or 2d, o, p)
        a, b, c = self.gates.unbind()
        logits = (
            torch.einsum("bhdlo,bhdlp->bhlop", q, k)
            + torch.einsum("bhdlo,dop->bhlop", q, a * r_q)
            + torch.einsum("bhdlp,dop->bhlop", k, b * r_k)
        )
        weights = (logits * d**-0.5).softmax(-1)
        attended = torch.einsum("bhlop,bhdlp->bhdlo", weights, v)
        attended = attended + torch.einsum("bhlop,dop->bhdlo", weights, c * r_v)
        whole = attended.reshape(len(x), -1, *lines.shape[2:])
        return whole.movedim(-1, 2 + self.axis)


class AxialBlock(nn.Module):
    """Residual block with attention along each axis in turn, so that every voxel sees all."""

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        nd, heads = config.ndim, config.attention_heads
        inner = -(-width // (2 * heads)) * 2 * heads
        self.branch = nn.Sequential(
            blocks.conv(nd, width, inner, 1),
            blocks.norm(nd, inner, config.norm),
            nn.LeakyReLU(blocks.SLOPE, inplace=True),
            *(AxialAttention(nd, inner, heads, config.reach, axis) for axis in range(nd)),
            blocks.norm(nd, inner, config.norm),
            nn.LeakyReLU(blocks.SLOPE, inplace=True),
            blocks.conv(nd, inner, width, 1),
            blocks.norm(nd, width, config.norm),
        )
        self.activation = nn.LeakyReLU(blocks.SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        """What attention found, and ``x`` added."""
        output: Tensor = self.activation(self.branch(x) + x)
        return output
