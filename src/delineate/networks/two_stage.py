"""Detect, crop, segment: ``(B, C, *S) -> (B, outputs, *S)``, in 2D or 3D.

The two phases of Dogan et al. 2021 for the pancreas (Mask R-CNN finds it, a U-Net outlines it in
the crop), in one differentiable network. Stage 1 is as light as a centre-point detector (Zhou et
al. 2019, arXiv:1904.07850): at stride 8 it gives coarse logits, whose foreground is the heat map,
and a correction of the box's size. Stage 2 is a U-Net on the box, which a spatial transformer
(Jaderberg et al. 2015, arXiv:1506.02025) resamples to a grid of fixed size; its logits are put back
in place, and outside of the box is background.

The box of a heat map, axis by axis: its maximum over the other axes is a profile, 1 where the
object is. The profile's mean is the centre, and since an even profile of length L has a standard
deviation of L / sqrt(12), that times sqrt(12) is the length. Several objects get one box around
all. With no heat anywhere the box becomes the whole image.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks

PAPER = "Dogan et al. 2021, PMID:34020373; Zhou et al. 2019, arXiv:1904.07850"
KIND = "segmenter"
#: The last layer sees a crop, so what stands before it has no place in the image.
WHOLE_IMAGE = False
#: Logits outside of the box: this for background, minus this for everything else.
OUTSIDE = 4.0
#: Power of the heat: what is hardly warm, over a large image, must not widen the box.
_SHARPEN = 4
#: Between these heats of the warmest place the box goes from the whole image to the found one.
_NOTHING, _SOMETHING = 0.25, 0.75
#: The learned correction changes a box's length by this factor at most.
_CORRECTION = 1.5


@dataclass(frozen=True)
class Config:
    """Shape of a two-stage network."""

    ndim: int = field(default=3, metadata={"help": "2 or 3 spatial dimensions"})
    width: int = field(default=16, metadata={"help": "channels at the finest level of the crop"})
    levels: int = field(default=4, metadata={"help": "resolutions of the U-Net on the crop"})
    max_width: int = field(default=320, metadata={"help": "channels at the coarsest level at most"})
    stride: int = field(
        default=8,
        metadata={"help": "voxels of a cell of stage 1: 2, 4, 8 or 16; 4 if images are small"},
    )
    margin: float = field(
        default=1.3, metadata={"help": "the crop's sides as multiples of the box's"}
    )
    crop: float = field(
        default=0.5, metadata={"help": "voxels along the crop's sides as a share of the image's"}
    )
    norm: Literal["instance", "batch"] = field(
        default="instance", metadata={"help": "instance or batch"}
    )

    def __post_init__(self) -> None:
        if self.ndim not in (2, 3):
            raise ConfigError(f"expected ndim 2 or 3, got {self.ndim}")
        if self.width < 1 or self.levels < 2 or self.max_width < 1:
            raise ConfigError(
                "expected width >= 1, levels >= 2 and max_width >= 1, "
                f"got {self.width}, {self.levels}, {self.max_width}"
            )
        if self.stride not in (2, 4, 8, 16):
            raise ConfigError(f"expected stride 2, 4, 8 or 16, got {self.stride}")
        if self.margin < 1 or not 0 < self.crop <= 1:
            raise ConfigError(
                f"expected margin >= 1 and 0 < crop <= 1, got {self.margin}, {self.crop}"
            )


def divisor(config: Config) -> int:
    """Every spatial size must be a multiple of this."""
    return config.stride


def build(config: Config, channels: int, outputs: int) -> TwoStage:
    """A two-stage network with fresh weights (He initialisation for leaky ReLU).

    Args:
        config: Shape of the network.
        channels: Input channels C.
        outputs: Output channels, background included.

    Raises:
        ConfigError: Fewer than two outputs: what is not background makes the box.
    """
    if outputs < 2:
        raise ConfigError(f"expected background and at least one structure, got {outputs} outputs")
    return TwoStage(config, channels, outputs)


class Box(NamedTuple):
    """Boxes ``(B, nd)`` in units in which the image goes from -1 to 1 along each axis."""

    centre: Tensor
    half: Tensor


def places(n: int, like: Tensor) -> Tensor:
    """Centres of n voxels between -1 and 1."""
    return (2 * torch.arange(n, device=like.device, dtype=like.dtype) + 1) / n - 1


def box_of(heat: Tensor) -> Box:
    """The box of a heat map ``(B, *S)`` between 0 and 1; see the module's docstring."""
    nd = heat.ndim - 1
    centres, halves = [], []
    for axis in range(1, nd + 1):
        n = heat.shape[axis]
        profile = heat.amax([i for i in range(1, nd + 1) if i != axis]).pow(_SHARPEN) + 1e-8
        share = profile / profile.sum(1, keepdim=True)
        place = places(n, heat)
        centre = (share * place).sum(1)  # no matrix product: mixed precision would round it
        variance = (share * (place - centre[:, None]).square()).sum(1)
        centres.append(centre)
        halves.append((3 * variance + n**-2).sqrt())  # a voxel, too, has a width
    return Box(torch.stack(centres, 1), torch.stack(halves, 1))


