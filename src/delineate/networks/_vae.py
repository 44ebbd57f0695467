"""Two encoders that part what two pictures share from what each has alone, ``(B, C, *S) -> codes``.

The pictures are two groups of input channels: two sequences, or an image and what is derived from
it. Of each its encoder gives a common code and a unique code, both as the mean and the variance of
a normal distribution (Kingma & Welling 2014, arXiv:1312.6114). A decoder, which only training
needs, makes a picture of a common and a unique code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks

#: Halvings of an encoder; its channels double at each.
_DEPTH = 4
#: Channels that are normed together.
_GROUP = 8
#: The logarithm of a variance is kept within plus and minus this.
_LOG_VARIANCE = 10.0


@dataclass(frozen=True)
class CodeConfig:
    """Which channels make the two pictures, and how long their codes are."""

    first: tuple[int, ...] = field(
        default=(), metadata={"help": "channels of the first picture, from 0; empty: first half"}
    )
    second: tuple[int, ...] = field(
        default=(), metadata={"help": "channels of the second picture; empty: second half"}
    )
    common: int = field(default=64, metadata={"help": "numbers of a common code"})
    unique: int = field(default=32, metadata={"help": "numbers of a unique code"})
    grid: int = field(
        default=4, metadata={"help": "places along an axis that a code is made of; 1: the mean"}
    )

    def require_codes(self) -> None:
        """Refuse codes or channels that cannot be.

        Raises:
            ConfigError: Says what was expected.
        """
        if min(self.common, self.unique, self.grid) < 1:
            raise ConfigError(
                "expected common, unique and grid >= 1, got "
                f"{self.common}, {self.unique}, {self.grid}"
            )
        if bool(self.first) != bool(self.second) or min((0, *self.first, *self.second)) < 0:
            raise ConfigError(
                "expected channels of 0 or more for both pictures, or for none, got "
                f"first {self.first} and second {self.second}"
            )

    def split(self, channels: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Channels of both pictures; a single channel is seen by both encoders.

        Args:
            channels: Input channels.

        Raises:
            ConfigError: A channel is asked for that the input does not have.
        """
        if self.first:
            highest = max(*self.first, *self.second)
            if highest >= channels:
                raise ConfigError(
                    f"expected channels from 0 to {channels - 1}, got {highest}",
                    where="network_settings",
                    fix="name channels of the data in first and second, or leave both out",
                    code="channel-unknown",
                )
            return self.first, self.second
        if channels == 1:
            return (0,), (0,)
        half = channels // 2
        return tuple(range(half)), tuple(range(half, channels))


class Normal(NamedTuple):
    """A normal distribution without correlations.

    Args:
        mean: ``(B, D)``.
        log_variance: ``(B, D)``.
    """

    mean: Tensor
    log_variance: Tensor

    def draw(self) -> Tensor:
        """One sample of each, with gradient to mean and variance."""
        return self.mean + (0.5 * self.log_variance).exp() * torch.randn_like(self.mean)


class Codes(NamedTuple):
    """What an encoder says of its picture.

    Args:
        common: What the pictures share.
        unique: What this one has alone.
    """

    common: Normal
    unique: Normal


def join(commons: Sequence[Tensor], uniques: Sequence[Tensor]) -> Tensor:
    """The mean of the common codes, then the unique ones, ``(B, common + 2 unique)``."""
    return torch.cat([torch.stack(list(commons)).mean(0), *uniques], 1)


