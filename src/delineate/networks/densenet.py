"""DenseNet, ``(B, C, *S) -> (B, outputs)``, in 2D or 3D.

Each layer sees the features of all before it in its block (Huang et al. 2017, arXiv:1608.06993).
``width=64`` (with ``depth=161``: 96) is the paper's and takes torchvision's weights
``densenet121`` to ``densenet201``; files with the older names of layers pass through ``renamed``.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks
from delineate.networks import _imagenet as imagenet

PAPER = "Huang et al. 2017, arXiv:1608.06993"
KIND = "classifier"
SMALL = {"layers": (2, 3, 2)}
#: Layers in each of the four blocks, by depth.
STAGES = {
    121: (6, 12, 24, 16),
    161: (6, 12, 36, 24),
    169: (6, 12, 32, 32),
    201: (6, 12, 48, 32),
}
#: Features that a layer's 1-wide convolution has for every one that the layer adds.
_BOTTLENECK = 4
_OLD = re.compile(r"(.*denselayer\d+\.(?:norm|conv))\.([12])\.(.+)")


@dataclass(frozen=True)
class Config:
    """Shape of a DenseNet."""

    ndim: int = field(default=2, metadata={"help": "2 or 3 spatial dimensions"})
    width: int = field(default=16, metadata={"help": "channels of the first layer; paper: 64"})
    growth: int = field(default=0, metadata={"help": "features that a layer adds; 0: width / 2"})
    depth: int = field(default=121, metadata={"help": "layers with weights: 121, 161, 169 or 201"})
    layers: tuple[int, ...] = field(
        default=(), metadata={"help": "layers of each block; empty: what depth says"}
    )

    def __post_init__(self) -> None:
        if self.ndim not in (2, 3) or self.width < 2 or self.growth < 0:
            raise ConfigError(
                f"expected ndim 2 or 3, width >= 2 and growth >= 0, got "
                f"{self.ndim}, {self.width}, {self.growth}"
            )
        imagenet.require_one_of("depth", self.depth, list(STAGES))
        if self.layers and min(self.layers) < 1:
            raise ConfigError(f"expected layers >= 1 in every block, got {self.layers}")

    def complete(self, ndim: int) -> Self:
        """What was left open: the features that a layer adds."""
        return replace(self, growth=self.growth or self.width // 2)


def divisor(config: Config) -> int:
    """Any size will do: odd sizes are halved upwards."""
    return 1


def build(config: Config, channels: int, outputs: int) -> DenseNet:
    """A DenseNet with fresh weights (He initialisation).

    Args:
        config: Shape of the network.
        channels: Input channels C.
        outputs: Classes.
    """
    return DenseNet(config, channels, outputs)


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Older files say ``denselayer1.norm.1.weight`` for ``denselayer1.norm1.weight``."""
    return {_OLD.sub(r"\1\2.\3", name): tensor for name, tensor in tensors.items()}


def _conv(nd: int, before: int, after: int, kernel: int, stride: int = 1) -> nn.Module:
    kind = nn.Conv3d if nd == 3 else nn.Conv2d
    return kind(before, after, kernel, stride, kernel // 2, bias=False)


class DenseLayer(nn.Module):
    """Norm, ReLU, 1-wide and 3-wide convolution: ``(B, before, *S) -> (B, growth, *S)``."""

    def __init__(self, nd: int, before: int, growth: int) -> None:
        super().__init__()
        inner = _BOTTLENECK * growth
        self.norm1 = blocks.norm(nd, before, "batch")
        self.conv1 = _conv(nd, before, inner, 1)
        self.norm2 = blocks.norm(nd, inner, "batch")
        self.conv2 = _conv(nd, inner, growth, 3)

    def forward(self, x: Tensor) -> Tensor:
        """New features alone."""
        x = self.conv1(torch.relu(self.norm1(x)))
        features: Tensor = self.conv2(torch.relu(self.norm2(x)))
        return features


class DenseBlock(nn.Module):
    """Layers of which each sees all before it."""

    def __init__(self, nd: int, before: int, growth: int, count: int) -> None:
        super().__init__()
        for i in range(count):
            self.add_module(f"denselayer{i + 1}", DenseLayer(nd, before + i * growth, growth))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, before, *S) -> (B, before + count * growth, *S)``."""
        for layer in self.children():
            x = torch.cat([x, layer(x)], 1)
        return x


def _transition(nd: int, before: int) -> nn.Sequential:
    parts: dict[str, nn.Module] = {
        "norm": blocks.norm(nd, before, "batch"),
        "relu": nn.ReLU(),
        "conv": _conv(nd, before, before // 2, 1),
        "pool": imagenet.HalvingPool(average=True),
    }
    return nn.Sequential(OrderedDict(parts))


class DenseNet(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: Config, channels: int, outputs: int) -> None:
        super().__init__()
        self.config = config
        nd, width = config.ndim, config.width
        growth = config.growth or width // 2
        parts: dict[str, nn.Module] = {
            "conv0": _conv(nd, channels, width, 7, 2),
            "norm0": blocks.norm(nd, width, "batch"),
            "relu0": nn.ReLU(),
            "pool0": (nn.MaxPool3d if nd == 3 else nn.MaxPool2d)(3, 2, 1),
        }
        stages = config.layers or STAGES[config.depth]
        for i, count in enumerate(stages, 1):
            parts[f"denseblock{i}"] = DenseBlock(nd, width, growth, count)
            width += count * growth
            if i < len(stages):
                parts[f"transition{i}"] = _transition(nd, width)
                width //= 2
        parts["norm5"] = blocks.norm(nd, width, "batch")
        self.features = nn.Sequential(OrderedDict(parts))
        self.classifier = nn.Linear(width, outputs)
        imagenet.initialise(self, self.classifier)

    def embed(self, x: Tensor) -> Tensor:
        """Features before the last layer, ``(B, F)``."""
        return torch.relu(self.features(x)).flatten(2).mean(2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, outputs)``."""
        logits: Tensor = self.classifier(self.embed(x))
        return logits
