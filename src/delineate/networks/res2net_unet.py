"""Res2Net U-Net, ``(B, C, *S) -> (B, outputs, *S)``, in 2D or 3D.

The U-Net for lung nodules of Xiao et al. 2020 (doi:10.3390/sym12111787): every stage is a Res2Net
block (Gao et al. 2021, arXiv:1904.01169), which splits its channels into groups and lets each group
see what the one before found, so that one block has several receptive fields.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks

PAPER = "Xiao et al. 2020, doi:10.3390/sym12111787; Gao et al. 2021, arXiv:1904.01169"
KIND = "segmenter"


@dataclass(frozen=True)
class Config(blocks.UShapeConfig):
    """Shape of a Res2Net U-Net."""

    groups: int = field(default=4, metadata={"help": "groups of channels in a block"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.groups < 2:
            raise ConfigError(f"expected groups >= 2, got {self.groups}")


def divisor(config: Config) -> int:
    """Every spatial size must be a multiple of this."""
    return int(2 ** (config.levels - 1))


def build(config: Config, channels: int, outputs: int) -> blocks.UShape:
    """A Res2Net U-Net with fresh weights (He initialisation)."""
    nd, widths = config.ndim, config.widths
    encoder = nn.ModuleList([Res2Block(config, channels, widths[0])])
    for before, width in pairwise(widths):
        encoder.append(nn.Sequential(blocks.max_pool(nd), Res2Block(config, before, width)))
    net = blocks.UShape(
        config,
        encoder,
        nn.ModuleList(blocks.up_conv(nd, coarse, fine) for fine, coarse in pairwise(widths)),
        nn.ModuleList(Res2Block(config, 2 * width, width) for width in widths[:-1]),
        blocks.heads(nd, widths, outputs, config.deep_supervision),
    )
    blocks.initialise(net)
    return net


class Res2Block(nn.Module):
    """Residual block with a hierarchy of groups, ``(B, before, *S) -> (B, after, *S)``."""

    def __init__(self, config: Config, before: int, after: int) -> None:
        super().__init__()
        nd, kind, groups = config.ndim, config.norm, config.groups
        part = -(-after // groups)
        self.split = nn.Sequential(
            blocks.conv(nd, before, part * groups, 1),
            blocks.norm(nd, part * groups, kind),
            nn.LeakyReLU(blocks.SLOPE, inplace=True),
        )
        self.convs = nn.ModuleList(
            blocks.conv_unit(nd, part, part, kind) for _ in range(groups - 1)
        )
        self.fuse = nn.Sequential(
            blocks.conv(nd, part * groups, after, 1), blocks.norm(nd, after, kind)
        )
        self.shortcut = nn.Identity() if before == after else blocks.conv(nd, before, after, 1)
        self.activation = nn.LeakyReLU(blocks.SLOPE)

    def hierarchy(self, x: Tensor) -> list[Tensor]:
        """What each group found: the first passes, each other sees the one before it too."""
        first, *others = self.split(x).chunk(len(self.convs) + 1, 1)
        outputs = [first]
        for i, (conv, part) in enumerate(zip(self.convs, others, strict=True)):
            outputs.append(conv(part + outputs[-1] if i else part))
        return outputs

    def forward(self, x: Tensor) -> Tensor:
        """The groups fused, and ``x`` added."""
        fused = self.fuse(torch.cat(self.hierarchy(x), 1))
        output: Tensor = self.activation(fused + self.shortcut(x))
        return output
