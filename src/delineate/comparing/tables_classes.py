"""From the answers of all runs to a table of classifiers, by condition."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from delineate.comparing import tables_outline
from delineate.comparing.run_processes import Run
from delineate.comparing.suites import Suite

#: What always answering the commonest class would score.
MAJORITY = "majority class"


def rows(
    table: Iterable[Mapping[str, str]], one: Run, metrics: Sequence[str]
) -> list[dict[str, Any]]:
    """The rows of one run's ``cases.csv``: a picture each."""
    return [
        {
            "arm": one.arm, "run": one.number, "seed": one.number, "fold": one.number,
            "case": line["case"], "subject": line["subject"], "region": one.condition,
            "accuracy": float(line["right"] == "yes"),
            "_truth": line["truth"],
            "_p": {k[2:]: float(v) for k, v in line.items() if k.startswith("p_")},
        }
        for line in table
    ]  # fmt: skip


def summary(found: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Figures of every arm and condition, with 95 % bootstrap intervals over subjects."""
    from delineate.metrics.classification import classification_figures

    entries: list[dict[str, Any]] = []
    for region in dict.fromkeys(row["region"] for row in found):
        baseline: Mapping[str, Any] = {}
        for arm in dict.fromkeys(row["arm"] for row in found):
            mine = [row for row in found if (row["arm"], row["region"]) == (arm, region)]
            if not mine:
                continue
            classes = sorted(mine[0]["_p"])
            figures = classification_figures(
                [[row["_p"][name] for name in classes] for row in mine],
                [classes.index(row["_truth"]) for row in mine],
                [row["subject"] for row in mine],
                classes,
            )
            baseline = baseline or figures["majority"]
            entries += [_entry(arm, region, metric, figures[metric], figures["n_subjects"])
                        for metric in metrics]  # fmt: skip
        entries += [
            _entry(MAJORITY, region, metric, {"value": baseline.get(metric)}, 0)
            for metric in metrics
            if baseline.get(metric) is not None
        ]
    return entries


def contrasts(found: Sequence[Mapping[str, Any]], suite: Suite) -> list[dict[str, Any]]:
    """Paired differences in accuracy, within subjects, under the first condition."""
    first = suite.conditions[0].name
    judged: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in found:
        if row["region"] == first:
            judged.setdefault((row["arm"], row["case"]), []).append(row)
    mine = [  # declared parts are judged in every run
        {**rows[0], "accuracy": sum(row["accuracy"] for row in rows) / len(rows)}
        for rows in judged.values()
    ]
    return tables_outline.contrasts(mine, dataclasses.replace(suite, metrics=("accuracy",)))


def notes(suite: Suite, found: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader must know to read the table."""
    subjects = {row["subject"] for row in found}
    kinds = {condition.split for condition in suite.conditions}
    parts = {
        "subject": f"by subject: every run holds out another of {suite.runs} parts of the subjects",
        "site": "by site: every run holds out one site",
        "slice": "by slice: neighbouring slices of one subject are on both sides, as in many "
        "published results; such figures say nothing of new subjects",
        "declared": "as declared: every run is judged on the test part that came with the data",
    }
    short = [
        f"{arm} {len(mine)} ({region})"
        for region in dict.fromkeys(row["region"] for row in found)
        for arm in dict.fromkeys(row["arm"] for row in found if row["region"] == region)
        if len(mine := {r["subject"] for r in found if (r["arm"], r["region"]) == (arm, region)})
        < len({r["subject"] for r in found if r["region"] == region})
    ]
    return [
        *([f"not every arm judged all subjects: {', '.join(short)}"] if short else []),
        *(words for kind, words in parts.items() if kind in kinds),
        "random labels are drawn for each subject, anew in every run: whatever beats chance on "
        "them has recognised subjects, not disease",
        f"{len(subjects)} subjects; every run draws its own weights, and answers of all runs are "
        "pooled, so that ROC-AUC ranks answers of several models",
        "equal compute: multiplications counted in a training step; a cheaper network gets more "
        "steps, at most four times the median",
        "intervals: 95 % bootstrap over subjects; contrasts: accuracy, Wilcoxon's test over "
        "subjects, corrected by Holm",
        "no temperature is fitted, for there are no validation cases",
    ]


def _entry(arm: str, region: str, metric: str, figure: Mapping[str, Any], n: int) -> dict[str, Any]:
    return {
        "arm": arm, "region": region, "metric": metric, "mean": _known(figure.get("value")),
        "low": _known(figure.get("ci_low")), "high": _known(figure.get("ci_high")),
        "median": None, "n": n,
    }  # fmt: skip


def _known(value: Any) -> float | None:
    return float(value) if value is not None and value == value else None  # NaN is not itself
