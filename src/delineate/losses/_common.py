"""What losses share: settings of a term in a weighted sum, one-hot labels, voxels that count.

Voxels whose label is ``IGNORED`` are out of every loss: what a network says there changes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from delineate.core.errors import ConfigError
from delineate.core.schema import IGNORED

#: Added above and below the line of overlap ratios; voxels.
EPSILON = 1e-5


@dataclass(frozen=True)
class Term:
    """What every term of a weighted sum can be told; see ``_sum``."""

    weight: float = field(default=1.0, metadata={"help": "factor in the sum"})
    warm_up: float = field(default=0.0, metadata={"help": "share of training before it joins"})
    ramp: float = field(default=0.0, metadata={"help": "share over which its weight then rises"})
    relative: bool = field(
        default=False,
        metadata={"help": "weight: size of its gradient at the logits against the other losses'"},
    )

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf or not 0 <= self.warm_up < 1 or not 0 <= self.ramp <= 1:
            raise ConfigError(
                "expected weight >= 0, 0 <= warm_up < 1 and 0 <= ramp <= 1, "
                f"got {self.weight}, {self.warm_up}, {self.ramp}"
            )

    def weight_at(self, progress: float) -> float:
        """The weight at a progress of 0 to 1: nothing, then a linear rise, then all."""
        if progress < self.warm_up:
            return 0.0
        return self.weight * min(1.0, (progress - self.warm_up) / self.ramp if self.ramp else 1.0)


def one_hot(label: Tensor, like: Tensor) -> Tensor:
    """``(B, *S)`` indices -> ``(B, C, *S)`` of the shape and type of ``like``; 0 where ignored."""
    mask = annotated(label, like)
    index = label.unsqueeze(1).long() * (mask > 0)
    return torch.zeros_like(like).scatter_(1, index, mask)


def annotated(label: Tensor, like: Tensor) -> Tensor:
    """``(B, 1, *S)`` of the type of ``like``: 1 where somebody has annotated, else 0."""
    return (label != IGNORED).unsqueeze(1).to(like.dtype)


def mean(values: Tensor, label: Tensor) -> Tensor:
    """Mean of ``(B, C, *S)`` over channels and the voxels that count; 0 where none does."""
    mask = annotated(label, values)
    return (values * mask).sum() / (mask.sum() * values.shape[1]).clamp_min(1.0)


def pooled(x: Tensor) -> tuple[int, ...]:
    """The axes of ``(B, C, *S)`` that a sum over the whole batch runs over."""
    return (0, *range(2, x.ndim))
