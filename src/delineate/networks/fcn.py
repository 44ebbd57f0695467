"""FCN-8s, ``(B, C, *S) -> (B, outputs, *S)``, in 2D or 3D.

Fully convolutional network of Long et al. 2015: a VGG-like encoder, class scores from its three
coarsest maps, added up from coarse to fine, and the sum enlarged to the size of the image. With six
levels the scores lie at strides 8, 16 and 32 as published; small images take fewer levels.

Two readings of ours: maps are enlarged by plain linear interpolation, which is where the paper's
transposed convolutions start from, and the layers ``fc6`` and ``fc7`` are 3-wide and 1-wide
convolutions of ``16 width`` channels, as Chen et al. 2015 (arXiv:1412.7062) found to be enough.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks
from delineate.networks import _vgg as vgg

PAPER = "Long et al. 2015, arXiv:1411.4038"
KIND = "segmenter"
SMALL = {"levels": 4}


@dataclass(frozen=True)
class Config:
    """Shape of an FCN."""

    ndim: int = field(default=3, metadata={"help": "2 or 3 spatial dimensions"})
    width: int = field(default=16, metadata={"help": "channels at full resolution"})
    levels: int = field(
        default=6, metadata={"help": "resolutions, the full one included; 6 as published"}
    )
    scores: int = field(
        default=3, metadata={"help": "maps that are scored: 3 FCN-8s, 2 FCN-16s, 1 FCN-32s"}
    )
    norm: Literal["instance", "batch"] = field(
        default="instance", metadata={"help": "instance or batch"}
    )
    dropout: float = field(
        default=0.0, metadata={"help": "dropout of fc6 and fc7; 0.5 as published"}
    )

    def __post_init__(self) -> None:
        vgg.check(self.ndim, self.width, self.norm, self.levels, most=6)
        if self.scores < 1 or not 0 <= self.dropout < 1:
            raise ConfigError(
                f"expected scores >= 1 and 0 <= dropout < 1, got {self.scores}, {self.dropout}"
            )


def divisor(config: Config) -> int:
    """Every spatial size must be a multiple of this."""
    return int(2 ** (config.levels - 1))


def build(config: Config, channels: int, outputs: int) -> FCN:
    """An FCN with fresh weights.

    Args:
        config: Shape of the network.
        channels: Input channels C.
        outputs: Output channels, background included.
    """
    return FCN(config, channels, outputs)


class FCN(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: Config, channels: int, outputs: int) -> None:
        super().__init__()
        self.config = config
        nd, stages = config.ndim, config.levels - 1
        self.encoder = vgg.encoder(nd, channels, config.width, stages, config.norm)
        self.pool = blocks.max_pool(nd)
        *before, last = vgg.widths(config.width, stages)
        top = 16 * config.width
        self.top = nn.Sequential(
            vgg.unit(nd, last, top, norm=config.norm),
            nn.Dropout(config.dropout),
            vgg.unit(nd, top, top, kernel=1, norm=config.norm),
            nn.Dropout(config.dropout),
        )
        scored = [*before, top][-config.scores :]
        self.scores = nn.ModuleList(blocks.conv(nd, width, outputs, 1) for width in scored)
        blocks.initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, outputs, *S)``.

        Raises:
            ConfigError: A spatial size is no multiple of ``divisor``, or nothing but one voxel
                would be left at the coarsest level.
        """
        size = x.shape[2:]
        vgg.require_size(size, divisor(self.config))
        maps: list[Tensor] = []
        for stage in self.encoder:
            x = self.pool(stage(x))
            maps.append(x)
        maps[-1] = self.top(x)
        *finer, coarsest = zip(self.scores, maps[-len(self.scores) :], strict=True)
        score, features = coarsest
        total: Tensor = score(features)
        for score, features in reversed(finer):
            total = vgg.resize(total, features.shape[2:]) + score(features)
        return vgg.resize(total, size)
