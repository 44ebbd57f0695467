"""What methods that train classifiers share: a stage, and ``(logits, batch) -> loss, log``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from delineate.core.case import Batch
from delineate.core.errors import ConfigError
from delineate.methods._plan import Stage, Update, require_rates

#: Weight of the heads half-way that some networks train with (Szegedy et al. 2015).
AUXILIARY = 0.3


@dataclass(frozen=True)
class Learning:
    """Settings of a stage that learns classes."""

    learning_rate: float = field(default=1e-3, metadata={"help": "of the classes, peak, AdamW"})
    weight_decay: float = field(default=1e-2, metadata={"help": "of the classes, AdamW"})
    label_smoothing: float = field(default=0.05, metadata={"help": "of the classes; 0: none"})

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"expected 0 <= label_smoothing < 1, got {self.label_smoothing}")
        require_rates(self)


def stage(name: str, share: float, config: Learning, classifier: nn.Module) -> Stage:
    """Cross-entropy of the class of every image, by AdamW.

    Args:
        name: Of the stage.
        share: Of the plan.
        config: Settings.
        classifier: ``(B, C, *S) -> (B, classes)``, or a list of such where it has further heads.
    """
    optimiser = torch.optim.AdamW(
        classifier.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )

    def step(batch: Batch, update: Update) -> Mapping[str, Tensor]:
        loss, logged = cross_entropy(classifier(batch.image), batch, config.label_smoothing)
        update(optimiser, loss)
        return logged

    return Stage(name, share, {"classifier": classifier}, {"classifier": optimiser}, step)


def require(batch: Batch) -> Tensor:
    """The classes ``(B,)`` of a batch, ``IGNORED`` where they are not known.

    Raises:
        ConfigError: It has none.
    """
    if batch.class_index is None:
        raise ConfigError(
            "expected a class for every image of the batch, got none",
            where="method",
            fix="choose --target class or presence",
            code="no-classes",
        )
    return batch.class_index


def cross_entropy(
    outputs: Tensor | Sequence[Tensor], batch: Batch, smoothing: float = 0.0
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Cross-entropy of the class of labelled images, weighted where the batch says so; log's lines.

    Args:
        outputs: Logits ``(B, outputs)``; where there are further heads, theirs last.
        batch: With classes.
        smoothing: Of the labels.

    Raises:
        ConfigError: The batch has no classes.
    """
    known = batch.labelled
    class_index = require(batch)[known]
    heads = [outputs] if isinstance(outputs, Tensor) else list(outputs)

    def loss_of_head(logits: Tensor) -> Tensor:
        per_image = F.cross_entropy(
            logits.float()[known], class_index, label_smoothing=smoothing, reduction="none"
        )
        per_image = per_image if batch.weight is None else per_image * batch.weight[known]
        # not NaN where nobody is labelled
        return per_image.mean() if len(per_image) else per_image.sum()

    loss = loss_of_head(heads[0])
    for head in heads[1:]:
        loss = loss + AUXILIARY * loss_of_head(head)
    right = (heads[0].argmax(1)[known] == class_index).float()
    accuracy = right.mean() if len(right) else right.sum()
    return loss, {"loss": loss.detach(), "train_accuracy": accuracy.detach()}
