"""U-Net, ``(B, C, *S) -> (B, outputs, *S)``, in 2D or 3D.

Plain convolutional encoder and decoder with skip connections (Ronneberger et al. 2015,
arXiv:1505.04597) in the form that nnU-Net made the reference (Isensee et al. 2021,
doi:10.1038/s41592-020-01008-z): two convolutions, instance norm and leaky ReLU per level, strided
convolutions down, transposed convolutions up, deep supervision. ``skips=False`` gives the plain
encoder-decoder that S1 describes.

``levels=8, residual=True`` is the deep residual U-Net that reviews cite for left ventricles. Each
level halves the image, so that eight need more than 128 voxels along an axis; an image that cannot
be halved so often is refused with the number of levels that it can take. ``strides`` and
``kernels`` treat each axis by itself, for volumes of few or thick slices. ``squeeze=True`` ends
every stage with concurrent channel and spatial squeeze and excitation, joined by their maximum
(Roy et al. 2018, arXiv:1808.08127).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks

PAPER = (
    "Ronneberger et al. 2015, arXiv:1505.04597; Isensee et al. 2021, doi:10.1038/s41592-020-01008-z"
)
KIND = "segmenter"


@dataclass(frozen=True)
class Config:
    """Shape of a U-Net; the budget planner sets what is left open."""

    ndim: int = field(default=3, metadata={"help": "2 or 3 spatial dimensions"})
    width: int = field(default=16, metadata={"help": "channels at full resolution"})
    levels: int = field(default=4, metadata={"help": "resolutions, the full one included"})
    max_width: int = field(default=320, metadata={"help": "channels at the coarsest level at most"})
    skips: bool = field(default=True, metadata={"help": "skip connections; False: S1 as printed"})
    deep_supervision: int = field(
        default=0, metadata={"help": "coarser decoder levels that get a loss of their own"}
    )
    norm: Literal["instance", "batch"] = field(
        default="instance", metadata={"help": "instance or batch"}
    )
    down: Literal["stride", "max"] = field(
        default="stride", metadata={"help": "stride: strided convolution; max: pool"}
    )
    dropout: float = field(default=0.0, metadata={"help": "dropout in the coarsest level"})
    residual: bool = field(default=False, metadata={"help": "a shortcut around every stage"})
    squeeze: bool = field(
        default=False, metadata={"help": "weight channels and places after every stage"}
    )
    strides: tuple[tuple[int, ...], ...] = field(
        default=(),
        metadata={
            "help": "from each level to the next, 2 for an axis that is halved and 1 for one that "
            "is not; empty: all are halved"
        },
    )
    kernels: tuple[tuple[int, ...], ...] = field(
        default=(), metadata={"help": "for each level 3 or 1 an axis; empty: 3 along all"}
    )

    def __post_init__(self) -> None:
        if self.ndim not in (2, 3):
            raise ConfigError(f"expected ndim 2 or 3, got {self.ndim}")
        if self.down not in ("stride", "max"):
            raise ConfigError(f"expected down 'stride' or 'max', got {self.down!r}")
        if self.levels < 2 or self.width < 1:
            raise ConfigError(
                f"expected levels >= 2 and width >= 1, got {self.levels}, {self.width}"
            )
        if self.max_width < 1 or self.deep_supervision < 0 or not 0 <= self.dropout < 1:
            raise ConfigError(
                "expected max_width >= 1, deep_supervision >= 0 and 0 <= dropout < 1, "
                f"got {self.max_width}, {self.deep_supervision}, {self.dropout}"
            )
        for name, rows, count, largest in (
            ("strides", self.strides, self.levels - 1, 2),
            ("kernels", self.kernels, self.levels, 3),
        ):
            fitting = all(len(row) == self.ndim and {*row} <= {1, largest} for row in rows)
            if rows and (len(rows) != count or not fitting):
                raise ConfigError(
                    f"expected {count} {name} of {self.ndim} numbers, each 1 or {largest}, for "
                    f"{self.levels} levels, got {rows}"
                )

    def stride(self, level: int) -> blocks.Sides:
        """From a level to the next coarser one."""
        return self.strides[level] if self.strides else 2

    def kernel(self, level: int) -> blocks.Sides:
        """Of the convolutions of a level."""
        return self.kernels[level] if self.kernels else 3


def divisor(config: Config) -> int | tuple[int, ...]:
    """Every spatial size must be a multiple of this."""
    if config.strides:
        return blocks.shrinkage(config.strides)
    return int(2 ** (config.levels - 1))


def build(config: Config, channels: int, outputs: int) -> blocks.UShape:
    """A U-Net with fresh weights (He initialisation for leaky ReLU).

    Args:
        config: Shape of the network.
        channels: Input channels C.
        outputs: Output channels, background included.
    """
    nd = config.ndim
    widths = [min(config.width * 2**i, config.max_width) for i in range(config.levels)]
    encoder = nn.ModuleList(
        _stage(config, i, before, width, down=i > 0)
        for i, (before, width) in enumerate(pairwise([channels, *widths]))
    )
    up = nn.ModuleList(
        blocks.up_conv(nd, coarse, fine, config.stride(i))
        for i, (fine, coarse) in enumerate(pairwise(widths))
    )
    joined = 2 if config.skips else 1
    decoder = nn.ModuleList(
        _stage(config, i, joined * width, width) for i, width in enumerate(widths[:-1])
    )
    heads = blocks.heads(nd, widths, outputs, config.deep_supervision)
    net = blocks.UShape(
        config, encoder, up, decoder, heads,
        skips=config.skips, dropout=config.dropout, strides=config.strides,
    )  # fmt: skip
    blocks.initialise(net)
    return net


def _stage(
    config: Config, level: int, before: int, after: int, down: bool = False
) -> nn.Sequential:
    nd, kernel = config.ndim, config.kernel(level)
    step: blocks.Sides = config.stride(level - 1) if down else 1
    parts: list[nn.Module] = []
    if down and config.down == "max":
        parts, step = [blocks.max_pool(nd, step)], 1
    if config.residual:
        parts.append(Residual(nd, before, after, config.norm, step, kernel))
    else:
        parts += blocks.double_conv(nd, before, after, config.norm, step, kernel)
    if config.squeeze:
        parts.append(ConcurrentSqueeze(nd, after))
    return nn.Sequential(*parts)


class Residual(nn.Module):
    """Two convolutions with norm and a shortcut around both (He et al. 2016, arXiv:1512.03385)."""

    def __init__(
        self,
        nd: int,
        before: int,
        after: int,
        kind: str,
        stride: blocks.Sides,
        kernel: blocks.Sides = 3,
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(
            blocks.conv_unit(nd, before, after, kind, stride, kernel),
            blocks.conv(nd, after, after, kernel),
            blocks.norm(nd, after, kind),
        )
        self.shortcut: nn.Module = nn.Identity()
        if before != after or max(blocks.per_axis(nd, stride)) > 1:
            self.shortcut = nn.Sequential(
                blocks.conv(nd, before, after, 1, stride), blocks.norm(nd, after, kind)
            )
        self.activation = nn.LeakyReLU(blocks.SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, before, *S) -> (B, after, *S / stride)``."""
        output: Tensor = self.activation(self.body(x) + self.shortcut(x))
        return output


class ConcurrentSqueeze(nn.Module):
    """The larger of channels weighted by the image and places weighted by the channels."""

    def __init__(self, nd: int, width: int) -> None:
        super().__init__()
        self.channel = blocks.SqueezeExcite(width, reduction=2)
        self.place = blocks.conv(nd, width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, *S) -> (B, C, *S)``."""
        return torch.maximum(self.channel(x), x * torch.sigmoid(self.place(x)))
