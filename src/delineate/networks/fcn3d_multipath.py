"""Multi-path FCN, ``(B, C, *S) -> (B, outputs, *S)``, in 3D or 2D: an encoder for every channel.

After the multi-pathway 3D FCN of Sun et al. 2021 (BraTS 2019: Dice 0.89, 0.78, 0.76 for whole, core
and enhancing tumour). Each path extracts features by itself, with an atrous convolution a level to
see further, and the decoder fuses the paths' features at every resolution. That each modality has
a path of its own is a reading: the abstract says only that several pathways with atrous
convolutions read the multi-modal images.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks
from delineate.networks import _vgg as vgg

PAPER = (
    "Sun et al. 2021, Neurocomputing: Segmentation of the multimodal brain tumor image used the "
    "multi-pathway architecture method based on 3D FCN"
)
KIND = "segmenter"


@dataclass(frozen=True)
class Config:
    """Shape of a multi-path FCN."""

    ndim: int = field(default=3, metadata={"help": "2 or 3 spatial dimensions"})
    width: int = field(
        default=16, metadata={"help": "channels at full resolution, in each path and the decoder"}
    )
    levels: int = field(default=4, metadata={"help": "resolutions, the full one included"})
    max_width: int = field(default=320, metadata={"help": "channels of a path at most"})
    rate: int = field(
        default=2, metadata={"help": "atrous rate of every level's second convolution; 1: none"}
    )
    norm: Literal["instance", "batch"] = field(
        default="instance", metadata={"help": "instance or batch"}
    )

    def __post_init__(self) -> None:
        vgg.check(self.ndim, self.width, self.norm, self.levels)
        if self.max_width < 1 or self.rate < 1:
            raise ConfigError(
                f"expected max_width >= 1 and rate >= 1, got {self.max_width}, {self.rate}"
            )


def divisor(config: Config) -> int:
    """Every spatial size must be a multiple of this."""
    return int(2 ** (config.levels - 1))


def build(config: Config, channels: int, outputs: int) -> MultiPathFCN:
    """A multi-path FCN with fresh weights.

    Args:
        config: Shape of the network.
        channels: Input channels C, and so paths; one is enough.
        outputs: Output channels, background included.
    """
    return MultiPathFCN(config, channels, outputs)


class Path(nn.Module):
    """One channel's encoder: ``(B, 1, *S)`` -> features of every level, finest first."""

    def __init__(self, config: Config, widths: list[int]) -> None:
        super().__init__()
        nd, norm = config.ndim, config.norm
        self.pool = blocks.max_pool(nd)
        self.stages = nn.ModuleList(
            nn.Sequential(
                vgg.unit(nd, before, after, norm=norm),
                vgg.unit(nd, after, after, rate=config.rate, norm=norm),
            )
            for before, after in zip([1, *widths], widths, strict=False)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features ``(B, width_i, *S/2^i)``."""
        features: list[Tensor] = []
        for i, stage in enumerate(self.stages):
            x = stage(self.pool(x) if i else x)
            features.append(x)
        return features


class MultiPathFCN(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: Config, channels: int, outputs: int) -> None:
        super().__init__()
        self.config = config
        nd, norm = config.ndim, config.norm
        widths = [min(config.width * 2**i, config.max_width) for i in range(config.levels)]
        self.paths = nn.ModuleList(Path(config, widths) for _ in range(channels))
        *finer, last = widths
        self.bottom = vgg.unit(nd, channels * last, last, kernel=1, norm=norm)
        self.up = nn.ModuleList(
            blocks.up_conv(nd, below, width) for width, below in zip(finer, widths[1:], strict=True)
        )
        self.decoder = nn.ModuleList(
            vgg.unit(nd, (channels + 1) * width, width, norm=norm) for width in finer
        )
        self.head = blocks.conv(nd, config.width, outputs, 1)
        blocks.initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, outputs, *S)``.

        Raises:
            ConfigError: A spatial size is no multiple of ``divisor``, or nothing but one voxel
                would be left at the coarsest level.
        """
        vgg.require_size(x.shape[2:], divisor(self.config))
        single = torch.split(x, 1, dim=1)
        features = [path(channel) for path, channel in zip(self.paths, single, strict=True)]
        *finer, coarsest = [torch.cat(level, 1) for level in zip(*features, strict=True)]
        x = self.bottom(coarsest)
        for skip, up, decode in reversed(list(zip(finer, self.up, self.decoder, strict=True))):
            x = decode(torch.cat([skip, up(x)], 1))
        logits: Tensor = self.head(x)
        return logits
