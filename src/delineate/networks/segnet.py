"""SegNet, ``(B, C, *S) -> (B, outputs, *S)``, in 2D or 3D.

Encoder and mirrored decoder of Badrinarayanan et al. 2017, arXiv:1511.00561: the encoder is
VGG-like and remembers where each maximum lay; the decoder puts values back to those places, leaves
zeros between them, and lets convolutions fill in. No features are passed on beside the bottleneck.
Six levels as published; small images take fewer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from delineate.networks import _blocks as blocks
from delineate.networks import _vgg as vgg

PAPER = "Badrinarayanan et al. 2017, arXiv:1511.00561"
KIND = "segmenter"
SMALL = {"levels": 4}


@dataclass(frozen=True)
class Config:
    """Shape of a SegNet."""

    ndim: int = field(default=3, metadata={"help": "2 or 3 spatial dimensions"})
    width: int = field(default=16, metadata={"help": "channels at full resolution"})
    levels: int = field(
        default=6, metadata={"help": "resolutions, the full one included; 6 as published"}
    )
    norm: Literal["instance", "batch"] = field(
        default="instance", metadata={"help": "instance or batch"}
    )

    def __post_init__(self) -> None:
        vgg.check(self.ndim, self.width, self.norm, self.levels, most=6)


def divisor(config: Config) -> int:
    """Every spatial size must be a multiple of this."""
    return int(2 ** (config.levels - 1))


def build(config: Config, channels: int, outputs: int) -> SegNet:
    """A SegNet with fresh weights.

    Args:
        config: Shape of the network.
        channels: Input channels C.
        outputs: Output channels, background included.
    """
    return SegNet(config, channels, outputs)


def pool(x: Tensor) -> tuple[Tensor, Tensor]:
    """Maxima of ``(B, C, *S)`` over 2 x 2 (x 2), and their places: both ``(B, C, *S/2)``."""
    largest = F.max_pool3d if x.ndim == 5 else F.max_pool2d
    maxima, places = largest(x, 2, return_indices=True)
    return maxima, places


def unpool(x: Tensor, places: Tensor, size: torch.Size) -> Tensor:
    """Values ``(B, C, *S/2)`` at their places in zeros of ``size`` = ``(B, C, *S)``.

    What ``max_unpool`` does, by a scatter: that one is refused where results must repeat, and ONNX
    has no operator for it.
    """
    empty = x.new_zeros(size).flatten(2)
    return empty.scatter(2, places.flatten(2), x.flatten(2)).view(size)


class SegNet(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: Config, channels: int, outputs: int) -> None:
        super().__init__()
        self.config = config
        nd, stages, norm = config.ndim, config.levels - 1, config.norm
        self.encoder = vgg.encoder(nd, channels, config.width, stages, norm)
        wide = vgg.widths(config.width, stages)
        self.decoder = nn.ModuleList(
            nn.Sequential(
                *(vgg.unit(nd, before, before, norm=norm) for _ in range(count - 1)),
                *([vgg.unit(nd, before, after, norm=norm)] if after else []),
            )
            # the finest stage's last convolution is the head, which has no norm
            for before, after, count in zip(wide, [0, *wide], vgg.CONVOLUTIONS, strict=False)
        )
        self.head = blocks.conv(nd, config.width, outputs)
        blocks.initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, outputs, *S)``.

        Raises:
            ConfigError: A spatial size is no multiple of ``divisor``.
        """
        blocks.require_multiple(x.shape[2:], divisor(self.config))
        pooled: list[tuple[Tensor, torch.Size]] = []
        for stage in self.encoder:
            x = stage(x)
            size = x.shape
            x, places = pool(x)
            pooled.append((places, size))
        for stage, (places, size) in zip(reversed(self.decoder), reversed(pooled), strict=True):
            x = stage(unpool(x, places, size))
        logits: Tensor = self.head(x)
        return logits
