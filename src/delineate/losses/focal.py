"""Focal loss, ``-(1 - p)^gamma log p`` of the true class (Lin et al. 2017, arXiv:1708.02002)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from delineate.core.errors import ConfigError
from delineate.core.schema import IGNORED
from delineate.losses._common import Term, mean

KIND = "output"
#: Keeps the slope of ``(1 - p)^gamma`` finite where gamma < 1 and p has reached 1.
_LEAST = 1e-7


@dataclass(frozen=True)
class Config(Term):
    """Settings of the focal loss."""

    gamma: float = field(
        default=2.0, metadata={"help": "how little easy voxels count; 0 is cross-entropy"}
    )
    alpha: float | None = field(
        default=None, metadata={"help": "weight of foreground, the background's is 1 - alpha"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gamma < 0 or (self.alpha is not None and not 0 < self.alpha < 1):
            raise ConfigError(
                f"expected gamma >= 0 and 0 < alpha < 1, got {self.gamma}, {self.alpha}"
            )


def loss(
    logits: Tensor,
    label: Tensor,
    config: Config | None = None,
    spacing_mm: Sequence[float] | None = None,
) -> Tensor:
    """Mean over the voxels of the batch.

    Args:
        logits: ``(B, C, *S)``.
        label: ``(B, *S)`` indices.
        config: Settings; the defaults if not given.
        spacing_mm: Not used.
    """
    config, label = config or Config(), label.long()
    entropy = F.cross_entropy(logits.float(), label, ignore_index=IGNORED, reduction="none")
    focal = (-torch.expm1(-entropy)).clamp_min(_LEAST) ** config.gamma * entropy
    if config.alpha is not None:
        focal = torch.where(label > 0, config.alpha, 1 - config.alpha) * focal
    return mean(focal.unsqueeze(1), label)
