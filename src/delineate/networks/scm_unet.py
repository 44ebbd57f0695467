"""U-Net with a similarity connection, ``(B, C, *S) -> (B, outputs, *S)``, in 2D or 3D.

The segmenter of CPGAN (Wang S. et al. 2021, arXiv:2008.13109): places of the coarse features that
look alike inform each other wherever they lie, as in a non-local block (Wang X. et al. 2018,
arXiv:1711.07971). The block works on the features at an eighth of the resolution, or the coarsest
where there are fewer levels, with half as many channels for queries, keys and values; keys and
values are pooled so that an image has at most 32 x 32 of them, in 3D as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks

PAPER = "Wang S. et al. 2021, arXiv:2008.13109; Wang X. et al. 2018, arXiv:1711.07971"
KIND = "segmenter"


@dataclass(frozen=True)
class Config(blocks.UShapeConfig):
    """Shape of a U-Net with a similarity connection."""

    positions: int = field(default=1024, metadata={"help": "keys of an image at most"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.positions < 1:
            raise ConfigError(f"expected positions >= 1, got {self.positions}")


def divisor(config: Config) -> int:
    """Every spatial size must be a multiple of this."""
    return int(2 ** (config.levels - 1))


def build(config: Config, channels: int, outputs: int) -> blocks.UShape:
    """A U-Net whose encoder has a similarity connection at an eighth of the resolution."""
    nd, kind, widths = config.ndim, config.norm, config.widths
    encoder = nn.ModuleList(
        blocks.double_conv(nd, before, width, kind, stride=2 if i else 1)
        for i, (before, width) in enumerate(pairwise([channels, *widths]))
    )
    level = min(3, config.levels - 1)
    connection = SimilarityConnection(nd, widths[level], config.positions)
    encoder[level] = nn.Sequential(encoder[level], connection)
    net = blocks.UShape(
        config,
        encoder,
        nn.ModuleList(blocks.up_conv(nd, coarse, fine) for fine, coarse in pairwise(widths)),
        nn.ModuleList(blocks.double_conv(nd, 2 * width, width, kind) for width in widths[:-1]),
        blocks.heads(nd, widths, outputs, config.deep_supervision),
    )
    blocks.initialise(net)
    return net


class SimilarityConnection(nn.Module):
    """Non-local block, ``(B, C, *S) -> (B, C, *S)``; each place gathers from similar ones."""

    def __init__(self, nd: int, width: int, positions: int) -> None:
        super().__init__()
        half = max(1, width // 2)
        self.positions = positions
        self.query = blocks.conv(nd, width, half, 1)
        self.key = blocks.conv(nd, width, half, 1)
        self.value = blocks.conv(nd, width, half, 1)
        self.out = blocks.conv(nd, half, width, 1)
        self.pool = F.max_pool3d if nd == 3 else F.max_pool2d

    def forward(self, x: Tensor) -> Tensor:
        """``x`` and what the places that are similar to each place say."""
        size = x.shape[2:]
        step = pool_step(size, self.positions)
        pooled = self.pool(x, step, ceil_mode=True) if step > 1 else x
        query, key, value = (
            part.flatten(2).transpose(1, 2)[:, None]  # one head: exporters know no other form
            for part in (self.query(x), self.key(pooled), self.value(pooled))
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        gathered: Tensor = self.out(attended[:, 0].transpose(1, 2).reshape(x.shape[0], -1, *size))
        return x + gathered


def pool_step(size: tuple[int, ...], positions: int) -> int:
    """Smallest pooling window that leaves at most ``positions`` places of ``size``."""
    step = 1
    while math.prod(-(-n // step) for n in size) > positions:
        step += 1
    return step
