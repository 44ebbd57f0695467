"""Training of a classifier: the reference that every other one must beat at equal budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from delineate.core.case import Batch
from delineate.core.errors import ConfigError
from delineate.core.schema import Schema
from delineate.methods import _classes
from delineate.methods._plan import Plan, Stage, Update

TRAINS = ("classifier",)


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
        loss, said = _classes.cross_entropy(classifier(batch.image), batch, config.label_smoothing)
        update(optimiser, loss)
        return said

    stage = Stage("classify", 1.0, {"classifier": classifier}, {"classifier": optimiser}, step)
    return Plan((stage,), classifier)
