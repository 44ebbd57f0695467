"""Context: what a method is told of the data and the task when it plans its training."""

from __future__ import annotations

from dataclasses import dataclass

from delineate.core.schema import Schema


@dataclass(frozen=True)
class Context:
    """What a plan is made for, beside settings and network.

    Args:
        ndim: Spatial dimensions that the network sees, 2 or 3.
        channels: Of the network's input.
        outputs: Of the network.
        schema: Labels, regions and classes of the cohort.
        spacing_mm: Of the axes that the network sees, as cases are prepared; 1 where that differs
            from case to case or is not known.
        target: What the model is asked for, by name: ``"outline"``, ``"class"`` …
    """

    ndim: int
    channels: int
    outputs: int
    schema: Schema
    spacing_mm: tuple[float, ...] = ()
    target: str = "outline"

    def __post_init__(self) -> None:
        if not self.spacing_mm:
            object.__setattr__(self, "spacing_mm", (1.0,) * self.ndim)
