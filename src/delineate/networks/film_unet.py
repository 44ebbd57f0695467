"""U-Net that a code of the whole image modulates, ``(B, C, *S) -> (B, outputs, *S)``, 2D or 3D.

DL-VAE-CNN's conditional network: two encoders (see ``_vae``) give a code of the image, of which
two-layer networks make a factor and an offset for every channel (FiLM, Perez et al. 2018) of the
coarsest level and of the two decoder levels above it. They act between norm and activation: before
a convolution whose norm follows, an offset would be taken out again.

The method ``vae_features`` trains the encoders as auto-encoders and stops the gradient at the
code. Another method trains all of it by the outlines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from delineate.networks import _blocks as blocks
from delineate.networks import _vae as family

PAPER = "Perez et al. 2018, arXiv:1709.07871; Ronneberger et al. 2015, arXiv:1505.04597"
KIND = "segmenter"
#: Features of the network that makes factors and offsets.
_HIDDEN = 64
#: Decoder levels that are modulated, from the coarsest.
_MODULATED = 2
#: Size of factors and offsets at first: a code that says nothing yet should change little.
_GENTLY = 0.1


@dataclass(frozen=True)
class Config(blocks.UShapeConfig, family.CodeConfig):
    """Shape of the U-Net, and of the encoders, which have the same width."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_codes()


def divisor(config: Config) -> int:
    """Every spatial size must be a multiple of this."""
    return int(2 ** (config.levels - 1))


def build(config: Config, channels: int, outputs: int) -> FilmUNet:
    """A modulated U-Net with fresh weights (He initialisation).

    Args:
        config: Shape of the network.
        channels: Input channels C.
        outputs: Output channels, background included.

    Raises:
        ConfigError: A channel is asked for that the input does not have.
    """
    return FilmUNet(config, channels, outputs)


class Stage(nn.Module):
    """Two convolutions with norm and leaky ReLU; the second's norm is modulated.

    Args:
        nd: Spatial dimensions.
        before: Channels that come.
        after: Channels that go.
        kind: Of norm.
        length: Of the code.
        stride: Of the first convolution.
    """

    def __init__(
        self, nd: int, before: int, after: int, kind: str, length: int, stride: int = 1
    ) -> None:
        super().__init__()
        self.first = blocks.conv_unit(nd, before, after, kind, stride)
        self.second = nn.Sequential(blocks.conv(nd, after, after), blocks.norm(nd, after, kind))
        self.hidden = nn.Linear(length, _HIDDEN)
        self.film = nn.Linear(_HIDDEN, 2 * after)
        self.activation = nn.LeakyReLU(blocks.SLOPE)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """``(B, before, *S), (B, length) -> (B, after, *S / stride)``."""
        x = self.second(self.first(x))
        film = self.film(F.silu(self.hidden(code)))
        factor, offset = film.view(*film.shape, *(1,) * (x.ndim - 2)).chunk(2, 1)
        output: Tensor = self.activation(x * (1 + factor) + offset)
        return output


class FilmUNet(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: Config, channels: int, outputs: int) -> None:
        super().__init__()
        self.config = config
        nd, widths, kind = config.ndim, config.widths, config.norm
        self.branches = family.Branches(nd, channels, config.width, config)
        length = self.branches.length
        n_plain = len(widths) - 1 - min(_MODULATED, len(widths) - 1)
        self.encoder = nn.ModuleList(
            blocks.double_conv(nd, before, width, kind, 2 if i else 1)
            for i, (before, width) in enumerate(pairwise([channels, *widths[:-1]]))
        )
        self.bottleneck = Stage(nd, widths[-2], widths[-1], kind, length, stride=2)
        self.up = nn.ModuleList(
            blocks.up_conv(nd, coarse, fine) for fine, coarse in pairwise(widths)
        )
        self.decoder = nn.ModuleList(
            blocks.double_conv(nd, 2 * width, width, kind)
            if i < n_plain
            else Stage(nd, 2 * width, width, kind, length)
            for i, width in enumerate(widths[:-1])
        )
        self.heads = blocks.heads(nd, widths, outputs, config.deep_supervision)
        blocks.initialise(self)
        for stage in self.modules():
            if isinstance(stage, Stage):
                nn.init.normal_(stage.film.weight, std=_GENTLY / math.sqrt(_HIDDEN))

    def segment(self, x: Tensor, code: Tensor) -> Tensor | list[Tensor]:
        """Logits ``(B, outputs, *S)``; while training with several heads a list, finest first.

        Args:
            x: ``(B, C, *S)``.
            code: ``(B, common + 2 unique)``, joined.

        Raises:
            ConfigError: A size that cannot be halved often enough; the nearest is named.
        """
        blocks.require_levels(x.shape[2:], self.config.levels)
        skips = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        x = self.bottleneck(x, code)
        logits: list[Tensor] = []
        for i in reversed(range(len(self.decoder))):
            joined, stage = torch.cat([skips.pop(), self.up[i](x)], 1), self.decoder[i]
            x = stage(joined, code) if isinstance(stage, Stage) else stage(joined)
            if i < len(self.heads) and (i == 0 or self.training):
                logits.append(self.heads[i](x))
        logits.reverse()
        return logits if self.training and len(logits) > 1 else logits[0]

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits as ``segment`` gives them, by the image's own code."""
        return self.segment(x, self.branches.code(x))
