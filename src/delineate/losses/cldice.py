"""clDice: overlap of centre lines, for vessels (Shit et al. 2021, arXiv:2003.07311).

The share of the predicted skeleton inside the expert's mask, and of the expert's skeleton inside
the predicted mask, joined as Dice joins them. Skeletons are soft: what openings take away while
the mask is eroded step by step. It says little of where the surface lies, so it joins Dice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from delineate.core.errors import ConfigError
from delineate.losses._common import Term, annotated, one_hot, pooled

KIND = "finest"
#: Where an image is cut, skeletons end: how much the loss may change by it.
CUT_CHANGES = 0.1
#: Voxels added above and below the line of both shares.
_SMOOTH = 1.0


@dataclass(frozen=True)
class Config(Term):
    """Settings of clDice."""

    iterations: int = field(
        default=5, metadata={"help": "erosions; at least the radius of the widest vessel in voxels"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.iterations < 1:
            raise ConfigError(f"expected iterations >= 1, got {self.iterations}")


def loss(
    logits: Tensor,
    label: Tensor,
    config: Config | None = None,
    spacing_mm: Sequence[float] | None = None,
) -> Tensor:
    """Pooled over the batch, mean over foreground classes.

    Args:
        logits: ``(B, C, *S)``.
        label: ``(B, *S)`` indices.
        config: Settings; the defaults if not given.
        spacing_mm: Not used: skeletons are made voxel by voxel.
    """
    config, logits = config or Config(), logits.float()
    probabilities = (logits.softmax(1) * annotated(label, logits))[:, 1:]
    truth = one_hot(label, logits)[:, 1:]
    axes = pooled(logits)
    line, expert = (
        soft_skeleton(probabilities, config.iterations),
        soft_skeleton(truth, config.iterations),
    )
    precision = ((line * truth).sum(axes) + _SMOOTH) / (line.sum(axes) + _SMOOTH)
    recall = ((expert * probabilities).sum(axes) + _SMOOTH) / (expert.sum(axes) + _SMOOTH)
    return 1 - (2 * precision * recall / (precision + recall)).mean()


def soft_skeleton(x: Tensor, iterations: int) -> Tensor:
    """Soft centre lines (algorithm 1 of the paper).

    Args:
        x: ``(B, C, *S)`` between 0 and 1.
        iterations: Erosions.

    Returns:
        ``(B, C, *S)`` between 0 and 1.
    """
    thinner = _erode(x)
    line = F.relu(x - _dilate(thinner))
    for _ in range(iterations):
        x, thinner = thinner, _erode(thinner)
        line = line + (1 - line) * F.relu(x - _dilate(thinner))
    return line


def _along(x: Tensor, axis: int) -> Tensor:
    """Maximum of each voxel and its two neighbours along a spatial axis."""
    window = [1] * (x.ndim - 2)
    window[axis] = 3
    pool = F.max_pool3d if x.ndim == 5 else F.max_pool2d
    return pool(x, window, stride=1, padding=[n // 2 for n in window])


def _erode(x: Tensor) -> Tensor:
    """Minimum over the voxel and its face neighbours."""
    thin = -_along(-x, 0)
    for axis in range(1, x.ndim - 2):
        thin = torch.minimum(thin, -_along(-x, axis))
    return thin


def _dilate(x: Tensor) -> Tensor:
    """Maximum over the 3 x 3 (x 3) neighbourhood, one axis after the other."""
    for axis in range(x.ndim - 2):
        x = _along(x, axis)
    return x
