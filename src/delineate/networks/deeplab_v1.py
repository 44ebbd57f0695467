"""DeepLab v1 (LargeFOV), ``(B, C, *S) -> (B, outputs, *S)``, in 2D or 3D.

Chen et al. 2015: VGG-like encoder whose last two poolings have lost their stride, so that features
stay at an eighth of the resolution, and a head that sees far by one atrous convolution of rate 12.
The scores are enlarged by linear interpolation. The dense random field that the paper puts behind
it is a step of inference, and no part of the network.

Kernel taps beyond the features' border see zeros and learn nothing, so a rate should stay below an
eighth of the patch's side; the published ones are for photographs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks
from delineate.networks import _vgg as vgg

PAPER = "Chen et al. 2015, arXiv:1412.7062"
KIND = "segmenter"


@dataclass(frozen=True)
class Config:
    """Shape of a DeepLab v1."""

    ndim: int = field(default=3, metadata={"help": "2 or 3 spatial dimensions"})
    width: int = field(default=16, metadata={"help": "channels at full resolution"})
    rate: int = field(
        default=12,
        metadata={"help": "reach of the head, in steps of 8 voxels; less for small images"},
    )
    norm: Literal["instance", "batch"] = field(
        default="instance", metadata={"help": "instance or batch"}
    )
    dropout: float = field(
        default=0.0, metadata={"help": "dropout of fc6 and fc7; 0.5 as published"}
    )

    def __post_init__(self) -> None:
        vgg.check(self.ndim, self.width, self.norm, levels=4)
        if self.rate < 1 or not 0 <= self.dropout < 1:
            raise ConfigError(
                f"expected rate >= 1 and 0 <= dropout < 1, got {self.rate}, {self.dropout}"
            )


def divisor(config: Config) -> int:
    """Every spatial size must be a multiple of this."""
    return 8


def derived(patch: Sequence[int]) -> dict[str, Any]:
    """The rate for patches of this size: the published one is for crops of 321 pixels."""
    return {"rate": vgg.scaled_rate(12, patch)}


def build(config: Config, channels: int, outputs: int) -> DeepLabV1:
    """A DeepLab v1 with fresh weights.

    Args:
        config: Shape of the network.
        channels: Input channels C.
        outputs: Output channels, background included.
    """
    return DeepLabV1(config, channels, outputs)


class DeepLabV1(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: Config, channels: int, outputs: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = vgg.atrous_encoder(config.ndim, channels, config.width, config.norm)
        self.head = vgg.atrous_head(
            config.ndim, config.width, outputs, config.rate, config.norm, config.dropout
        )
        blocks.initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, outputs, *S)``.

        Raises:
            ConfigError: A spatial size is no multiple of ``divisor``, or nothing but one voxel
                would be left at the coarsest level.
        """
        vgg.require_size(x.shape[2:], divisor(self.config))
        return vgg.resize(self.head(self.encoder(x)), x.shape[2:])
