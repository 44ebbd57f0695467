"""Bricks of networks made for ImageNet, ``(B, C, *S) -> (B, outputs)``.

At the paper's width every tensor has the name and the shape that torchvision gives it, so that a
file of such weights can be used as it is. Where those networks drop the last row or column of an
odd size on pooling, here odd sizes are halved upwards; at the sizes of the papers it is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks

#: Convolutions in each of VGG's stages, by depth.
VGG_STAGES = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


@dataclass(frozen=True)
class Flat:
    """What networks for flat images have in common."""

    ndim: int = field(default=2, metadata={"help": "2: for flat images alone"})
    width: int = field(default=16, metadata={"help": "channels of the first layer; paper: 64"})

    def __post_init__(self) -> None:
        if self.ndim != 2 or self.width < 1:
            raise ConfigError(f"expected ndim 2 and width >= 1, got {self.ndim}, {self.width}")


def require_one_of(name: str, value: int, known: Sequence[int]) -> None:
    """Refuse a variant that the papers do not have.

    Raises:
        ConfigError: Lists those that there are.
    """
    if value not in known:
        raise ConfigError(f"expected {name} {', '.join(map(str, known))}, got {value}")


def require_share(dropout: float) -> None:
    """Refuse a dropout that is no share of the features.

    Raises:
        ConfigError: Says what was expected.
    """
    if not 0 <= dropout < 1:
        raise ConfigError(f"expected 0 <= dropout < 1, got {dropout}")


def require_least(size: Sequence[int], least: int) -> None:
    """Refuse images of which the first layers would leave nothing.

    Raises:
        ConfigError: Names the nearest size that works.
    """
    if any(n < least for n in size):
        raise ConfigError(
            f"expected at least {least} pixels along every side, got {tuple(size)}",
            fix=f"pad or resize to {tuple(max(n, least) for n in size)}",
            code="size",
        )


def scaled(channels: int, width: int, paper: int) -> int:
    """The paper's channels where its first layer has ``width`` and not ``paper``; at least two."""
    return max(2, (2 * channels * width + paper) // (2 * paper))


def initialise(network: nn.Module, *last: nn.Linear) -> None:
    """He initialisation, and small weights in the last layers: at first all classes are as likely.

    The standard deviation of 0.01 is that of Krizhevsky et al. 2012.
    """
    blocks.initialise(network)
    for layer in last:
        nn.init.normal_(layer.weight, std=0.01)


class Unit(nn.Module):
    """Convolution without bias, batch norm, ReLU, with the names that the Inceptions have."""

    def __init__(
        self,
        before: int,
        after: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(after, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, before, H, W) -> (B, after, H', W')``."""
        return torch.relu(self.bn(self.conv(x)))


class HalvingPool(nn.Module):
    """Maximum or mean in steps of two, upwards: 2n - 1 voxels become n, and a single one stays."""

    def __init__(self, kernel: int = 2, average: bool = False) -> None:
        super().__init__()
        self.kernel, self.average = kernel, average

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, *S) -> (B, C, *S')``."""
        kernel = [min(self.kernel, n) for n in x.shape[2:]]
        if self.average:
            mean = F.avg_pool3d if x.ndim == 5 else F.avg_pool2d
            return mean(x, kernel, 2, ceil_mode=True)
        maximum = F.max_pool3d if x.ndim == 5 else F.max_pool2d
        return maximum(x, kernel, 2, ceil_mode=True)


class Vgg(nn.Module):
    """VGG of any depth and width with fresh weights, ``(B, C, H, W) -> (B, outputs)``.

    Args:
        depth: One of ``VGG_STAGES``.
        width: Channels of the first stage; the dense layers have 64 times as many.
        channels: Input channels.
        outputs: Classes.
        batch_norm: Whether a norm follows every convolution.
        dropout: Share of the dense layers' features that training leaves out.
    """

    def __init__(
        self, depth: int, width: int, channels: int, outputs: int, batch_norm: bool, dropout: float
    ) -> None:
        super().__init__()
        self.config: object = None  # of whoever builds it
        layers: list[nn.Module] = []
        before = channels
        for stage, count in enumerate(VGG_STAGES[depth]):
            after = width * min(2**stage, 8)
            for _ in range(count):
                layers.append(nn.Conv2d(before, after, 3, padding=1))
                if batch_norm:
                    layers.append(nn.BatchNorm2d(after))
                layers.append(nn.ReLU())
                before = after
            layers.append(HalvingPool())
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        dense = 64 * width
        last = nn.Linear(dense, outputs)
        self.classifier = nn.Sequential(
            nn.Linear(before * 49, dense), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(dense, dense), nn.ReLU(), nn.Dropout(dropout),
            last,
        )  # fmt: skip
        initialise(self, last)

    def embed(self, x: Tensor) -> Tensor:
        """Features before the last layer, ``(B, 64 width)``."""
        embedding: Tensor = self.classifier[:-1](self.avgpool(self.features(x)).flatten(1))
        return embedding

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, outputs)``."""
        logits: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return logits
