"""Training of a classifier: the reference that every other one must beat at equal budget."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from delineate.core.context import Context
from delineate.methods import _classes
from delineate.methods._plan import Plan

TRAINS = ("classifier",)
USES = ("labelled",)


@dataclass(frozen=True)
class Config(_classes.Learning):
    """Settings of a classifier's training."""


def build(config: Config, network: nn.Module, context: Context) -> Plan:
    """One stage: cross-entropy of the class of every image, weighted where the batch says so.

    Args:
        config: Settings.
        network: ``(B, channels, *S) -> (B, classes)``.
        context: Of the data; the classes of its schema are the outputs.
    """
    return Plan((_classes.stage("classify", 1.0, config, network),), network)
