"""Training of a classifier: the reference that every other one must beat at equal budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from delineate.core.case import Batch
from delineate.core.errors import ConfigError
from delineate.core.schema import Schema
from delineate.methods._plan import Plan, Stage, Update

TRAINS = ("classifier",)

#: Weight of the heads half-way that some networks train with (Szegedy et al. 2015).
AUXILIARY = 0.3


@dataclass(frozen=True)
class Config:
    """Settings of a classifier's training."""

    learning_rate: float = field(default=1e-3, metadata={"help": "peak, AdamW"})
    weight_decay: float = field(default=1e-2, metadata={"help": "AdamW"})
    label_smoothing: float = field(default=0.05, metadata={"help": "0: none"})

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"expected 0 <= label_smoothing < 1, got {self.label_smoothing}")


def build(config: Config, classifier: nn.Module, channels: int, schema: Schema) -> Plan:
    """One stage: cross-entropy of the class of every image, weighted where the batch says so.

    Args:
        config: Settings.
        classifier: ``(B, channels, *S) -> (B, classes)``.
        channels: Input channels.
        schema: Of the cohort; its classes are the outputs.
    """
    optimiser = torch.optim.AdamW(
        classifier.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )

    def step(batch: Batch, update: Update) -> Mapping[str, Tensor]:
        found = classifier(batch.image)
        heads = [found] if isinstance(found, Tensor) else list(found)
        klass = batch.klass
        if klass is None:
            raise ConfigError("expected a class for every image of the batch, got none")

        def one(logits: Tensor) -> Tensor:
            smoothing = config.label_smoothing
            each = F.cross_entropy(
                logits.float(), klass, label_smoothing=smoothing, reduction="none"
            )
            return each.mean() if batch.weight is None else (each * batch.weight).mean()

        loss = one(heads[0])
        for head in heads[1:]:
            loss = loss + AUXILIARY * one(head)
        update(optimiser, loss)
        right = (heads[0].argmax(1) == klass).float().mean()
        return {"loss": loss.detach(), "train_accuracy": right.detach()}

    stage = Stage("classify", 1.0, {"classifier": classifier}, {"classifier": optimiser}, step)
    return Plan((stage,), classifier)
