"""Hausdorff loss by distance transform (Karimi and Salcudean 2019, arXiv:1904.10030), in mm.

``(p - y)^2 d^alpha``, mean over voxels, where ``d`` is the distance to the expert's surface: the
paper's one-sided form, which needs no transform of the prediction. Distances are clipped at
``clip_mm`` and divided by it, and are 0 where a patch holds nothing of a class, or nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from delineate.core.errors import ConfigError
from delineate.losses._common import mean, one_hot
from delineate.losses._distance import SurfaceTerm, bounded

KIND = "finest"


@dataclass(frozen=True)
class Config(SurfaceTerm):
    """Settings of the Hausdorff loss."""

    alpha: float = field(default=2.0, metadata={"help": "power of the distance"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha <= 0:
            raise ConfigError(f"expected alpha > 0, got {self.alpha}")


def loss(
    logits: Tensor,
    label: Tensor,
    config: Config | None = None,
    spacing_mm: Sequence[float] | None = None,
) -> Tensor:
    """Mean over voxels, cases and foreground classes.

    Args:
        logits: ``(B, C, *S)``.
        label: ``(B, *S)`` indices.
        config: Settings; the defaults if not given.
        spacing_mm: Of the axes ``S``; ones if not given.
    """
    config, logits = config or Config(), logits.float()
    error = (logits.softmax(1) - one_hot(label, logits))[:, 1:]
    distance = bounded(label, logits.shape[1], spacing_mm, config.clip_mm).abs()
    return mean(error.square() * distance**config.alpha, label)
