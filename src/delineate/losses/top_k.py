"""Cross-entropy of the hardest voxels alone (Wu et al. 2016, arXiv:1605.06885)."""

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
    """Settings of top-k cross-entropy."""

    share: float = field(default=0.1, metadata={"help": "part of the voxels that counts"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share <= 1:
            raise ConfigError(f"expected 0 < share <= 1, got {self.share}")


def loss(
    logits: Tensor,
    label: Tensor,
    config: Config | None = None,
    spacing_mm: Sequence[float] | None = None,
) -> Tensor:
    """Mean over the share of the batch's voxels with the highest cross-entropy, one at least.

    Args:
        logits: ``(B, C, *S)``.
        label: ``(B, *S)`` indices.
        config: Settings; the defaults if not given.
        spacing_mm: Not used.
    """
    config = config or Config()
    entropy = F.cross_entropy(
        logits.float(), label.long(), ignore_index=IGNORED, reduction="none"
    ).flatten()
    count = max(1, int(config.share * int((label != IGNORED).sum())))
    return entropy.topk(count, sorted=False).values.mean()
