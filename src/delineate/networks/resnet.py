"""ResNet, ``(B, C, *S) -> (B, outputs)``, in 2D or 3D.

Residual blocks of two 3-wide convolutions (depths 18 and 34) or of a bottleneck of three (50, 101,
152), the mean over space and one linear layer (He et al. 2016, arXiv:1512.03385). The stride of a
bottleneck is in its 3-wide convolution. ``width=64`` is the paper's and takes torchvision's weights
``resnet18`` to ``resnet152``, in 3D repeated over slices.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks
from delineate.networks import _imagenet as imagenet

PAPER = "He et al. 2016, arXiv:1512.03385"
KIND = "classifier"
#: Blocks in each of the four stages, by depth.
STAGES = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


@dataclass(frozen=True)
class Config:
    """Shape of a ResNet."""

    ndim: int = field(default=2, metadata={"help": "2 or 3 spatial dimensions"})
    width: int = field(default=16, metadata={"help": "channels of the first layer; paper: 64"})
    depth: int = field(default=18, metadata={"help": "layers with weights: 18, 34, 50, 101 or 152"})

    def __post_init__(self) -> None:
        if self.ndim not in (2, 3) or self.width < 1:
            raise ConfigError(f"expected ndim 2 or 3 and width >= 1, got {self.ndim}, {self.width}")
        imagenet.require_one_of("depth", self.depth, list(STAGES))


def divisor(config: Config) -> int:
    """Any size will do: odd sizes are halved upwards."""
    return 1


def build(config: Config, channels: int, outputs: int) -> ResNet:
    """A ResNet with fresh weights (He initialisation).

    Args:
        config: Shape of the network.
        channels: Input channels C.
        outputs: Classes.
    """
    return ResNet(config, channels, outputs)


def _conv(nd: int, before: int, after: int, kernel: int, stride: int = 1) -> nn.Module:
    kind = nn.Conv3d if nd == 3 else nn.Conv2d
    return kind(before, after, kernel, stride, kernel // 2, bias=False)


class Block(nn.Module):
    """Two or three convolutions with norms, and a shortcut around all of them.

    Args:
        nd: Spatial dimensions.
        before: Channels that come in.
        width: Channels inside; a bottleneck gives four times as many.
        stride: Of the first 3-wide convolution.
        bottleneck: 1-wide, 3-wide, 1-wide instead of twice 3-wide.
    """

    def __init__(self, nd: int, before: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        after = 4 * width if bottleneck else width
        self.conv1 = _conv(nd, before, width, *((1, 1) if bottleneck else (3, stride)))
        self.bn1 = blocks.norm(nd, width, "batch")
        self.conv2 = _conv(nd, width, width, 3, stride if bottleneck else 1)
        self.bn2 = blocks.norm(nd, width, "batch")
        if bottleneck:
            self.conv3 = _conv(nd, width, after, 1)
            self.bn3 = blocks.norm(nd, after, "batch")
        self.bottleneck = bottleneck
        self.downsample: nn.Module | None = None
        if stride > 1 or before != after:
            self.downsample = nn.Sequential(
                _conv(nd, before, after, 1, stride), blocks.norm(nd, after, "batch")
            )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, before, *S) -> (B, after, *S / stride)``."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.bottleneck:
            y = self.bn3(self.conv3(torch.relu(y)))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: Config, channels: int, outputs: int) -> None:
        super().__init__()
        self.config = config
        nd, width, bottleneck = config.ndim, config.width, config.depth >= 50
        self.conv1 = _conv(nd, channels, width, 7, 2)
        self.bn1 = blocks.norm(nd, width, "batch")
        self.maxpool = (nn.MaxPool3d if nd == 3 else nn.MaxPool2d)(3, 2, 1)
        before, stages = width, []
        for stage, count in enumerate(STAGES[config.depth]):
            layers = []
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                layers.append(Block(nd, before, width * 2**stage, stride, bottleneck))
                before = width * 2**stage * (4 if bottleneck else 1)
            stages.append(nn.Sequential(*layers))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(before, outputs)
        imagenet.initialise(self, self.fc)

    def embed(self, x: Tensor) -> Tensor:
        """Features before the last layer, ``(B, F)``."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.flatten(2).mean(2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, outputs)``."""
        logits: Tensor = self.fc(self.embed(x))
        return logits
