"""Signed-distance head (SASSNet: Li et al. 2020, arXiv:2007.10732): where the surface is, in mm.

A head beside the logits learns ``tanh(-distance / tau)`` of each foreground class, positive
inside, by mean squared error. It is used in training alone: it tells the features how far off the
surface they are. A class that a patch holds nothing of is far away everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor

from delineate.core.errors import ConfigError
from delineate.losses._common import Term, mean
from delineate.losses._distance import signed

KIND = "head"
#: tanh(-4) is -1 but for a thousandth: farther than so many tau there is nothing to learn.
_REACH = 4.0


@dataclass(frozen=True)
class Config(Term):
    """Settings of the signed-distance head."""

    weight: float = field(default=0.3, metadata={"help": "factor in the sum"})
    tau_mm: float = field(default=5.0, metadata={"help": "distance at which the map levels off"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tau_mm <= 0 or self.relative:
            raise ConfigError(
                "expected tau_mm > 0 and relative: false (the logits get no gradient of it), "
                f"got {self.tau_mm}, {self.relative}"
            )


def loss(
    distances: Tensor,
    label: Tensor,
    config: Config | None = None,
    spacing_mm: Sequence[float] | None = None,
) -> Tensor:
    """Mean over voxels, cases and foreground classes.

    Args:
        distances: ``(B, C - 1, *S')`` raw output of the head, brought to the size of the label.
        label: ``(B, *S)`` indices.
        config: Settings; the defaults if not given.
        spacing_mm: Of the axes ``S``; ones if not given.
    """
    config, size = config or Config(), label.shape[1:]
    predicted = distances.float()
    if predicted.shape[2:] != size:
        predicted = F.interpolate(
            predicted, size=size, mode="trilinear" if len(size) == 3 else "bilinear"
        )
    reach = _REACH * config.tau_mm
    truth = (-signed(label, distances.shape[1] + 1, spacing_mm, reach) / config.tau_mm).tanh()
    return mean((predicted.tanh() - truth).square(), label)
