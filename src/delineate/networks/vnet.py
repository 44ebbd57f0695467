"""V-Net, ``(B, C, *S) -> (B, outputs, *S)``, in 2D or 3D.

Residual stages of 1, 2, 3, 3 ... convolutions with PReLU, strided convolutions down, transposed
ones up (Milletari et al. 2016, arXiv:1606.04797). The paper has 16 channels at full resolution,
five levels and kernels of 5 x 5 x 5; 3 is the default here, for speed. Norm layers, which the
paper has not, are those of the implementations in use; the first stage's shortcut is a 1 x 1 x 1
convolution instead of copies of a single input channel.
"""

from __future__ import annotations

from dataclasses import dataclass

from delineate.networks import _blocks as blocks
from delineate.networks import _vnet

PAPER = "Milletari et al. 2016, arXiv:1606.04797"
KIND = "segmenter"


@dataclass(frozen=True)
class Config(_vnet.Config):
    """Shape of a V-Net."""


def divisor(config: Config) -> int:
    """Every spatial size must be a multiple of this."""
    return int(2 ** (config.levels - 1))


def build(config: Config, channels: int, outputs: int) -> blocks.UShape:
    """A V-Net with fresh weights (He initialisation)."""
    return _vnet.build(config, channels, outputs)
