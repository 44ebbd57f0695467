"""Segmenter by generated feature maps, ``(B, C, *S) -> (B, outputs, *S)``, in 2D or 3D.

The read-out of S0's DL-GAN-CNN: the generator (see ``_feature_gan``) gives one map a label, which
is positive inside of it, and the logits are the maps times a learned factor beside a background of
0. ``method: gan_features`` teaches maps of signed distance, as S0's are understood here; with
``supervised`` it is a small U-Net whose logits are bounded.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from delineate.networks import _feature_gan as family

PAPER = "Isola et al. 2017, arXiv:1611.07004, in the form that S0 describes"
KIND = "segmenter"


@dataclass(frozen=True)
class Config(family.GeneratorConfig):
    """Shape of the generator."""


def divisor(config: Config) -> int:
    """Every spatial size must be a multiple of this."""
    return int(2**config.depth)


def build(config: Config, channels: int, outputs: int) -> FeatureSegmenter:
    """Generator and read-out with fresh weights.

    Args:
        config: Shape of the network.
        channels: Input channels C.
        outputs: Output channels, background included.
    """
    return FeatureSegmenter(config, channels, outputs)


class FeatureSegmenter(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: Config, channels: int, outputs: int) -> None:
        super().__init__()
        self.config = config
        self.generator = family.Generator(config, channels, outputs - 1)
        self.read_out = family.ReadOut()

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, outputs, *S)``.

        Raises:
            ConfigError: A size that cannot be halved often enough; the nearest is named.
        """
        logits: Tensor = self.read_out(self.generator(x))
        return logits
