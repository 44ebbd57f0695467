"""Global critic, ``(B, C, *S) -> (B, 1)``: one real-or-fake score an image.

The discriminator as S1 describes it: strided convolutions with batch norm and leaky ReLU down to
one number. Kept for the literal preset; ``patch_critic`` is the sound default.
"""

from __future__ import annotations

from dataclasses import dataclass, field

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

    def __post_init__(self) -> None:
        if self.ndim not in (2, 3) or not self.widths:
            raise ConfigError(f"expected ndim 2 or 3 and widths, got {self.ndim}, {self.widths}")


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
        nd = config.ndim
        layers: list[nn.Module] = []
        for before, after in zip((channels, *config.widths), config.widths, strict=False):
            layers += [
                blocks.conv(nd, before, after, 3, 2),
                blocks.norm(nd, after, "batch"),
                nn.LeakyReLU(0.2),
            ]
        self.layers = nn.Sequential(*layers)
        self.score = nn.Linear(config.widths[-1], outputs)
        blocks.initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``(B, 1)``; high means real."""
        score: Tensor = self.score(self.layers(x).flatten(2).mean(2))
        return score
