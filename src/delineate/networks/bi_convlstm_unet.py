"""Bi-ConvLSTM U-Net (BCDU-Net), ``(B, C, *S) -> (B, outputs, *S)``, in 2D or 3D.

U-Net of Azad et al. 2019: a skip and the map that comes up from below are not just stacked, they
are read as a sequence of two, forwards and backwards, by convolutional LSTMs (Shi et al. 2015,
arXiv:1506.04214), and a dense block stands at the bottom. Gates have no peephole weights, which
would tie the network to one image size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks
from delineate.networks import _vgg as vgg

PAPER = "Azad et al. 2019, arXiv:1909.00166"
KIND = "segmenter"


@dataclass(frozen=True)
class Config:
    """Shape of a Bi-ConvLSTM U-Net."""

    ndim: int = field(default=3, metadata={"help": "2 or 3 spatial dimensions"})
    width: int = field(default=16, metadata={"help": "channels at full resolution"})
    levels: int = field(
        default=4, metadata={"help": "resolutions, the full one included; 4 as published"}
    )
    max_width: int = field(default=320, metadata={"help": "channels at the coarsest level at most"})
    dense: int = field(
        default=3, metadata={"help": "densely connected blocks at the bottom; 1: plain U-Net's"}
    )
    norm: Literal["instance", "batch"] = field(
        default="instance", metadata={"help": "instance or batch"}
    )
    dropout: float = field(
        default=0.0, metadata={"help": "dropout of the blocks at the bottom; 0.5 as published"}
    )

    def __post_init__(self) -> None:
        vgg.check(self.ndim, self.width, self.norm, self.levels)
        if min(self.width, self.max_width) < 2:
            raise ConfigError(
                "expected width and max_width >= 2, half of them for each direction, "
                f"got {self.width}, {self.max_width}"
            )
        if self.dense < 1 or not 0 <= self.dropout < 1:
            raise ConfigError(
                f"expected dense >= 1 and 0 <= dropout < 1, got {self.dense}, {self.dropout}"
            )


def divisor(config: Config) -> int:
    """Every spatial size must be a multiple of this."""
    return int(2 ** (config.levels - 1))


def build(config: Config, channels: int, outputs: int) -> BiConvLSTMUNet:
    """A Bi-ConvLSTM U-Net with fresh weights.

    Args:
        config: Shape of the network.
        channels: Input channels C.
        outputs: Output channels, background included.
    """
    return BiConvLSTMUNet(config, channels, outputs)


class ConvLSTM(nn.Module):
    """Convolutional LSTM over two maps: its hidden state after the second.

    Gates are stacked as in ``torch.nn.LSTM``: input, forget, cell, output.
    """

    def __init__(self, nd: int, before: int, hidden: int) -> None:
        super().__init__()
        self.of_input = blocks.conv(nd, before, 4 * hidden)
        kind = nn.Conv3d if nd == 3 else nn.Conv2d
        self.of_hidden = kind(hidden, 4 * hidden, 3, padding=1, bias=False)

    def initialise(self) -> None:
        """Glorot weights, as gates saturate, and a bias of 1 for remembering."""
        for part in (self.of_input, self.of_hidden):
            for gate in part.get_parameter("weight").chunk(4):
                nn.init.xavier_uniform_(gate)
        nn.init.ones_(self.of_input.get_parameter("bias").chunk(4)[1])

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Maps ``(B, before, *S)``, in order -> ``(B, hidden, *S)``."""
        enter, _, new, leave = self.of_input(first).chunk(4, 1)  # state and cell begin at 0
        cell = enter.sigmoid() * new.tanh()
        hidden = leave.sigmoid() * cell.tanh()
        enter, keep, new, leave = (self.of_input(second) + self.of_hidden(hidden)).chunk(4, 1)
        cell = keep.sigmoid() * cell + enter.sigmoid() * new.tanh()
        last: Tensor = leave.sigmoid() * cell.tanh()
        return last


class Join(nn.Module):
    """Bidirectional ConvLSTM over a skip and the map from below, both ``(B, width, *S)``."""

    def __init__(self, nd: int, width: int) -> None:
        super().__init__()
        self.forwards = ConvLSTM(nd, width, width // 2)
        self.backwards = ConvLSTM(nd, width, width // 2)
        self.mix = blocks.conv(nd, width // 2 * 2, width, 1)

    def forward(self, skip: Tensor, below: Tensor) -> Tensor:
        """Joined map ``(B, width, *S)``: tanh of a mixture of both directions' last states."""
        directions = [self.forwards(skip, below), self.backwards(below, skip)]
        joined: Tensor = self.mix(torch.cat(directions, 1)).tanh()
        return joined


class Dense(nn.Module):
    """Blocks of two convolutions, each of which reads what all blocks before it gave."""

    def __init__(self, config: Config, before: int, width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                blocks.conv_unit(config.ndim, i * width or before, width, config.norm),
                blocks.conv_unit(config.ndim, width, width, config.norm),
                nn.Dropout(config.dropout),
            )
            for i in range(config.dense)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(B, before, *S)`` -> the last block's ``(B, width, *S)``."""
        features: list[Tensor] = []
        for block in self.blocks:
            x = block(torch.cat(features, 1) if features else x)
            features.append(x)
        return x


class BiConvLSTMUNet(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: Config, channels: int, outputs: int) -> None:
        super().__init__()
        self.config = config
        nd, norm = config.ndim, config.norm
        widths = [min(config.width * 2**i, config.max_width) for i in range(config.levels)]
        *finer, last = widths

        def double(before: int, after: int) -> nn.Sequential:
            first = blocks.conv_unit(nd, before, after, norm)
            return nn.Sequential(first, blocks.conv_unit(nd, after, after, norm))

        self.pool = blocks.max_pool(nd)
        self.encoder = nn.ModuleList(map(double, [channels, *finer], finer))
        self.bottom = Dense(config, finer[-1], last)
        self.up = nn.ModuleList(
            nn.Sequential(
                blocks.up_conv(nd, below, level_width),
                blocks.norm(nd, level_width, norm),
                nn.LeakyReLU(0.01),
            )
            for level_width, below in zip(finer, widths[1:], strict=True)
        )
        self.join = nn.ModuleList(Join(nd, width) for width in finer)
        self.decoder = nn.ModuleList(map(double, finer, finer))
        self.head = blocks.conv(nd, config.width, outputs, 1)
        blocks.initialise(self)
        for part in self.modules():
            if isinstance(part, ConvLSTM):
                part.initialise()

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, outputs, *S)``.

        Raises:
            ConfigError: A spatial size is no multiple of ``divisor``, or nothing but one voxel
                would be left at the coarsest level.
        """
        vgg.require_size(x.shape[2:], divisor(self.config))
        skips: list[Tensor] = []
        for stage in self.encoder:
            skips.append(stage(x))
            x = self.pool(skips[-1])
        x = self.bottom(x)
        for i in reversed(range(len(skips))):
            x = self.decoder[i](self.join[i](skips[i], self.up[i](x)))
        logits: Tensor = self.head(x)
        return logits
