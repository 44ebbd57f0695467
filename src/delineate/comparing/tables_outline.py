"""From the rows of all runs to a table: means, intervals, planned contrasts, printed figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from delineate.comparing.run_processes import Run
from delineate.comparing.suites import Suite

#: An answer that finds nothing; what it scores needs no training.
NOTHING = "all background"
#: The average of a case over its structures.
MEAN = "mean"
#: Metrics of an empty answer, given whether the structure is there.
_EMPTY = {"dice": (1.0, 0.0), "iou": (1.0, 0.0), "recall": (1.0, 0.0), "precision": (1.0, 0.0),
          "nsd": (1.0, 0.0)}  # fmt: skip


def rows(
    table: Iterable[Mapping[str, str]], one: Run, metrics: Sequence[str]
) -> list[dict[str, Any]]:
    """The rows of one run's ``cases.csv``: regions where there are any, else labels, and a mean."""
    lines = list(table)
    kinds = {line["kind"] for line in lines}
    lines = [line for line in lines if line["kind"] == ("region" if "region" in kinds else "label")]
    found: list[dict[str, Any]] = []
    for line in lines:
        # Arms are compared on the same cases, so a distance keeps its penalty where one is missing.
        values = {m: _number(line.get(f"{m}_penalised", line[m])) for m in metrics}
        empty = line["state"] in ("both empty", "false alarm")
        nothing: dict[str, float | None] = {
            metric: _EMPTY[metric][0 if empty else 1] if metric in _EMPTY else None
            for metric in metrics
        }
        if "accuracy" in metrics:
            nothing["accuracy"] = _number(line["accuracy_background"])
        found.append({**_head(one, line, line["region"]), **values, "_nothing": nothing})
    if len({line["region"] for line in lines}) > 1:
        for case in dict.fromkeys(row["case"] for row in found):
            mine = [row for row in found if row["case"] == case]
            values = {m: _mean([row[m] for row in mine]) for m in metrics}
            nothing = {m: _mean([row["_nothing"][m] for row in mine]) for m in metrics}
            found.append({**mine[0], "region": MEAN, **values, "_nothing": nothing})
    return found


def _head(one: Run, line: Mapping[str, str], region: str) -> dict[str, Any]:
    return {"arm": one.arm, "run": one.number, "seed": one.number, "fold": one.number,
            "case": line["case"], "subject": line["subject"], "region": region}  # fmt: skip


