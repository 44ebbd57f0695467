"""Cross-entropy: ``-log p`` of the true class, mean over voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor

from delineate.core.errors import ConfigError
from delineate.core.schema import IGNORED
from delineate.losses._common import Term

KIND = "output"


@dataclass(frozen=True)
class Config(Term):
    """Settings of cross-entropy."""

    label_smoothing: float = field(
        default=0.0, metadata={"help": "probability taken from the true class and spread over all"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"expected 0 <= label_smoothing < 1, got {self.label_smoothing}")


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
    config = config or Config()
    total = F.cross_entropy(
        logits.float(), label.long(), label_smoothing=config.label_smoothing,
        ignore_index=IGNORED, reduction="sum",
    )  # fmt: skip
    return total / (label != IGNORED).sum().clamp_min(1)
