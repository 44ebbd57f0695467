"""SegAN's critic, ``(B, C, *S) -> (B, 1, F)``: features of every scale, in one long vector.

Xue et al. 2018 (arXiv:1706.01805): strided convolutions of 7, 5 and then 4 voxels. It scores
nothing by itself; what counts is how far the features of two masked images lie apart. Spectral
norm takes the place of the published clipping of weights and batch norm.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks

PAPER = "Xue et al. 2018, arXiv:1706.01805"
KIND = "critic"


@dataclass(frozen=True)
class Config:
    """Shape of SegAN's critic."""

    ndim: int = field(default=3, metadata={"help": "2 or 3 spatial dimensions"})
    width: int = field(default=16, metadata={"help": "channels of the first layer"})
    layers: int = field(default=4, metadata={"help": "strided layers; each halves the resolution"})
    norm: Literal["none", "instance", "batch"] = field(
        default="none", metadata={"help": "none, instance or batch"}
    )
    spectral_norm: bool = field(default=True, metadata={"help": "bound every layer's gain by 1"})

    def __post_init__(self) -> None:
        if self.ndim not in (2, 3) or self.layers < 1 or self.width < 1:
            raise ConfigError(
                "expected ndim 2 or 3, layers >= 1 and width >= 1, "
                f"got {self.ndim}, {self.layers}, {self.width}"
            )
        if self.norm not in ("none", "instance", "batch"):
            raise ConfigError(f"expected norm 'none', 'instance' or 'batch', got {self.norm!r}")


def divisor(config: Config) -> int:
    """Any size will do."""
    return 1


def build(config: Config, channels: int, outputs: int = 1) -> SeganCritic:
    """A critic for ``channels`` of masked image; ``outputs`` is 1, a vector an image."""
    return SeganCritic(config, channels)


class SeganCritic(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: Config, channels: int) -> None:
        super().__init__()
        self.config, nd = config, config.ndim
        kind = nn.Conv3d if nd == 3 else nn.Conv2d
        before, layers = channels, []
        for i in range(config.layers):
            after, kernel = config.width * 2 ** min(i, 3), {0: 7, 1: 5}.get(i, 4)
            parts: list[nn.Module] = [kind(before, after, kernel, 2, (kernel - 1) // 2)]
            if config.norm != "none" and i > 0:
                parts.append(blocks.norm(nd, after, config.norm))
            layers.append(nn.Sequential(*parts, nn.LeakyReLU(0.2)))
            before = after
        self.layers = nn.ModuleList(layers)
        blocks.initialise(self)
        if config.spectral_norm:
            blocks.bound(self)

    def features(self, x: Tensor) -> list[Tensor]:
        """The masked image itself and the output of every layer, finest first.

        Raises:
            ConfigError: A spatial size is too small for the last layer.
        """
        least = int(2**self.config.layers)
        if min(x.shape[2:]) < least:
            nearest = tuple(max(n, least) for n in x.shape[2:])
            raise ConfigError(
                f"expected spatial sizes of at least {least}, got {tuple(x.shape[2:])}",
                fix=f"pad to {nearest}, or use fewer layers",
                code="size",
            )
        outputs = [x]
        for layer in self.layers:
            outputs.append(layer(outputs[-1]))
        return outputs

    def forward(self, x: Tensor) -> Tensor:
        """All features in one vector ``(B, 1, F)``."""
        return torch.cat([f.flatten(1) for f in self.features(x)], 1).unsqueeze(1)
