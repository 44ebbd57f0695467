"""U-Net, ``(B, C, *S) -> (B, outputs, *S)``, in 2D or 3D.

Plain convolutional encoder and decoder with skip connections (Ronneberger et al. 2015,
arXiv:1505.04597) in the form that nnU-Net made the reference (Isensee et al. 2021,
doi:10.1038/s41592-020-01008-z): two convolutions, instance norm and leaky ReLU per level, strided
convolutions down, transposed convolutions up, deep supervision. ``skips=False`` gives the plain
encoder-decoder that S1 describes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks

PAPER = (
    "Ronneberger et al. 2015, arXiv:1505.04597; "
    "Isensee et al. 2021, doi:10.1038/s41592-020-01008-z"
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
    norm: str = field(default="instance", metadata={"help": "instance or batch"})
    down: str = field(default="stride", metadata={"help": "stride: strided convolution; max: pool"})
    dropout: float = field(default=0.0, metadata={"help": "dropout in the coarsest level"})

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


def divisor(config: Config) -> int:
    """Every spatial size must be a multiple of this."""
    return int(2 ** (config.levels - 1))


def build(config: Config, channels: int, outputs: int) -> UNet:
    """A U-Net with fresh weights (He initialisation for leaky ReLU).

    Args:
        config: Shape of the network.
        channels: Input channels C.
        outputs: Output channels, background included.
    """
    return UNet(config, channels, outputs)


class UNet(nn.Module):
    """See the module's docstring. In training, ``forward`` gives a list, finest first."""

    def __init__(self, config: Config, channels: int, outputs: int) -> None:
        super().__init__()
        self.config = config
        nd = config.ndim
        widths = [min(config.width * 2**i, config.max_width) for i in range(config.levels)]
        stride = 2 if config.down == "stride" else 1
        self.encoder = nn.ModuleList(
            nn.Sequential(
                *([blocks.max_pool(nd)] if i and stride == 1 else []),
                blocks.conv_unit(nd, before, width, config.norm, stride=stride if i else 1),
                blocks.conv_unit(nd, width, width, config.norm),
            )
            for i, (before, width) in enumerate(zip([channels, *widths], widths, strict=False))
        )
        self.dropout = nn.Dropout(config.dropout)
        self.up = nn.ModuleList(
            blocks.up_conv(nd, widths[i + 1], widths[i]) for i in range(config.levels - 1)
        )
        joined = 2 if config.skips else 1
        self.decoder = nn.ModuleList(
            nn.Sequential(
                blocks.conv_unit(nd, joined * widths[i], widths[i], config.norm),
                blocks.conv_unit(nd, widths[i], widths[i], config.norm),
            )
            for i in range(config.levels - 1)
        )
        heads = 1 + min(config.deep_supervision, config.levels - 2)
        self.heads = nn.ModuleList(blocks.conv(nd, widths[i], outputs, 1) for i in range(heads))
        blocks.initialise(self)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits ``(B, outputs, *S)``; while training with deep supervision a list of them.

        Raises:
            ConfigError: A spatial size is no multiple of ``divisor``, or nothing but one voxel
                would be left at the coarsest level; the nearest size is named.
        """
        least = divisor(self.config)
        blocks.require_multiple(x.shape[2:], least)
        if all(n == least for n in x.shape[2:]):
            raise ConfigError(
                f"expected more than one voxel at the coarsest level, got {tuple(x.shape[2:])}",
                fix=f"pad to {(2 * least,) * self.config.ndim}, or use fewer levels",
                code="size",
            )
        skips: list[Tensor] = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        x = self.dropout(skips.pop())
        found: list[Tensor] = []
        for i in reversed(range(len(self.decoder))):
            x = self.up[i](x)
            skip = skips.pop()
            x = self.decoder[i](torch.cat([skip, x], 1) if self.config.skips else x)
            if i < len(self.heads) and (i == 0 or self.training):
                found.append(self.heads[i](x))
        found.reverse()
        return found if self.training and len(found) > 1 else found[0]
