"""AlexNet, ``(B, C, H, W) -> (B, outputs)``, in 2D.

Five convolutions and three dense layers, in the form for one device (Krizhevsky 2014,
arXiv:1404.5997, after Krizhevsky et al. 2012). ``width=64`` is the paper's and takes torchvision's
weights ``alexnet``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from delineate.networks import _imagenet as imagenet

PAPER = "Krizhevsky et al. 2012, doi:10.1145/3065386; Krizhevsky 2014, arXiv:1404.5997"
KIND = "classifier"
#: Pixels along a side that the first kernel needs.
LEAST = 7


@dataclass(frozen=True)
class Config(imagenet.Flat):
    """Shape of an AlexNet."""

    dropout: float = field(default=0.5, metadata={"help": "dropout before the dense layers"})

    def __post_init__(self) -> None:
        super().__post_init__()
        imagenet.require_share(self.dropout)


def divisor(config: Config) -> int:
    """Any size from 7 on will do."""
    return 1


def build(config: Config, channels: int, outputs: int) -> AlexNet:
    """An AlexNet with fresh weights (He initialisation).

    Args:
        config: Shape of the network.
        channels: Input channels C.
        outputs: Classes.
    """
    return AlexNet(config, channels, outputs)


class AlexNet(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: Config, channels: int, outputs: int) -> None:
        super().__init__()
        self.config = config
        width, dense, dropout = config.width, 64 * config.width, config.dropout
        self.features = nn.Sequential(
            nn.Conv2d(channels, width, 11, stride=4, padding=2), nn.ReLU(), imagenet.HalvingPool(3),
            nn.Conv2d(width, 3 * width, 5, padding=2), nn.ReLU(), imagenet.HalvingPool(3),
            nn.Conv2d(3 * width, 6 * width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(6 * width, 4 * width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(4 * width, 4 * width, 3, padding=1), nn.ReLU(), imagenet.HalvingPool(3),
        )  # fmt: skip
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        last = nn.Linear(dense, outputs)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(4 * width * 36, dense), nn.ReLU(),
            nn.Dropout(dropout), nn.Linear(dense, dense), nn.ReLU(),
            last,
        )  # fmt: skip
        imagenet.initialise(self, last)

    def _flat(self, x: Tensor) -> Tensor:
        imagenet.require_least(x.shape[2:], LEAST)
        features: Tensor = self.avgpool(self.features(x)).flatten(1)
        return features

    def embed(self, x: Tensor) -> Tensor:
        """Features before the last layer, ``(B, 64 width)``."""
        embedding: Tensor = self.classifier[:-1](self._flat(x))
        return embedding

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, outputs)``.

        Raises:
            ConfigError: Too small for the first kernel; the nearest size is named.
        """
        logits: Tensor = self.classifier(self._flat(x))
        return logits
