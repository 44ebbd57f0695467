"""Large-kernel CNN/MLP classifier, ``(B, C, *S) -> (B, outputs)``, in 2D or 3D.

Light convolutional blocks in a transformer's form (Xue et al. 2026,
doi:10.1371/journal.pone.0340108), then the mean over space and one linear layer. See
``_lkmlp.py`` for what is read into the modules' names.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks
from delineate.networks import _lkmlp as family

PAPER = "Xue et al. 2026, doi:10.1371/journal.pone.0340108"
KIND = "classifier"


@dataclass(frozen=True)
class Config:
    """Shape of a large-kernel classifier."""

    ndim: int = field(default=3, metadata={"help": "2 or 3 spatial dimensions"})
    width: int = field(default=16, metadata={"help": "channels at full resolution"})
    levels: int = field(default=4, metadata={"help": "stages; each but the first halves"})
    max_width: int = field(default=320, metadata={"help": "channels of the last stage at most"})
    depth: int = field(default=2, metadata={"help": "blocks a stage; the first has none"})

    def __post_init__(self) -> None:
        blocks.UShapeConfig(self.ndim, self.width, self.levels, self.max_width)
        if self.depth < 1:
            raise ConfigError(f"expected depth >= 1, got {self.depth}")


def divisor(config: Config) -> int:
    """Any size will do: odd sizes are halved upwards."""
    return 1


def build(config: Config, channels: int, outputs: int) -> LargeKernelClassifier:
    """A large-kernel classifier with fresh weights.

    Args:
        config: Shape of the network.
        channels: Input channels C.
        outputs: Classes.
    """
    return LargeKernelClassifier(config, channels, outputs)


class LargeKernelClassifier(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: Config, channels: int, outputs: int) -> None:
        super().__init__()
        self.config = config
        widths = [min(config.width * 2**i, config.max_width) for i in range(config.levels)]
        self.features = nn.Sequential(
            *family.stages(config.ndim, channels, widths, config.depth),
            nn.GroupNorm(1, widths[-1]),
            nn.GELU(),
        )
        self.head = nn.Linear(widths[-1], outputs)
        blocks.initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, outputs)``."""
        logits: Tensor = self.head(self.features(x).flatten(2).mean(2))
        return logits
