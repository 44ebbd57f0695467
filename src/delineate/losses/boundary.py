"""Boundary loss (Kervadec et al. 2019, arXiv:1812.07032): distance of every misplaced voxel in mm.

The paper's ``sum p phi`` with the truth's own share taken away, a constant that it drops: the mean
of ``(p - y) phi``, which is 0 for the truth and never negative. ``phi`` is the signed distance to
the expert's surface (negative inside) in mm, clipped at ``clip_mm`` and divided by it; it is 0
where a patch holds nothing of a class, or nothing else. Alone it is content with an empty mask of
little weight, so it joins an overlap loss, and late.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from delineate.losses._common import mean, one_hot
from delineate.losses._distance import SurfaceTerm, bounded

KIND = "finest"


@dataclass(frozen=True)
class Config(SurfaceTerm):
    """Settings of the boundary loss."""


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
    return mean(error * bounded(label, logits.shape[1], spacing_mm, config.clip_mm), label)
