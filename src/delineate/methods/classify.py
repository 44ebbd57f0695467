"""Training of a classifier: the reference that every other one must beat at equal budget."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from delineate.core.schema import Schema
from delineate.methods import _classes
from delineate.methods._plan import Plan

TRAINS = ("classifier",)


@dataclass(frozen=True)
class Config(_classes.Learning):
    """Settings of a classifier's training."""


def build(config: Config, classifier: nn.Module, channels: int, schema: Schema) -> Plan:
    """One stage: cross-entropy of the class of every image, weighted where the batch says so.

    Args:
        config: Settings.
        classifier: ``(B, channels, *S) -> (B, classes)``.
        channels: Input channels.
        schema: Of the cohort; its classes are the outputs.
    """
    return Plan((_classes.stage("classify", 1.0, config, classifier),), classifier)
