"""Plain CNN, ``(B, C, *S) -> (B, outputs)``, in 2D or 3D.

Blocks of a 3-wide convolution, norm, ReLU and max-pooling, then the mean over space and two dense
layers with dropout. ``depth=2`` is the network for brain tumours of Badža & Barjaktarović 2020;
``depth=5`` that of reviews with five blocks and dropout.
"""

from __future__ import annotations

from dataclasses import dataclass

from delineate.networks import _cnn as family

PAPER = (
    "LeCun et al. 1998, doi:10.1109/5.726791; Badža & Barjaktarović 2020, doi:10.3390/app10061999"
)
KIND = "classifier"


@dataclass(frozen=True)
class Config(family.PlainConfig):
    """Shape of a plain CNN."""


def divisor(config: Config) -> int:
    """Any size from ``2 ** (depth - 1) + 1`` on will do: odd sizes are halved upwards."""
    return 1


def build(config: Config, channels: int, outputs: int) -> family.PlainClassifier:
    """A plain CNN with fresh weights (He initialisation).

    Args:
        config: Shape of the network.
        channels: Input channels C.
        outputs: Classes.
    """
    return family.PlainClassifier(config, channels, outputs)
