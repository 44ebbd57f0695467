"""Large-kernel CNN/MLP U-Net, ``(B, C, *S) -> (B, outputs, *S)``, in 2D or 3D.

A U-shaped segmenter of light convolutional blocks in a transformer's form (Xue et al. 2026,
doi:10.1371/journal.pone.0340108, there called by a name that Roy et al. 2023 gave to another
network): a large-kernel gate, depthwise convolutions at three scales and a smooth feed-forward
layer, all with LayerScale. See ``_lkmlp.py`` for what is read into the modules' names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from torch import nn

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks
from delineate.networks import _lkmlp as family

PAPER = "Xue et al. 2026, doi:10.1371/journal.pone.0340108"
KIND = "segmenter"


@dataclass(frozen=True)
class Config:
    """Shape of a large-kernel U-Net; the budget planner sets what is left open."""

    ndim: int = field(default=3, metadata={"help": "2 or 3 spatial dimensions"})
    width: int = field(default=16, metadata={"help": "channels at full resolution"})
    levels: int = field(default=4, metadata={"help": "resolutions, the full one included"})
    max_width: int = field(default=320, metadata={"help": "channels at the coarsest level at most"})
    depth: int = field(default=1, metadata={"help": "blocks a level, down as well as up"})
    deep_supervision: int = field(
        default=0, metadata={"help": "coarser decoder levels that get a loss of their own"}
    )

    def __post_init__(self) -> None:
        blocks.UShapeConfig(
            self.ndim, self.width, self.levels, self.max_width, self.deep_supervision
        )
        if self.depth < 1:
            raise ConfigError(f"expected depth >= 1, got {self.depth}")


def divisor(config: Config) -> int:
    """Every spatial size must be a multiple of this."""
    return int(2 ** (config.levels - 1))


def build(config: Config, channels: int, outputs: int) -> blocks.UShape:
    """A large-kernel U-Net with fresh weights.

    Args:
        config: Shape of the network.
        channels: Input channels C.
        outputs: Output channels, background included.
    """
    nd = config.ndim
    widths = [min(config.width * 2**i, config.max_width) for i in range(config.levels)]
    decoder = nn.ModuleList([family.plain(nd, 2 * widths[0], widths[0])])
    for width in widths[1:-1]:
        fuse = blocks.conv(nd, 2 * width, width, 1)
        decoder.append(nn.Sequential(fuse, *family.several(nd, width, config.depth)))
    net = blocks.UShape(
        config,
        nn.ModuleList(family.stages(nd, channels, widths, config.depth)),
        nn.ModuleList(blocks.up_conv(nd, coarse, fine) for fine, coarse in pairwise(widths)),
        decoder,
        blocks.heads(nd, widths, outputs, config.deep_supervision),
    )
    blocks.initialise(net)
    return net
