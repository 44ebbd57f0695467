"""U-Net on a MobileNetV2 encoder, ``(B, C, *S) -> (B, outputs, *S)``, in 2D or 3D.

Inverted residuals with expansion 6 and linear bottlenecks (Sandler et al. 2018, arXiv:1801.04381)
encode; a plain U-Net decoder takes the features before each halving, and the image itself at full
resolution. With ``width=32``, three channels in, two dimensions and batch norm the encoder has the
paper's widths and torchvision's names: ``net.encoder.load_state_dict(weights, strict=False)`` takes
a local copy of weights learnt on ImageNet and leaves their classifier (``features.18`` and
``classifier``) aside. Fewer levels than six drop the last strides and keep all blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks

PAPER = "Sandler et al. 2018, arXiv:1801.04381; Ronneberger et al. 2015, arXiv:1505.04597"
KIND = "segmenter"
SMALL = {"levels": 4}

#: Expansion, channels at width 32, blocks and stride of each group (Sandler et al. 2018, table 2).
GROUPS = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
    (6, 320, 1, 1),
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Shape of a MobileNetV2 U-Net; the budget planner sets what is left open."""

    ndim: int = field(default=3, metadata={"help": "2 or 3 spatial dimensions"})
    width: int = field(default=32, metadata={"help": "channels of the first convolution"})
    levels: int = field(default=6, metadata={"help": "resolutions, the full one included: 2 to 6"})
    deep_supervision: int = field(
        default=0, metadata={"help": "coarser decoder levels that get a loss of their own"}
    )
    norm: Literal["instance", "batch"] = field(
        default="instance", metadata={"help": "instance, or batch, as weights from elsewhere need"}
    )

    def __post_init__(self) -> None:
        if self.ndim not in (2, 3):
            raise ConfigError(f"expected ndim 2 or 3, got {self.ndim}")
        if not 2 <= self.levels <= 6:
            raise ConfigError(f"expected levels from 2 to 6, got {self.levels}")
        if self.width < 1 or self.deep_supervision < 0:
            raise ConfigError(
                "expected width >= 1 and deep_supervision >= 0, "
                f"got {self.width}, {self.deep_supervision}"
            )


def divisor(config: Config) -> int:
    """Every spatial size must be a multiple of this."""
    return int(2 ** (config.levels - 1))


def build(config: Config, channels: int, outputs: int) -> MobileNetUNet:
    """A MobileNetV2 U-Net with fresh weights (He initialisation)."""
    net = MobileNetUNet(config, channels, outputs)
    blocks.initialise(net)
    return net


class MobileNetUNet(blocks.UShape):
    """See the module's docstring."""

    def __init__(self, config: Config, channels: int, outputs: int) -> None:
        nd = config.ndim
        encoder = Encoder(config, channels)
        widths = [_scaled(16, config.width), *encoder.widths]
        skips = [channels, *encoder.widths]
        super().__init__(
            config,
            encoder,
            nn.ModuleList(blocks.up_conv(nd, coarse, fine) for fine, coarse in pairwise(widths)),
            nn.ModuleList(
                blocks.double_conv(nd, skip + width, width, config.norm)
                for skip, width in zip(skips[:-1], widths[:-1], strict=True)
            ),
            blocks.heads(nd, widths, outputs, config.deep_supervision),
        )

    def encode(self, x: Tensor) -> list[Tensor]:
        """The image and the encoder's features before each halving, finest first."""
        return [x, *self.encoder(x)]


class Encoder(nn.Module):
    """MobileNetV2 without its classifier, ``(B, C, *S)`` -> features at halves, quarters ..."""

    def __init__(self, config: Config, channels: int) -> None:
        super().__init__()
        nd, kind = config.ndim, config.norm
        strides_left = config.levels - 2
        before = _scaled(32, config.width)
        features: list[nn.Module] = [_unit(nd, channels, before, kind, 3, 2)]
        self.widths: list[int] = []
        self.last: list[int] = []  # index of the last block of each resolution
        for expansion, full, count, stride in GROUPS:
            after = _scaled(full, config.width)
            if stride == 2 and strides_left:
                strides_left -= 1
                self.widths.append(before)
                self.last.append(len(features) - 1)
            else:
                stride = 1
            for i in range(count):
                step = 1 if i else stride
                features.append(InvertedResidual(nd, before, after, kind, step, expansion))
                before = after
        self.widths.append(before)
        self.last.append(len(features) - 1)
        self.features = nn.Sequential(*features)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of each resolution, finest (half) first."""
        features = []
        for i, block in enumerate(self.features):
            x = block(x)
            if i in self.last:
                features.append(x)
        return features


class InvertedResidual(nn.Module):
    """Widen, look around in each channel by itself, narrow; a shortcut where shapes agree."""

    def __init__(
        self, nd: int, before: int, after: int, kind: str, stride: int, expansion: int
    ) -> None:
        super().__init__()
        inner = before * expansion
        wider = [_unit(nd, before, inner, kind, 1)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *wider,
            _unit(nd, inner, inner, kind, 3, stride, groups=inner),
            _conv(nd, inner, after, 1),
            blocks.norm(nd, after, kind),
        )
        self.shortcut = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        """``(B, before, *S) -> (B, after, *S / stride)``."""
        output: Tensor = self.conv(x)
        return x + output if self.shortcut else output


def _scaled(channels: int, width: int) -> int:
    return max(2, round(channels * width / 32))


def _conv(
    nd: int, before: int, after: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Module:
    kind = nn.Conv3d if nd == 3 else nn.Conv2d
    return kind(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)


def _unit(
    nd: int, before: int, after: int, kind: str, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        _conv(nd, before, after, kernel, stride, groups), blocks.norm(nd, after, kind), nn.ReLU6()
    )
