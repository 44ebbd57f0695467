"""Patch critic, ``(B, C, *S) -> (B, 1, *S/2^layers)``: one realness score a patch.

The PatchGAN discriminator of Isola et al. 2017 (arXiv:1611.07004) with spectral norm
(Miyato et al. 2018, arXiv:1802.05957) and no batch norm. It sees the image and a mask, joined on
the channel axis, and scores them where they are. ``wide_field`` adds the published last layers:
with three halvings a score then sees 70 voxels along each axis (38 without). ``apart`` gives the
image a first layer of its own (Luc et al. 2016, arXiv:1611.08408).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
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
    wide_field: bool = field(
        default=False, metadata={"help": "two last layers of 4 voxels, as published"}
    )
    norm: Literal["none", "instance", "batch"] = field(
        default="none", metadata={"help": "none, instance or batch"}
    )
    spectral_norm: bool = field(default=True, metadata={"help": "bound every layer's gain by 1"})
    apart: int = field(
        default=0, metadata={"help": "first channels of the input with a first layer of their own"}
    )

    def __post_init__(self) -> None:
        if self.ndim not in (2, 3) or self.layers < 1 or self.width < 1 or self.apart < 0:
            raise ConfigError(
                "expected ndim 2 or 3, layers >= 1, width >= 1 and apart >= 0, "
                f"got {self.ndim}, {self.layers}, {self.width}, {self.apart}"
            )
        if self.apart and self.width < 2:
            raise ConfigError(f"expected width >= 2 for two first layers, got {self.width}")
        if self.norm not in ("none", "instance", "batch"):
            raise ConfigError(f"expected norm 'none', 'instance' or 'batch', got {self.norm!r}")


def divisor(config: Config) -> int:
    """Any size will do: windows overlap, so that an odd size loses nothing."""
    return 1


def build(config: Config, channels: int, outputs: int = 1) -> PatchCritic:
    """A patch critic for ``channels`` input channels (image and mask together)."""
    return PatchCritic(config, channels, outputs)


class PatchCritic(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: Config, channels: int, outputs: int) -> None:
        super().__init__()
        self.config = config
        nd, kind = config.ndim, nn.Conv3d if config.ndim == 3 else nn.Conv2d
        first: nn.Module = kind(channels, config.width, 4, 2, 1)
        if config.apart:
            half = config.width // 2
            first = Branches(
                config.apart,
                kind(config.apart, half, 4, 2, 1),
                kind(channels - config.apart, config.width - half, 4, 2, 1),
            )
        layers: list[nn.Module] = [first, nn.LeakyReLU(0.2)]
        before = config.width
        widths = [(config.width * 2**i, 2) for i in range(1, config.layers)]
        if config.wide_field:
            widths.append((config.width * 2**config.layers, 1))
        for after, stride in widths:
            layers.append(kind(before, after, 4, stride, 1))
            if config.norm != "none":
                layers.append(blocks.norm(nd, after, config.norm))
            layers.append(nn.LeakyReLU(0.2))
            before = after
        layers.append(kind(before, outputs, 4 if config.wide_field else 3, 1, 1))
        self.layers = nn.Sequential(*layers)
        blocks.initialise(self)
        if config.spectral_norm:
            blocks.bound(self)

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``(B, 1, *S/2^layers)``, one less each of the two last layers of a wide field.

        Raises:
            ConfigError: A spatial size is too small for a single score.
        """
        least = int(2**self.config.layers) * (3 if self.config.wide_field else 1)
        if min(x.shape[2:]) < least:
            nearest = tuple(max(n, least) for n in x.shape[2:])
            raise ConfigError(
                f"expected spatial sizes of at least {least}, got {tuple(x.shape[2:])}",
                fix=f"pad to {nearest}",
                code="size",
            )
        scores: Tensor = self.layers(x)
        return scores

    def score_map(self, x: Tensor) -> Tensor:
        """Scores on the voxels of ``x``, ``(B, 1, *S)``: linear between the middles of patches.

        Beyond the outermost middles the score of the nearest one stands.

        Raises:
            ConfigError: As ``forward``.
        """
        nd, scores = self.config.ndim, self(x)
        if self.config.wide_field:  # the last layers cost one score at either end
            scores = F.pad(scores, (1,) * 2 * nd, "replicate")
        mode = "trilinear" if nd == 3 else "bilinear"
        fine = F.interpolate(scores, scale_factor=2.0**self.config.layers, mode=mode)
        missing = [n - m for n, m in zip(x.shape[2:], fine.shape[2:], strict=True)]
        return F.pad(fine, [end for n in reversed(missing) for end in (0, n)], "replicate")


class Branches(nn.Module):
    """The first ``apart`` channels by one layer, the others by another."""

    def __init__(self, apart: int, image: nn.Module, mask: nn.Module) -> None:
        super().__init__()
        self.apart, self.image, self.mask = apart, image, mask

    def forward(self, x: Tensor) -> Tensor:
        """Both results, joined on the channel axis."""
        return torch.cat([self.image(x[:, : self.apart]), self.mask(x[:, self.apart :])], 1)