def grid_of(box: Box, shape: torch.Size | tuple[int, ...], inverse: bool = False) -> Tensor:
    """Where to look for each voxel of ``shape``: in the image for a crop, or the inverse."""
    scale, shift = (1 / box.half, -box.centre / box.half) if inverse else (box.half, box.centre)
    batch, axes = len(scale), []  # not affine_grid, whose matrix product mixed precision rounds
    for i, n in enumerate(shape):
        line = shift[:, i, None] + scale[:, i, None] * places(n, scale)
        line = line.reshape(batch, *(n if j == i else 1 for j in range(len(shape))))
        axes.append(line.expand(batch, *shape))
    return torch.stack(axes[::-1], -1)


def crop(x: Tensor, box: Box, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """What is in the box, ``(B, C, *S) -> (B, C, *shape)``, by linear resampling."""
    return F.grid_sample(x, grid_of(box, shape), padding_mode="border", align_corners=False)


def paste(logits: Tensor, box: Box, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """The inverse of ``crop`` for logits, ``(B, outputs, *s) -> (B, outputs, *shape)``.

    Outside of the box is background; over the width of one voxel of the crop one becomes the other.
    """
    grid, logits = grid_of(box, shape, inverse=True), logits.float()
    share = torch.ones_like(grid[..., 0])
    for i, n in enumerate(reversed(logits.shape[2:])):
        share = share * (1 + (1 - grid[..., i].abs()) * n / 2).clamp(0, 1)
    background = logits.new_full((1, logits.shape[1], *(1 for _ in shape)), -OUTSIDE)
    background[:, 0] = OUTSIDE
    inside = F.grid_sample(logits, grid, padding_mode="border", align_corners=False)
    return torch.lerp(background, inside, share[:, None])


class Detector(nn.Module):
    """Stage 1: coarse logits and corrections of the box's size, cell by cell."""

    def __init__(self, config: Config, channels: int, outputs: int) -> None:
        super().__init__()
        nd, w = config.ndim, config.width
        halvings = config.stride.bit_length() - 1
        widths = [min(w * 2**i, config.max_width, 4 * w) for i in range(halvings)]
        pairs = zip([channels, *widths[:-1]], widths, strict=True)
        last = widths[-1]
        self.trunk = nn.Sequential(
            *(blocks.conv_unit(nd, before, n, config.norm, stride=2) for before, n in pairs),
            blocks.conv_unit(nd, last, last, config.norm),
            blocks.conv_unit(nd, last, last, config.norm),
        )
        self.heat = blocks.conv(nd, last, outputs, 1)
        self.size = blocks.conv(nd, last, nd, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, C, *S)`` -> ``(B, outputs, *cells)`` and ``(B, nd, *cells)``."""
        features = self.trunk(x)
        return self.heat(features), self.size(features)


class Segmenter(nn.Module):
    """Stage 2: a U-Net."""

    def __init__(self, config: Config, channels: int, outputs: int) -> None:
        super().__init__()
        nd, norm = config.ndim, config.norm
        widths = [min(config.width * 2**i, config.max_width) for i in range(config.levels)]

        def stage(before: int, after: int, stride: int = 1) -> nn.Module:
            return nn.Sequential(
                blocks.conv_unit(nd, before, after, norm, stride),
                blocks.conv_unit(nd, after, after, norm),
            )

        self.encoder = nn.ModuleList(
            stage(before, after, 2 if i else 1)
            for i, (before, after) in enumerate(zip([channels, *widths[:-1]], widths, strict=True))
        )
        pairs = list(itertools.pairwise(widths))
        self.up = nn.ModuleList(blocks.up_conv(nd, coarse, fine) for fine, coarse in pairs)
        self.decoder = nn.ModuleList(stage(2 * fine, fine) for fine, _ in pairs)
        self.head = blocks.conv(nd, widths[0], outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, *S) -> (B, outputs, *S)``."""
        skips: list[Tensor] = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        for i in reversed(range(len(self.decoder))):
            x = self.decoder[i](torch.cat([skips[i], self.up[i](x)], 1))
        logits: Tensor = self.head(x)
        return logits


class TwoStage(nn.Module):
    """See the module's docstring. In training, ``forward`` gives both stages' logits."""

    def __init__(self, config: Config, channels: int, outputs: int) -> None:
        super().__init__()
        self.config = config
        self.detector = Detector(config, channels, outputs)
        self.segmenter = Segmenter(config, channels, outputs)
        blocks.initialise(self)
        nn.init.normal_(self.detector.size.get_parameter("weight"), std=1e-3)

    def detect(self, x: Tensor) -> tuple[Tensor, Box]:
        """Stage 1: logits ``(B, outputs, *S/stride)`` and the boxes to crop, margin included.

        Raises:
            ConfigError: A spatial size is no multiple of the stride, or there is but one cell; the
                nearest size is named.
        """
        stride = self.config.stride
        blocks.require_multiple(x.shape[2:], stride)
        if all(n == stride for n in x.shape[2:]):
            raise ConfigError(
                f"expected more than one cell of stride {stride}, got {tuple(x.shape[2:])}",
                fix=f"pad to {(2 * stride,) * self.config.ndim}",
                code="size",
            )
        logits, correction = (part.float() for part in self.detector(x))
        heat = 1 - logits.softmax(1)[:, 0]
        box = box_of(heat)
        space = tuple(range(1, heat.ndim))
        share = heat / (heat.sum(space, keepdim=True) + 1e-8)
        change = (correction * share[:, None]).flatten(2).sum(2).tanh() * math.log(_CORRECTION)
        half = self.config.margin * box.half * change.exp()
        half = half - (half - 1).relu().detach()  # 1 at most, and still it can learn to shrink
        centre = box.centre.clamp(half - 1, 1 - half)  # the crop stays within the image
        # how much there is to find decides between that box and the whole image
        warmest = heat.amax(space)[:, None]
        certainty = ((warmest - _NOTHING) / (_SOMETHING - _NOTHING)).clamp(0, 1)
        return logits, Box(certainty * centre, 1 - certainty * (1 - half))

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits ``(B, outputs, *S)``; in training a list of them and of stage 1's, enlarged."""
        coarse, box = self.detect(x)
        step = 2 ** (self.config.levels - 1)
        shape = tuple(step * max(1, round(self.config.crop * n / step)) for n in x.shape[2:])
        if all(n == step for n in shape):
            shape = (2 * step,) * self.config.ndim
        final = paste(self.segmenter(crop(x, box, shape)), box, x.shape[2:])
        if not self.training:
            return final
        mode = "trilinear" if self.config.ndim == 3 else "bilinear"
        return [final, F.interpolate(coarse, x.shape[2:], mode=mode)]