def summary(found: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Mean and median of every arm, region and metric, with 95 % intervals over subjects."""
    from delineate.metrics.statistics import summarise

    entries = []
    arms = list(dict.fromkeys(row["arm"] for row in found))
    for region in _regions(found):
        for metric in metrics:
            for arm in [*arms, NOTHING]:
                mine = _once(found, region) if arm == NOTHING else _of(found, arm, region)
                values = [row["_nothing"][metric] if arm == NOTHING else row[metric]
                          for row in mine]  # fmt: skip
                if all(value is None for value in values):
                    continue
                told = summarise(_array(values), [row["subject"] for row in mine])
                entries.append(
                    {
                        "arm": arm, "region": region, "metric": metric,
                        "mean": _or_none(told["mean"]), "median": _or_none(told["median"]),
                        "low": _or_none(told["ci_low"]), "high": _or_none(told["ci_high"]),
                        "n": told["n_subjects"],
                    }
                )  # fmt: skip
    return entries


def contrasts(found: Sequence[Mapping[str, Any]], suite: Suite) -> list[dict[str, Any]]:
    """Paired differences: those the suite names, and every arm against its reference.

    P-values are corrected by Holm within a metric, the planned ones apart from the others.
    """
    from delineate.metrics.statistics import compare_paired, holm

    arms = list(dict.fromkeys(row["arm"] for row in found))
    named = {(c.a, c.b): c.name for c in suite.contrasts}
    pairs = dict(named)
    if suite.reference:
        for arm in arms:
            if arm != suite.reference:
                pairs.setdefault((arm, suite.reference), f"{arm} minus {suite.reference}")
    entries: list[dict[str, Any]] = []
    for metric in suite.metrics:
        family = []
        for (a, b), name in pairs.items():
            if a not in arms or b not in arms:
                continue
            for region in _regions(found):
                first, second = (
                    {row["case"]: row for row in _of(found, arm, region)} for arm in (a, b)
                )
                both = sorted(first.keys() & second.keys())
                told = compare_paired(
                    _array([first[c][metric] for c in both]),
                    _array([second[c][metric] for c in both]),
                    [first[c]["subject"] for c in both],
                )
                family.append(
                    {
                        "name": name, "a": a, "b": b, "region": region, "metric": metric,
                        "difference": _or_none(told["difference"]),
                        "low": _or_none(told["ci_low"]), "high": _or_none(told["ci_high"]),
                        "p": _or_none(told["p_value"]), "n": told["n_subjects"],
                    }
                )  # fmt: skip
        planned = [entry for entry in family if (entry["a"], entry["b"]) in named]
        for group in (planned, [entry for entry in family if entry not in planned]):
            corrected = holm(_array([entry["p"] for entry in group]))
            for entry, p in zip(group, corrected, strict=True):
                entry["p_holm"] = _or_none(float(p))
        entries += family
    return entries


def printed(suite: Suite) -> dict[str, Any] | None:
    """The document's table, and what contradicts itself in it."""
    from delineate.metrics.plausibility import contradictions, repetitions

    table = suite.printed
    if table is None:
        return None
    findings = [f for row in table.rows for f in contradictions(row, table.rounding)]
    findings += repetitions(table.rows)
    return {"source": table.source, "columns": list(table.columns),
            "rows": [dict(row) for row in table.rows], "findings": findings}  # fmt: skip


def notes(suite: Suite, found: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader must know to read the table."""
    judged = {arm: {row["subject"] for row in found if row["arm"] == arm}
              for arm in dict.fromkeys(row["arm"] for row in found)}  # fmt: skip
    subjects = len(set().union(*judged.values()))
    short = [f"{arm} {len(mine)}" for arm, mine in judged.items() if len(mine) < subjects]
    missing = f"not every arm judged all {subjects} subjects ({', '.join(short)}): its mean is of "
    missing += "other subjects than the others'; paired contrasts use those that both judged"
    alike = "one learning rate, loss and width for all, and weights drawn at random: what an "
    alike += "architecture reaches with its own schedule, pretraining or random field is not asked"
    return [
        *([missing] if short else []),
        f"every run holds out another of {suite.runs} parts of the subjects and draws its own "
        f"weights; each of {subjects} subjects is judged by a model that never saw it",
        "equal compute: multiplications counted in a training step, backward pass and critics "
        "included; a cheaper network gets more steps, at most four times the median",
        "intervals: 95 % bootstrap over subjects; p: Wilcoxon's signed-rank test over subjects, "
        "corrected by Holm within a metric, planned contrasts apart from the others",
        "the U-Net has deep supervision, as nnU-Net trains it; the others are as published",
        f"intervals and p speak of the {suite.runs} models that were trained, and of new subjects; "
        "training again, with other seeds, would move figures beyond them",
        *([] if any(arm.settings for arm in suite.arms) else [alike]),
        "a structure that is missed, or found where there is none, has a Dice of 0 and the image's "
        "diagonal as its distances",
        "all background: what an answer that finds nothing would score on the same cases",
    ]


def _regions(found: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["region"] for row in found))


def _of(found: Sequence[Mapping[str, Any]], arm: str, region: str) -> list[Mapping[str, Any]]:
    return [row for row in found if row["arm"] == arm and row["region"] == region]


def _once(found: Sequence[Mapping[str, Any]], region: str) -> list[Mapping[str, Any]]:
    """One row of every case, whichever arm judged it."""
    return list({row["case"]: row for row in found if row["region"] == region}.values())


def _number(text: str) -> float | None:
    return _or_none(float(text)) if text else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _array(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


def _or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
