"""How every arm learned: what its runs logged of validation cases, and whether it still gained."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from delineate.comparing.run_processes import Run
from delineate.engine.budget import ENOUGH_STEPS

#: An arm has converged if its figure rose by less than this from a fifth of training to the next,
#: the last two of five compared.
RISE = 0.01
#: Figures from 0 to 1, more being better: of others nobody knows what a small rise is.
_JUDGED = ("dice", "balanced_accuracy")
#: Looks in a fifth without which nothing is said of it.
_LEAST_LOOKS = 2
CRITERION = (
    f"converged: the mean validation figure of the last fifth of training is less than {RISE:g} "
    "above that of the fifth before, in the mean of the runs. Learning rates fall to nothing "
    "towards the end, which flattens every curve: only more compute shows what more compute gives"
)


def points(log: Path, planned: Run, gmac_step: float) -> list[dict[str, Any]]:
    """What a run logged of its validation cases.

    Args:
        log: Its ``log.jsonl``.
        planned: The run.
        gmac_step: Billion multiplications of a training step.

    Returns:
        Points: ``arm``, ``run``, ``step``, ``share`` (of all steps), ``gmac`` (spent by then),
        ``metric`` and ``value``; none where the run had no validation cases.
    """
    listed, head = [], {"arm": planned.arm, "run": planned.number}
    for text in log.read_text("utf-8").splitlines():
        line = json.loads(text)
        for key, value in line.items():
            if key.startswith("val_") and key != "val_loss" and value is not None:
                at = {"step": line["step"], "share": line["step"] / line["steps"]}
                at |= {"gmac": line["step"] * gmac_step}
                listed.append({**head, **at, "metric": key.removeprefix("val_"), "value": value})
    return listed


def verdict(points: Iterable[Mapping[str, Any]], steps: int) -> dict[str, Any]:
    """Whether an arm still gained at the end of its training.

    Args:
        points: Of all its runs, see above.
        steps: Of each; with few of them a curve may be flat because nothing is learned yet.

    Returns:
        ``rises``: of every run that can be judged, the mean of the last fifth less that of the
        fifth before; ``converged``: by ``CRITERION``. Both None where no run can be judged.
    """
    if steps < ENOUGH_STEPS:
        return {"rises": None, "converged": None}
    fifths: dict[Any, tuple[list[float], list[float]]] = {}
    for point in points:
        if point["metric"] in _JUDGED and point["share"] > 0.6:
            before, last = fifths.setdefault(point["run"], ([], []))
            (last if point["share"] > 0.8 else before).append(point["value"])
    rises = [
        statistics.fmean(last) - statistics.fmean(before)
        for before, last in fifths.values()
        if min(len(before), len(last)) >= _LEAST_LOOKS
    ]
    if not rises:
        return {"rises": None, "converged": None}
    return {"rises": rises, "converged": statistics.fmean(rises) < RISE}
