"""Deep CNN, ``(B, C, *S) -> (B, outputs)``, in 2D or 3D.

The plain CNN with more blocks and several convolutions in each, after VGG (Simonyan & Zisserman
2015, arXiv:1409.1556) but with a norm behind every convolution and the mean over space in place of
its large dense layers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from delineate.core.errors import ConfigError
from delineate.networks import _cnn as family

PAPER = "Simonyan & Zisserman 2015, arXiv:1409.1556"
KIND = "classifier"


@dataclass(frozen=True)
class Config(family.PlainConfig):
    """Shape of a deep CNN."""

    width: int = field(default=16, metadata={"help": "channels at full resolution"})
    depth: int = field(default=5, metadata={"help": "blocks, each with a pooling that halves"})
    convolutions: int = field(default=2, metadata={"help": "in each block"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.convolutions < 1:
            raise ConfigError(f"expected convolutions >= 1, got {self.convolutions}")


def divisor(config: Config) -> int:
    """Any size from ``2 ** (depth - 1) + 1`` on will do: odd sizes are halved upwards."""
    return 1


def build(config: Config, channels: int, outputs: int) -> family.PlainClassifier:
    """A deep CNN with fresh weights (He initialisation).

    Args:
        config: Shape of the network.
        channels: Input channels C.
        outputs: Classes.
    """
    return family.PlainClassifier(config, channels, outputs, config.convolutions)