class Encoder(nn.Module):
    """Four convolutions that halve, means over a grid, one linear layer: ``(B, C, *S) -> Codes``.

    Args:
        nd: Spatial dimensions.
        channels: Input channels.
        width: Channels after the first halving.
        config: Of the codes.
    """

    def __init__(self, nd: int, channels: int, width: int, config: CodeConfig) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(_DEPTH)]
        self.layers = nn.Sequential(
            *(unit(nd, before, after, 2) for before, after in pairwise([channels, *widths]))
        )
        self.grid, self.lengths = config.grid, [config.common, config.unique]
        self.head = nn.Linear(widths[-1] * config.grid**nd, 2 * sum(self.lengths))

    def forward(self, x: Tensor) -> Codes:
        """See the class."""
        pool = F.adaptive_avg_pool3d if x.ndim == 5 else F.adaptive_avg_pool2d
        moments = self.head(pool(self.layers(x), self.grid).flatten(1)).float()
        mean, spread = moments.chunk(2, 1)
        means = mean.split(self.lengths, 1)
        spreads = spread.clamp(-_LOG_VARIANCE, _LOG_VARIANCE).split(self.lengths, 1)
        return Codes(*map(Normal, means, spreads))


class Branches(nn.Module):
    """Both encoders, ``(B, C, *S) -> (Codes, Codes)``.

    Args:
        nd: Spatial dimensions.
        channels: Input channels.
        width: Channels after an encoder's first halving.
        config: Of the codes.
    """

    def __init__(self, nd: int, channels: int, width: int, config: CodeConfig) -> None:
        super().__init__()
        self.channels, self.width = config.split(channels), width
        self.encoders = nn.ModuleList(
            Encoder(nd, len(channels_of_branch), width, config)
            for channels_of_branch in self.channels
        )
        self.length = config.common + 2 * config.unique

    def pictures(self, x: Tensor) -> list[Tensor]:
        """Both pictures, ``(B, C', *S)`` each."""
        return [x[:, list(channels_of_branch)] for channels_of_branch in self.channels]

    def forward(self, x: Tensor) -> tuple[Codes, Codes]:
        """See the class."""
        pairs = zip(self.encoders, self.pictures(x), strict=True)
        first, second = (encoder(picture) for encoder, picture in pairs)
        return first, second

    def code(self, x: Tensor) -> Tensor:
        """The joined code ``(B, length)``: drawn while training, of the means in use."""
        codes_of_both = self(x)
        values = [[n.draw() if self.training else n.mean for n in codes] for codes in codes_of_both]
        return join(*zip(*values, strict=True))


class Decoder(nn.Module):
    """An encoder's mirror: a linear layer to a grid, then resizing and convolution in turn.

    Args:
        nd: Spatial dimensions.
        channels: Of the picture.
        width: Of the encoder that it mirrors.
        config: Of the codes.
    """

    def __init__(self, nd: int, channels: int, width: int, config: CodeConfig) -> None:
        super().__init__()
        widths = [width * 2**i for i in reversed(range(_DEPTH))]
        self.shape = (widths[0], *(config.grid,) * nd)
        self.head = nn.Linear(config.common + config.unique, widths[0] * config.grid**nd)
        self.layers = nn.ModuleList(unit(nd, a, b) for a, b in pairwise([widths[0], *widths]))
        self.last = blocks.conv(nd, widths[-1], channels)
        blocks.initialise(self)

    def forward(self, common: Tensor, unique: Tensor, size: Sequence[int]) -> Tensor:
        """Picture ``(B, channels, *size)`` of a common and a unique code, ``(B, D)`` each."""
        x = F.silu(self.head(torch.cat([common, unique], 1))).view(-1, *self.shape)
        mode = "trilinear" if len(size) == 3 else "bilinear"
        for i, layer in enumerate([*self.layers, self.last]):
            step = 2 ** (_DEPTH - i)
            x = layer(F.interpolate(x, [-(-n // step) for n in size], mode=mode))
        return x


def unit(nd: int, before: int, after: int, stride: int = 1) -> nn.Sequential:
    """Convolution, group norm, SiLU; a group has eight channels or more, or there is but one."""
    return nn.Sequential(
        blocks.conv(nd, before, after, 3, stride),
        nn.GroupNorm(after // _GROUP if after % _GROUP == 0 else 1, after),
        nn.SiLU(),
    )
