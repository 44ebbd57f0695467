"""Global critic, ``(B, C, *S) -> (B, 1)``: one real-or-fake score an image.

The discriminator as S1 describes it, and SCAN's in spirit (Dai et al. 2018, arXiv:1703.08770):
strided convolutions with batch norm and leaky ReLU, a global average, one number.
``patch_critic`` is the sound default.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks

PAPER = "Goodfellow et al. 2014, arXiv:1406.2661, in the form that S1 describes"
KIND = "critic"


@dataclass(frozen=True)
class Config:
    """Shape of a global critic."""

    ndim: int = field(default=3, metadata={"help": "2 or 3 spatial dimensions"})
    widths: tuple[int, ...] = field(
        default=(32, 64, 128, 256), metadata={"help": "channels of the strided layers"}
    )
    norm: Literal["none", "instance", "batch"] = field(
        default="batch", metadata={"help": "none, instance or batch"}
    )
    spectral_norm: bool = field(default=False, metadata={"help": "bound every layer's gain by 1"})

    def __post_init__(self) -> None:
        if self.ndim not in (2, 3) or not self.widths:
            raise ConfigError(f"expected ndim 2 or 3 and widths, got {self.ndim}, {self.widths}")
        if self.norm not in ("none", "instance", "batch"):
            raise ConfigError(f"expected norm 'none', 'instance' or 'batch', got {self.norm!r}")


def divisor(config: Config) -> int:
    """Any size will do."""
    return 1


def build(config: Config, channels: int, outputs: int = 1) -> GlobalCritic:
    """A global critic for ``channels`` input channels."""
    return GlobalCritic(config, channels, outputs)


class GlobalCritic(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: Config, channels: int, outputs: int) -> None:
        super().__init__()
        self.config, nd = config, config.ndim
        layers: list[nn.Module] = []
        for before, after in zip((channels, *config.widths), config.widths, strict=False):
            layers.append(blocks.conv(nd, before, after, 3, 2))
            if config.norm != "none":
                layers.append(blocks.norm(nd, after, config.norm))
            layers.append(nn.LeakyReLU(0.2))
        self.layers = nn.Sequential(*layers)
        self.score = nn.Linear(config.widths[-1], outputs)
        blocks.initialise(self)
        if config.spectral_norm:
            blocks.bound(self)

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``(B, 1)``; high means real.

        Raises:
            ConfigError: A norm would have one value to work with; the nearest size is named.
        """
        least, (batch, _, *size) = 2 ** len(self.config.widths), x.shape
        alone = self.config.norm == "instance" or (self.config.norm == "batch" and batch == 1)
        if alone and self.training and max(size) <= least:
            raise ConfigError(
                f"expected more than one voxel behind {len(self.config.widths)} halvings, "
                f"got {tuple(size)}",
                fix=f"pad to {(2 * least, *size[1:])}",
                code="size",
            )
        score: Tensor = self.score(self.layers(x).flatten(2).mean(2))
        return score

    def score_map(self, x: Tensor) -> Tensor:
        """The one score at every voxel of ``x``, ``(B, 1, *S)``."""
        score: Tensor = self(x)
        return score.reshape(*score.shape, *(1,) * self.config.ndim).expand(-1, -1, *x.shape[2:])
