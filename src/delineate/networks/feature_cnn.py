"""Classifier on generated feature maps, ``(B, C, *S) -> (B, outputs)``, in 2D or 3D.

S0's DL-GAN-CNN: a generator (see ``_feature_gan``) turns the image, and whatever is derived from it
such as its clusters, into one map a label, and a CNN (32, 64, 128 channels, the mean over space,
128 features) names the class from maps and image. ``method: gan_features`` teaches the maps
first; any other method for classifiers trains it as one network, whose maps then mean nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _cnn
from delineate.networks import _feature_gan as family

PAPER = "Isola et al. 2017, arXiv:1611.07004, in the form that S0 describes"
KIND = "classifier"


@dataclass(frozen=True)
class Config(family.GeneratorConfig):
    """Shape of both parts."""

    features: int = field(default=1, metadata={"help": "feature maps, one a label"})
    sees_image: bool = field(
        default=True, metadata={"help": "show the CNN the image beside its maps"}
    )
    cnn_width: int = field(default=32, metadata={"help": "channels of the CNN's first layer"})
    hidden: int = field(default=128, metadata={"help": "features before the CNN's last layer"})
    dropout: float = field(default=0.5, metadata={"help": "dropout before the CNN's last layer"})
    cnn_norm: Literal["instance", "batch"] = field(
        default="batch", metadata={"help": "the CNN's: instance or batch"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.features < 1:
            raise ConfigError(f"expected at least one feature map, got {self.features}")
        self.cnn()

    def cnn(self) -> _cnn.PlainConfig:
        """Shape of the CNN."""
        return _cnn.PlainConfig(
            self.ndim, self.cnn_width, 3, 4 * self.cnn_width, self.hidden, self.dropout,
            self.cnn_norm,
        )  # fmt: skip


def divisor(config: Config) -> int:
    """Every spatial size must be a multiple of this."""
    return int(2**config.depth)


def build(config: Config, channels: int, outputs: int) -> FeatureCNN:
    """Generator and CNN with fresh weights.

    Args:
        config: Shape of the network.
        channels: Input channels C.
        outputs: Classes.
    """
    return FeatureCNN(config, channels, outputs)


class FeatureCNN(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: Config, channels: int, outputs: int) -> None:
        super().__init__()
        self.config = config
        self.generator = family.Generator(config, channels, config.features)
        input_channels = config.features + channels * config.sees_image
        self.classifier = _cnn.PlainClassifier(config.cnn(), input_channels, outputs)

    def classify(self, features: Tensor, image: Tensor) -> Tensor:
        """Logits ``(B, outputs)`` of feature maps ``(B, R, *S)`` and the image they are of."""
        inputs = torch.cat([features, image], 1) if self.config.sees_image else features
        logits: Tensor = self.classifier(inputs)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, outputs)``.

        Raises:
            ConfigError: A size that cannot be halved often enough; the nearest is named.
        """
        return self.classify(self.generator(x), x)
