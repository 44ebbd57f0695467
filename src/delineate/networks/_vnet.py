"""Stages that V-Net and AGSE-VNet share (Milletari et al. 2016, arXiv:1606.04797)."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks


@dataclass(frozen=True)
class Config(blocks.UShapeConfig):
    """Shape of a V-Net."""

    kernel: int = field(default=3, metadata={"help": "voxels along a kernel's side; the paper: 5"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ConfigError(f"expected an odd kernel, got {self.kernel}")


def build(config: Config, channels: int, outputs: int) -> blocks.UShape:
    """Stages of 1, 2, 3, 3 ... convolutions, and as many on the way up."""
    widths = config.widths
    encoder = nn.ModuleList([Stage(config, channels, widths[0], 1)])
    for i, (before, width) in enumerate(pairwise(widths), 2):
        encoder.append(nn.Sequential(_down(config, before, width), _stage(config, width, i)))
    # a decoder's stage keeps what it is given: the skip's channels and as many from below
    below = [2 * width for width in widths[1:-1]] + widths[-1:]
    up = nn.ModuleList(_up(config, b, width) for b, width in zip(below, widths, strict=False))
    decoder = nn.ModuleList(_stage(config, 2 * w, i) for i, w in enumerate(widths[:-1], 1))
    joined = [2 * width for width in widths]
    heads = blocks.heads(config.ndim, joined, outputs, config.deep_supervision)
    net = blocks.UShape(config, encoder, up, decoder, heads)
    blocks.initialise(net)
    return net


class Stage(nn.Module):
    """Convolutions with PReLU and a shortcut around all, ``(B, before, *S) -> (B, after, *S)``."""

    def __init__(self, config: Config, before: int, after: int, count: int) -> None:
        super().__init__()
        nd = config.ndim
        layers: list[nn.Module] = []
        for i in range(count):
            layers += [nn.PReLU(after)] if i else []
            layers.append(blocks.conv(nd, after if i else before, after, config.kernel))
            layers.append(blocks.norm(nd, after, config.norm))
        self.layers = nn.Sequential(*layers)
        self.shortcut = nn.Identity() if before == after else blocks.conv(nd, before, after, 1)
        self.activation = nn.PReLU(after)

    def forward(self, x: Tensor) -> Tensor:
        """What the convolutions find, added to what they see."""
        output: Tensor = self.activation(self.layers(x) + self.shortcut(x))
        return output


def _stage(config: Config, width: int, level: int) -> Stage:
    return Stage(config, width, width, min(level, 3))


def _down(config: Config, before: int, after: int) -> nn.Sequential:
    kind = nn.Conv3d if config.ndim == 3 else nn.Conv2d
    norm = blocks.norm(config.ndim, after, config.norm)
    return nn.Sequential(kind(before, after, 2, 2), norm, nn.PReLU(after))


def _up(config: Config, before: int, after: int) -> nn.Sequential:
    norm = blocks.norm(config.ndim, after, config.norm)
    return nn.Sequential(blocks.up_conv(config.ndim, before, after), norm, nn.PReLU(after))
