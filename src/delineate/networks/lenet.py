"""LeNet-5, ``(B, C, H, W) -> (B, outputs)``, in 2D.

Two 5 x 5 convolutions with pooling and three dense layers (LeCun et al. 1998), with ReLU. Maps are
brought to 5 x 5 before the dense layers, which for the paper's 32 x 32 they are. ``pool="minmax"``
puts minima beside maxima and lets a 1 x 1 convolution choose, after networks for Alzheimer's
disease (Hazarika et al. 2022).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _imagenet as imagenet

PAPER = "LeCun et al. 1998, doi:10.1109/5.726791"
KIND = "classifier"
#: Pixels along a side, so that one is left after both convolutions.
LEAST = 13
_POOLS = ("max", "avg", "minmax")


@dataclass(frozen=True)
class Config:
    """Shape of a LeNet-5."""

    ndim: int = field(default=2, metadata={"help": "2: for flat images alone"})
    filters: tuple[int, ...] = field(
        default=(6, 16), metadata={"help": "channels of the two convolutions"}
    )
    hidden: tuple[int, ...] = field(
        default=(120, 84), metadata={"help": "features of the two dense layers before the last"}
    )
    pool: Literal["max", "avg", "minmax"] = field(
        default="max", metadata={"help": "max, avg or minmax"}
    )

    def __post_init__(self) -> None:
        if self.ndim != 2 or self.pool not in _POOLS:
            raise ConfigError(
                f"expected ndim 2 and pool {', '.join(_POOLS)}, got {self.ndim}, {self.pool!r}"
            )
        if len(self.filters) != 2 or len(self.hidden) != 2 or min(*self.filters, *self.hidden) < 1:
            raise ConfigError(
                "expected two filters and two hidden features, all >= 1, got "
                f"{self.filters}, {self.hidden}"
            )


def divisor(config: Config) -> int:
    """Any size from 13 on will do: odd sizes are halved upwards."""
    return 1


def build(config: Config, channels: int, outputs: int) -> LeNet:
    """A LeNet-5 with fresh weights (He initialisation).

    Args:
        config: Shape of the network.
        channels: Input channels C.
        outputs: Classes.
    """
    return LeNet(config, channels, outputs)


class MinMaxPool(nn.Module):
    """Maxima beside minima, ``(B, C, H, W) -> (B, 2C, ceil(H/2), ceil(W/2))``."""

    def __init__(self) -> None:
        super().__init__()
        self.maximum = imagenet.HalvingPool()

    def forward(self, x: Tensor) -> Tensor:
        """Channels of maxima first."""
        return torch.cat([self.maximum(x), -self.maximum(-x)], 1)


def _pool(kind: str, width: int) -> nn.Module:
    if kind == "minmax":
        return nn.Sequential(MinMaxPool(), nn.Conv2d(2 * width, width, 1))
    return imagenet.HalvingPool(average=kind == "avg")


class LeNet(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: Config, channels: int, outputs: int) -> None:
        super().__init__()
        self.config = config
        first, second = config.filters
        third, fourth = config.hidden
        self.features = nn.Sequential(
            nn.Conv2d(channels, first, 5), nn.ReLU(), _pool(config.pool, first),
            nn.Conv2d(first, second, 5), nn.ReLU(), _pool(config.pool, second),
            nn.AdaptiveAvgPool2d(5),
        )  # fmt: skip
        self.dense = nn.Sequential(
            nn.Linear(25 * second, third), nn.ReLU(), nn.Linear(third, fourth), nn.ReLU()
        )
        self.head = nn.Linear(fourth, outputs)
        imagenet.initialise(self, self.head)

    def embed(self, x: Tensor) -> Tensor:
        """Features before the last layer, ``(B, 84)``."""
        imagenet.require_least(x.shape[2:], LEAST)
        embedding: Tensor = self.dense(self.features(x).flatten(1))
        return embedding

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, outputs)``.

        Raises:
            ConfigError: Less than 13 pixels along a side; the nearest size is named.
        """
        logits: Tensor = self.head(self.embed(x))
        return logits
