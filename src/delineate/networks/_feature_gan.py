"""Generator of feature maps, ``(B, C, *S) -> (B, R, *S)`` in (-1, 1), and how they are read.

S0's generator, after pix2pix (Isola et al. 2017, arXiv:1611.07004): strided convolutions down,
transposed ones up, skip connections between levels of one size, and dropout in the two deepest
blocks of the decoder in the place of noise. Dropout is for training alone; the maps of a trained
generator are the same every time. ``width: 64`` is S0 as printed (64, 128, 256 channels).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks
from delineate.networks import _imagenet as imagenet

#: Decoder blocks with dropout, deepest first.
_NOISY = 2


@dataclass(frozen=True)
class GeneratorConfig:
    """Shape of a generator of feature maps."""

    ndim: int = field(default=2, metadata={"help": "2 or 3 spatial dimensions"})
    width: int = field(
        default=16, metadata={"help": "channels of the generator's first layer; S0: 64"}
    )
    depth: int = field(default=3, metadata={"help": "strided layers; each halves the resolution"})
    norm: Literal["instance", "batch"] = field(
        default="instance", metadata={"help": "generator's: instance or batch"}
    )
    noise: float = field(
        default=0.5, metadata={"help": "dropout in the generator's two deepest decoder blocks"}
    )

    def __post_init__(self) -> None:
        if self.ndim not in (2, 3) or min(self.width, self.depth) < 1:
            raise ConfigError(
                "expected ndim 2 or 3, width >= 1 and depth >= 1, "
                f"got {self.ndim}, {self.width}, {self.depth}"
            )
        imagenet.require_share(self.noise)
        blocks.norm(2, 1, self.norm)


class Generator(nn.Module):
    """See the module's docstring.

    Args:
        config: Shape.
        channels: Input channels C.
        features: Feature maps R.
    """

    def __init__(self, config: GeneratorConfig, channels: int, features: int) -> None:
        super().__init__()
        self.features = features
        nd, widths = config.ndim, [config.width * 2**i for i in range(config.depth)]
        self.down = nn.ModuleList(
            nn.Sequential(
                blocks.conv(nd, before, after, 3, 2), blocks.norm(nd, after, config.norm), nn.ReLU()
            )
            for before, after in zip([channels, *widths], widths, strict=False)
        )
        transposed = nn.ConvTranspose3d if nd == 3 else nn.ConvTranspose2d
        ups: list[nn.Module] = []
        before = widths[-1]
        for i, after in enumerate([*reversed(widths[:-1]), config.width]):
            noise = [nn.Dropout(config.noise)] if i < _NOISY else []
            norm = blocks.norm(nd, after, config.norm)
            ups.append(nn.Sequential(transposed(before, after, 4, 2, 1), norm, *noise, nn.ReLU()))
            before = 2 * after  # and the skip's
        self.up = nn.ModuleList(ups)
        self.head = blocks.conv(nd, config.width + channels, features)
        blocks.initialise(self)
        nn.init.normal_(self.head.get_parameter("weight"), std=0.01)  # no map saturates at first

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps ``(B, R, *S)``.

        Raises:
            ConfigError: A size that cannot be halved often enough; the nearest is named.
        """
        blocks.require_levels(x.shape[2:], len(self.down) + 1)
        skips = []
        for stage in self.down:
            skips.append(x)
            x = stage(x)
        for stage in self.up:
            x = torch.cat([stage(x), skips.pop()], 1)
        return torch.tanh(self.head(x))


class ReadOut(nn.Module):
    """Feature maps to logits, ``(B, R, *S) -> (B, R + 1, *S)``: kappa times the map, background 0.

    Maps are positive inside, so that what is not inside of any label is background, and a voxel
    within several belongs to the one whose surface is farther away.
    """

    def __init__(self, kappa: float = 5.0) -> None:
        super().__init__()
        self.log_kappa = nn.Parameter(torch.tensor(math.log(kappa)))

    def forward(self, features: Tensor) -> Tensor:
        """Logits, background first."""
        return torch.cat([torch.zeros_like(features[:, :1]), self.log_kappa.exp() * features], 1)
