"""Dilated convolutions at full resolution, ``(B, C, *S) -> (B, outputs, *S)``, in 2D or 3D.

The front end is left out: every layer keeps the size of the image and doubles the dilation of the
one before, so that a voxel sees its surroundings, and nothing has to be enlarged again.

A network of your own in one file. Copy it, change it, and try it out with

    delineate check mynet.py
    delineate train SCANS --network mynet.py
    delineate predict run/model.safetensors SCANS --part mynet.py
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from delineate.core.errors import ConfigError

PAPER = "Yu & Koltun 2016, arXiv:1511.07122"
KIND = "segmenter"


@dataclass(frozen=True)
class Config:
    """Shape of the network. ``ndim`` and ``width`` are filled in from the data and the budget."""

    ndim: int = field(default=3, metadata={"help": "2 or 3 spatial dimensions"})
    width: int = field(default=16, metadata={"help": "channels of every layer"})
    layers: int = field(default=4, metadata={"help": "dilations: 1, 2, 4 …"})

    def __post_init__(self) -> None:
        if self.ndim not in (2, 3) or self.width < 1 or self.layers < 1:
            raise ConfigError(
                "expected ndim of 2 or 3, width >= 1 and layers >= 1, "
                f"got {self.ndim}, {self.width}, {self.layers}"
            )


def divisor(config: Config) -> int:
    """Every spatial size must be a multiple of this; nothing is halved, so any size will do."""
    return 1


def build(config: Config, channels: int, outputs: int) -> nn.Module:
    """A network with fresh weights.

    Args:
        config: Shape of the network.
        channels: Input channels C.
        outputs: Output channels, background included.
    """
    return Dilated(config, channels, outputs)


class Dilated(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: Config, channels: int, outputs: int) -> None:
        super().__init__()
        self.config = config
        convolution, norm = (
            (nn.Conv2d, nn.InstanceNorm2d) if config.ndim == 2 else (nn.Conv3d, nn.InstanceNorm3d)
        )
        layers: list[nn.Module] = []
        before = channels
        for layer in range(config.layers):
            step = 2**layer
            layers += [
                convolution(before, config.width, 3, padding=step, dilation=step),
                norm(config.width, affine=True),
                nn.LeakyReLU(0.01),
            ]
            before = config.width
        self.layers = nn.Sequential(*layers)
        self.head = convolution(before, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, outputs, *S)``."""
        logits: Tensor = self.head(self.layers(x))
        return logits
