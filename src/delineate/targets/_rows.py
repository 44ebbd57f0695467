"""Rows by which runs are compared: ``arm``, ``case``, ``subject``, ``region`` and metrics each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def regions(rows: Sequence[Row]) -> list[str]:
    """What rows tell apart within a case, in order: structures, or conditions."""
    return list(dict.fromkeys(row["region"] for row in rows))


def of(rows: Sequence[Row], arm: str, region: str) -> list[Row]:
    """Those of an arm and a region."""
    return [row for row in rows if row["arm"] == arm and row["region"] == region]


def array(values: Sequence[float | None]) -> list[float]:
    """What is not known as NaN."""
    return [math.nan if value is None else value for value in values]


def known(value: float | None) -> float | None:
    """NaN and infinity as what is not known."""
    return float(value) if value is not None and math.isfinite(value) else None


def over_subjects(values: Sequence[float | None], rows: Sequence[Row]) -> dict[str, Any]:
    """Mean and median of one value a row, over subjects, with the 95 % interval of the mean."""
    from delineate.metrics.statistics import summarise

    figures = summarise(array(values), [row["subject"] for row in rows])
    return {
        "mean": known(figures["mean"]), "median": known(figures["median"]),
        "low": known(figures["ci_low"]), "high": known(figures["ci_high"]),
        "n": figures["n_subjects"],
    }  # fmt: skip
