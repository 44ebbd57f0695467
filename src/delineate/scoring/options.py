"""How predictions are scored."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from delineate.core.errors import ConfigError
from delineate.core.schema import Schema

#: Of the surface Dice, where none is given.
TOLERANCE_MM = 1.0


@dataclass(frozen=True)
class Options:
    """What may be chosen; see ``delineate.evaluate``.

    Args:
        tolerance_mm: Tolerance of the surface Dice (NSD).
        seed: Seed of the bootstrap.
        schema: Meaning of the label values.
        missing_as_empty: Score a missing prediction as one that found nothing.
        resamples: Number of bootstrap resamples.

    Raises:
        ConfigError: Out of range.
    """

    tolerance_mm: float = TOLERANCE_MM
    seed: int = 0
    schema: Schema | None = None
    missing_as_empty: bool = False
    resamples: int = 5000

    def __post_init__(self) -> None:
        if not (math.isfinite(self.tolerance_mm) and self.tolerance_mm >= 0):
            raise ConfigError(f"expected a tolerance in mm of 0 or more, got {self.tolerance_mm}")
        if self.resamples < 100:
            raise ConfigError(f"expected 100 or more bootstrap resamples, got {self.resamples}")

    def require_usual(self, kind: str) -> None:
        """Refuse options that mean something for outlines alone.

        Args:
            kind: Is scored ("predicted classes").

        Raises:
            ConfigError: Some are given.
        """
        given_options = {
            "--tolerance-mm": self.tolerance_mm != TOLERANCE_MM,
            "--missing-as-empty": self.missing_as_empty,
            "schema": self.schema is not None,
        }
        if unusable := [name for name, differs in given_options.items() if differs]:
            raise ConfigError(
                f"expected options that mean something for {kind}, got {', '.join(unusable)}",
                fix=f"leave out {' and '.join(unusable)}",
                code="option-model",
            )


def require_apart(predictions: Path, labels: Path, out: Path) -> None:
    """Refuse to write results among predictions or labels.

    Raises:
        ConfigError: ``out`` is one of them.
    """
    place = out.resolve()
    inputs = {predictions.resolve(), labels.resolve()}
    if place in inputs or labels.resolve() in place.parents:
        raise ConfigError(
            "expected an output folder apart from predictions and labels",
            where=out,
            fix="name another folder",
            code="output-is-input",
        )
