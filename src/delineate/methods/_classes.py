"""What methods that train classifiers share: ``(logits, batch) -> loss and what the log says``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor

from delineate.core.case import Batch
from delineate.core.errors import ConfigError

#: Weight of the heads half-way that some networks train with (Szegedy et al. 2015).
AUXILIARY = 0.3


def require(batch: Batch) -> Tensor:
    """The classes ``(B,)`` of a batch.

    Raises:
        ConfigError: It has none.
    """
    if batch.klass is None:
        raise ConfigError(
            "expected a class for every image of the batch, got none",
            where="method",
            fix="choose --target class or presence",
            code="no-classes",
        )
    return batch.klass


def cross_entropy(
    found: Tensor | Sequence[Tensor], batch: Batch, smoothing: float = 0.0
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Cross-entropy of every image's class, weighted where the batch says so, and the log's lines.

    Args:
        found: Logits ``(B, outputs)``; where there are further heads, theirs last.
        batch: With classes.
        smoothing: Of the labels.

    Raises:
        ConfigError: The batch has no classes.
    """
    klass = require(batch)
    heads = [found] if isinstance(found, Tensor) else list(found)

    def one(logits: Tensor) -> Tensor:
        each = F.cross_entropy(logits.float(), klass, label_smoothing=smoothing, reduction="none")
        return each.mean() if batch.weight is None else (each * batch.weight).mean()

    loss = one(heads[0])
    for head in heads[1:]:
        loss = loss + AUXILIARY * one(head)
    right = (heads[0].argmax(1) == klass).float().mean()
    return loss, {"loss": loss.detach(), "train_accuracy": right.detach()}
