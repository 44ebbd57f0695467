"""DeepLab v2 (ASPP), ``(B, C, *S) -> (B, outputs, *S)``, in 2D or 3D.

Chen et al. 2018: the features of DeepLab v1, at an eighth of the resolution, read by atrous
convolutions of several rates side by side, whose scores are added up (atrous spatial pyramid
pooling). The encoder is the VGG-like one; the paper also has one of ResNet-101. The dense random
field that the paper puts behind it is a step of inference, and no part of the network.

Kernel taps beyond the features' border see zeros and learn nothing, so a rate should stay below an
eighth of the patch's side; the published ones are for photographs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks
from delineate.networks import _vgg as vgg

PAPER = "Chen et al. 2018, arXiv:1606.00915"
KIND = "segmenter"


@dataclass(frozen=True)
class Config:
    """Shape of a DeepLab v2."""

    ndim: int = field(default=3, metadata={"help": "2 or 3 spatial dimensions"})
    width: int = field(default=16, metadata={"help": "channels at full resolution"})
    rates: tuple[int, ...] = field(
        default=(6, 12, 18, 24),
        metadata={"help": "reaches of the heads, in steps of 8 voxels; less for small images"},
    )
    norm: Literal["instance", "batch"] = field(
        default="instance", metadata={"help": "instance or batch"}
    )
    dropout: float = field(
        default=0.0, metadata={"help": "dropout of fc6 and fc7; 0.5 as published"}
    )

    def __post_init__(self) -> None:
        vgg.check(self.ndim, self.width, self.norm, levels=4)
        if not self.rates or min(self.rates) < 1 or not 0 <= self.dropout < 1:
            raise ConfigError(
                f"expected rates >= 1 and 0 <= dropout < 1, got {self.rates}, {self.dropout}"
            )


def divisor(config: Config) -> int:
    """Every spatial size must be a multiple of this."""
    return 8


def derived(patch: Sequence[int]) -> dict[str, Any]:
    """The rates for patches of this size: the published ones are for crops of 321 pixels."""
    return {"rates": tuple(vgg.scaled_rate(rate, patch) for rate in (6, 12, 18, 24))}


def build(config: Config, channels: int, outputs: int) -> DeepLabV2:
    """A DeepLab v2 with fresh weights.

    Args:
        config: Shape of the network.
        channels: Input channels C.
        outputs: Output channels, background included.
    """
    return DeepLabV2(config, channels, outputs)


class DeepLabV2(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: Config, channels: int, outputs: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = vgg.atrous_encoder(config.ndim, channels, config.width, config.norm)
        self.heads = nn.ModuleList(
            vgg.atrous_head(config.ndim, config.width, outputs, rate, config.norm, config.dropout)
            for rate in config.rates
        )
        blocks.initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, outputs, *S)``.

        Raises:
            ConfigError: A spatial size is no multiple of ``divisor``, or nothing but one voxel
                would be left at the coarsest level.
        """
        vgg.require_size(x.shape[2:], divisor(self.config))
        features = self.encoder(x)
        scores = torch.stack([head(features) for head in self.heads]).sum(0)
        return vgg.resize(scores, x.shape[2:])
