"""ResGANet U-Net, ``(B, C, *S) -> (B, outputs, *S)``, in 2D or 3D.

A U-shaped segmenter whose encoder is built of residual group-attention blocks (Cheng et al. 2022,
doi:10.1016/j.media.2021.102313): two blocks a stage (2-2-2-2), in each a softmax across groups of
channels and a 7-wide spatial gate. The decoder is that of a plain U-Net.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from torch import nn

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks
from delineate.networks import _resganet as family

PAPER = "Cheng et al. 2022, doi:10.1016/j.media.2021.102313"
KIND = "segmenter"


@dataclass(frozen=True)
class Config(blocks.UShapeConfig):
    """Shape of a ResGANet U-Net."""

    groups: int = field(default=2, metadata={"help": "groups of channels in a block, 2 to 4"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.groups < 2:
            raise ConfigError(f"expected groups >= 2, got {self.groups}")


def divisor(config: Config) -> int:
    """Every spatial size must be a multiple of this."""
    return int(2 ** (config.levels - 1))


def build(config: Config, channels: int, outputs: int) -> blocks.UShape:
    """A ResGANet U-Net with fresh weights (He initialisation for leaky ReLU).

    Args:
        config: Shape of the network.
        channels: Input channels C.
        outputs: Output channels, background included.
    """
    nd, widths, norm = config.ndim, config.widths, config.norm
    net = blocks.UShape(
        config,
        nn.ModuleList(family.stages(nd, channels, widths, config.groups, norm)),
        nn.ModuleList(blocks.up_conv(nd, coarse, fine) for fine, coarse in pairwise(widths)),
        nn.ModuleList(blocks.double_conv(nd, 2 * width, width, norm) for width in widths[:-1]),
        blocks.heads(nd, widths, outputs, config.deep_supervision),
    )
    blocks.initialise(net)
    return net
