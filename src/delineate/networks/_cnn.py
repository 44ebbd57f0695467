"""Plain classifiers, ``(B, C, *S) -> (B, outputs)``: convolutions, pooling, two dense layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks
from delineate.networks import _imagenet as imagenet


@dataclass(frozen=True)
class PlainConfig:
    """Shape of a plain classifier."""

    ndim: int = field(default=2, metadata={"help": "2 or 3 spatial dimensions"})
    width: int = field(default=32, metadata={"help": "channels at full resolution"})
    depth: int = field(default=4, metadata={"help": "blocks, each with a pooling that halves"})
    max_width: int = field(default=256, metadata={"help": "channels of the last block at most"})
    hidden: int = field(default=128, metadata={"help": "features before the last layer"})
    dropout: float = field(default=0.5, metadata={"help": "dropout before the last layer"})
    norm: Literal["instance", "batch"] = field(
        default="batch", metadata={"help": "instance or batch"}
    )

    def __post_init__(self) -> None:
        if self.ndim not in (2, 3):
            raise ConfigError(f"expected ndim 2 or 3, got {self.ndim}")
        if min(self.width, self.depth, self.max_width, self.hidden) < 1:
            raise ConfigError(
                "expected width, depth, max_width and hidden >= 1, got "
                f"{self.width}, {self.depth}, {self.max_width}, {self.hidden}"
            )
        imagenet.require_share(self.dropout)
        blocks.norm(2, 1, self.norm)


def widths(config: PlainConfig) -> list[int]:
    """Channels by block."""
    return [min(config.width * 2**i, config.max_width) for i in range(config.depth)]


def stack(config: PlainConfig, nd: int, channels: int, convolutions: int = 1) -> nn.Sequential:
    """The blocks, ``(B, channels, *S) -> (B, widths[-1], *S')``, each halving upwards."""
    layers: list[nn.Module] = []
    for before, width in pairwise([channels, *widths(config)]):
        for i in range(convolutions):
            layers.append(blocks.conv(nd, width if i else before, width))
            layers.append(blocks.norm(nd, width, config.norm))
            layers.append(nn.ReLU())
        layers.append(imagenet.HalvingPool())
    return nn.Sequential(*layers)


def require_voxels(size: Sequence[int], depth: int) -> None:
    """Refuse sizes of which the last block would see a single voxel.

    Raises:
        ConfigError: Names a size that works.
    """
    least = 2 ** (depth - 1)
    if all(n <= least for n in size):
        raise ConfigError(
            f"expected more than one voxel in the last block, got {tuple(size)}",
            fix=f"pad to {(least + 1,) * len(size)}, or use a smaller depth",
            code="size",
        )


class PlainClassifier(nn.Module):
    """Blocks of convolution, norm and ReLU; the mean over space; two dense layers.

    Args:
        config: Shape of the network.
        channels: Input channels.
        outputs: Classes.
        convolutions: In each block.
    """

    def __init__(
        self, config: PlainConfig, channels: int, outputs: int, convolutions: int = 1
    ) -> None:
        super().__init__()
        self.config = config
        self.features = stack(config, config.ndim, channels, convolutions)
        self.dense = nn.Sequential(nn.Linear(widths(config)[-1], config.hidden), nn.ReLU())
        last = nn.Linear(config.hidden, outputs)
        self.head = nn.Sequential(nn.Dropout(config.dropout), last)
        imagenet.initialise(self, last)

    def embed(self, x: Tensor) -> Tensor:
        """Features before the last layer, ``(B, hidden)``."""
        require_voxels(x.shape[2:], self.config.depth)
        embedding: Tensor = self.dense(self.features(x).flatten(2).mean(2))
        return embedding

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, outputs)``.

        Raises:
            ConfigError: One voxel would be left in the last block; a size that works is named.
        """
        logits: Tensor = self.head(self.embed(x))
        return logits
