"""From the rows of all runs to paired contrasts, and the figures that a document printed."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from delineate.comparing.run_processes import Run
from delineate.comparing.suites import Suite
from delineate.targets import Comparison
from delineate.targets._rows import Row, array, known, of, regions


def rows(
    path: Path,
    run: Run,
    comparison: Comparison,
    metrics: Sequence[str],
    several: bool = False,
) -> list[dict[str, Any]]:
    """The rows of one run's ``cases.csv``, with what run they are of.

    Args:
        path: The table.
        run: The run; its condition stands where a target tells no structures apart.
        comparison: Of the target.
        metrics: Wanted.
        several: Structures are told apart, and there are several conditions.
    """
    head = {"arm": run.arm, "run": run.number, "seed": run.number, "fold": run.number}
    with path.open(newline="", encoding="utf-8") as file:
        listed = comparison.rows(csv.DictReader(file), metrics)
    rows = [
        {**head, "case": row["case"], "subject": row["subject"], "region": run.condition, **row}
        for row in listed
    ]
    if several and run.condition:
        rows = [{**row, "region": f"{run.condition}: {row['region']}"} for row in rows]
    return rows


def contrasts(rows: Sequence[Row], suite: Suite, comparison: Comparison) -> list[dict[str, Any]]:
    """Paired differences: those the suite names, and every arm against its reference.

    Where there are several conditions, under the first of them. P-values are corrected by Holm
    within a metric, the planned ones apart from the others.
    """
    from delineate.metrics.statistics import holm

    rows, metrics = comparison.paired(rows, suite.metrics, suite.conditions[0].name)
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    planned_pairs = {(c.a, c.b): c.name for c in suite.contrasts}
    pairs = dict(planned_pairs)
    if suite.reference:
        for arm in arms:
            if arm != suite.reference:
                pairs.setdefault((arm, suite.reference), f"{arm} minus {suite.reference}")
    entries: list[dict[str, Any]] = []
    for metric in metrics:
        family = []
        for (a, b), name in pairs.items():
            if a not in arms or b not in arms:
                continue
            for region in regions(rows):
                pair = (of(rows, a, region), of(rows, b, region))
                compared = _draws(*pair, metric) if suite.draws else _cases(*pair, metric)
                family.append(
                    {
                        "name": name, "a": a, "b": b, "region": region, "metric": metric,
                        "difference": known(compared["difference"]),
                        "low": known(compared["ci_low"]), "high": known(compared["ci_high"]),
                        "p": known(compared["p_value"]), "n": compared["n_subjects"],
                    }
                )  # fmt: skip
        planned = [entry for entry in family if (entry["a"], entry["b"]) in planned_pairs]
        for group in (planned, [entry for entry in family if entry not in planned]):
            corrected = holm(array([entry["p"] for entry in group]))
            for entry, p in zip(group, corrected, strict=True):
                entry["p_holm"] = known(float(p))
        entries += family
    return entries


def _cases(a: Sequence[Row], b: Sequence[Row], metric: str) -> dict[str, Any]:
    """Two arms compared on the cases that both judged, each once."""
    from delineate.metrics.statistics import compare_paired

    first, second = ({row["case"]: row for row in rows} for rows in (a, b))
    both = sorted(first.keys() & second.keys())
    return compare_paired(
        array([first[c][metric] for c in both]),
        array([second[c][metric] for c in both]),
        [first[c]["subject"] for c in both],
    )


def _draws(a: Sequence[Row], b: Sequence[Row], metric: str) -> dict[str, Any]:
    """Two arms compared in the draws that both learned, by subjects that judged all of them."""
    from delineate.metrics.statistics import compare_draws

    first, second = (_by_draw(rows, metric) for rows in (a, b))
    draws = sorted(first.keys() & second.keys())
    judged = [first[n].keys() & second[n].keys() for n in draws]
    subjects = sorted(set.intersection(*judged)) if judged else []
    return compare_draws([[first[n][s] - second[n][s] for s in subjects] for n in draws] or [[]])


def _by_draw(rows: Sequence[Row], metric: str) -> dict[int, dict[str, float]]:
    """Draw -> subject -> mean of its cases, as far as it is known."""
    values: dict[int, dict[str, list[float]]] = {}
    for row in rows:
        if row[metric] is not None:
            values.setdefault(row["run"], {}).setdefault(row["subject"], []).append(row[metric])
    return {
        number: {name: sum(of_one) / len(of_one) for name, of_one in by_subject.items()}
        for number, by_subject in values.items()
    }


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
