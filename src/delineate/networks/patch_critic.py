"""Patch critic, ``(B, C, *S) -> (B, 1, *S/2^layers)``: one realness score a patch.

The PatchGAN discriminator of Isola et al. 2017 (arXiv:1611.07004) with spectral norm
(Miyato et al. 2018, arXiv:1802.05957) and no batch norm. It sees the image and a mask, joined on
the channel axis, and scores them where they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks

PAPER = "Isola et al. 2017, arXiv:1611.07004"
KIND = "critic"


@dataclass(frozen=True)
class Config:
    """Shape of a patch critic."""

    ndim: int = field(default=3, metadata={"help": "2 or 3 spatial dimensions"})
    width: int = field(default=16, metadata={"help": "channels of the first layer"})
    layers: int = field(default=2, metadata={"help": "strided layers; each halves the resolution"})
    spectral_norm: bool = field(default=True, metadata={"help": "bound every layer's gain by 1"})

    def __post_init__(self) -> None:
        if self.ndim not in (2, 3) or self.layers < 1 or self.width < 1:
            raise ConfigError(
                "expected ndim 2 or 3, layers >= 1 and width >= 1, "
                f"got {self.ndim}, {self.layers}, {self.width}"
            )


def divisor(config: Config) -> int:
    """Every spatial size must be a multiple of this."""
    return int(2**config.layers)


def build(config: Config, channels: int, outputs: int = 1) -> PatchCritic:
    """A patch critic for ``channels`` input channels (image and mask together)."""
    return PatchCritic(config, channels, outputs)


class PatchCritic(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: Config, channels: int, outputs: int) -> None:
        super().__init__()
        self.config = config
        kind = nn.Conv3d if config.ndim == 3 else nn.Conv2d
        layers: list[nn.Module] = []
        before = channels
        for i in range(config.layers):
            after = config.width * 2**i
            layers += [kind(before, after, 4, 2, 1), nn.LeakyReLU(0.2)]
            before = after
        layers.append(kind(before, outputs, 3, 1, 1))
        self.layers = nn.Sequential(*layers)
        blocks.initialise(self)
        if config.spectral_norm:
            for i, layer in enumerate(self.layers):
                if isinstance(layer, nn.Conv2d | nn.Conv3d):
                    self.layers[i] = nn.utils.parametrizations.spectral_norm(layer)

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``(B, 1, *S/2^layers)``; high means real.

        Raises:
            ConfigError: A spatial size is no multiple of ``divisor``.
        """
        blocks.require_multiple(x.shape[2:], divisor(self.config))
        scores: Tensor = self.layers(x)
        return scores
