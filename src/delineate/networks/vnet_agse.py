"""AGSE-VNet, ``(B, C, *S) -> (B, outputs, *S)``, in 2D or 3D.

V-Net with squeeze and excitation on every encoder stage and an attention guided filter on every
skip connection (Guan et al. 2022, doi:10.1186/s12880-021-00728-8). The filter (He et al. 2013,
doi:10.1109/TPAMI.2012.213) takes what comes up from below and gives it the edges of the encoder's
features, its guide; an attention gate then mutes places that do not matter, in the manner of
Zhang et al. 2019 (arXiv:1907.12930).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks
from delineate.networks import _vnet

PAPER = "Guan et al. 2022, doi:10.1186/s12880-021-00728-8"
KIND = "segmenter"


@dataclass(frozen=True)
class Config(_vnet.Config):
    """Shape of an AGSE-VNet."""

    reduction: int = field(default=8, metadata={"help": "how far squeezing narrows the channels"})
    radius: int = field(default=1, metadata={"help": "voxels from the guided filter's centre"})
    eps: float = field(default=1e-2, metadata={"help": "variance that counts as an edge"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reduction < 1 or self.radius < 1 or self.eps <= 0:
            raise ConfigError(
                "expected reduction and radius >= 1 and eps > 0, "
                f"got {self.reduction}, {self.radius}, {self.eps}"
            )


def divisor(config: Config) -> int:
    """Every spatial size must be a multiple of this."""
    return int(2 ** (config.levels - 1))


def build(config: Config, channels: int, outputs: int) -> blocks.UShape:
    """An AGSE-VNet with fresh weights (He initialisation)."""
    net = _vnet.build(config, channels, outputs)
    widths = config.widths
    net.encoder = nn.ModuleList(
        nn.Sequential(stage, blocks.SqueezeExcite(width, config.reduction))
        for stage, width in zip(net.encoder.children(), widths, strict=True)
    )
    net.lateral = nn.ModuleList(GuidedSkip(config, width) for width in widths[:-1])
    blocks.initialise(net)
    return net


class GuidedSkip(nn.Module):
    """What comes up, with the edges of the skip's features, gated."""

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        self.radius, self.eps = config.radius, config.eps
        self.gate = blocks.AttentionGate(config.ndim, width, width)

    def forward(self, skip: Tensor, x: Tensor) -> Tensor:
        """``skip`` and ``x`` ``(B, width, *S)`` -> ``(B, width, *S)``."""
        filtered = guided_filter(skip, x, self.radius, self.eps)
        return filtered * self.gate.weights(skip, x)


def guided_filter(guide: Tensor, x: Tensor, radius: int = 1, eps: float = 1e-2) -> Tensor:
    """Guided filter (He et al. 2013, eq. 5, 6 and 8), channel by channel.

    Args:
        guide: Features ``(B, C, *S)`` whose edges are kept.
        x: Features ``(B, C, *S)`` to filter.
        radius: Boxes have ``2 * radius + 1`` voxels a side, fewer at the rim.
        eps: Where the guide varies by less than this, the mean of ``x`` is taken.

    Returns:
        Features ``(B, C, *S)``; locally linear in the guide.
    """
    kind, guide, x = x.dtype, guide.float(), x.float()  # variances need the digits
    pool = F.avg_pool3d if guide.ndim == 5 else F.avg_pool2d

    def box(y: Tensor) -> Tensor:
        return pool(F.pad(y, [radius] * 2 * (y.ndim - 2)), 2 * radius + 1, 1)

    inside = box(torch.ones_like(guide[:1, :1]))  # the part of each box that is in the image

    def mean(y: Tensor) -> Tensor:
        return box(y) / inside

    middle, level = mean(guide), mean(x)
    slope = (mean(guide * x) - middle * level) / (F.relu(mean(guide**2) - middle**2) + eps)
    filtered = mean(slope) * guide + mean(level - slope * middle)
    return filtered.to(kind)
