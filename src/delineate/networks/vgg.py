"""VGG, ``(B, C, H, W) -> (B, outputs)``, in 2D.

Stages of 3 x 3 convolutions, each followed by a pooling, then three dense layers (Simonyan &
Zisserman 2015, arXiv:1409.1556). ``width=64`` with ``depth`` 16 or 19 is the paper's, and takes
torchvision's weights ``vgg16`` and ``vgg19``, with batch norm ``vgg16_bn`` and ``vgg19_bn``. Images
are brought to 7 x 7 before the dense layers, so that any size will do.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from delineate.networks import _imagenet as imagenet

PAPER = "Simonyan & Zisserman 2015, arXiv:1409.1556"
KIND = "classifier"


@dataclass(frozen=True)
class Config(imagenet.Flat):
    """Shape of a VGG."""

    depth: int = field(default=16, metadata={"help": "layers with weights: 11, 13, 16 or 19"})
    batch_norm: bool = field(default=True, metadata={"help": "a norm after every convolution"})
    dropout: float = field(default=0.5, metadata={"help": "dropout behind the dense layers"})

    def __post_init__(self) -> None:
        super().__post_init__()
        imagenet.require_one_of("depth", self.depth, list(imagenet.VGG_STAGES))
        imagenet.require_share(self.dropout)


def divisor(config: Config) -> int:
    """Any size will do: odd sizes are halved upwards."""
    return 1


def build(config: Config, channels: int, outputs: int) -> imagenet.Vgg:
    """A VGG with fresh weights (He initialisation).

    Args:
        config: Shape of the network.
        channels: Input channels C.
        outputs: Classes.
    """
    net = imagenet.Vgg(
        config.depth, config.width, channels, outputs, config.batch_norm, config.dropout
    )
    net.config = config
    return net
