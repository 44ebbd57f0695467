"""By what runs that outline are compared: rows of cases, means and intervals over subjects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from delineate.data.cohort import Cohort
from delineate.scoring.figures import METRICS
from delineate.targets import Judged, Terms
from delineate.targets._rows import Row, known, of, over_subjects, regions

#: An answer that finds nothing; what it scores needs no training.
ALL_BACKGROUND = "all background"
#: The average of a case over its structures.
MEAN = "mean"
#: Metrics of an empty answer, given whether the structure is there.
_EMPTY = {"dice": (1.0, 0.0), "iou": (1.0, 0.0), "recall": (1.0, 0.0), "precision": (1.0, 0.0),
          "nsd": (1.0, 0.0)}  # fmt: skip


class OutlineComparison:
    """See ``delineate.targets.Comparison``."""

    noun = "labelled cases"
    metrics = METRICS
    phantom: Mapping[str, Any] = {"layout": "bids", "twins": 0.15}

    def judged(self, cohort: Cohort, level: str) -> Judged:
        """Every labelled case, in the folds of the data themselves."""
        return Judged(cohort.labelled())

    def rows(
        self, table: Iterable[Mapping[str, str]], metrics: Sequence[str]
    ) -> list[dict[str, Any]]:
        """Regions of every case where there are any, else labels, and a mean."""
        lines = list(table)
        kind = "region" if any(line["kind"] == "region" for line in lines) else "label"
        lines = [line for line in lines if line["kind"] == kind]
        listed: list[dict[str, Any]] = []
        for line in lines:
            # Compared on the same cases: a distance keeps its penalty where a structure is missing.
            values = {m: _number(line.get(f"{m}_penalised", line[m])) for m in metrics}
            empty = line["state"] in ("both empty", "false alarm")
            baseline: dict[str, float | None] = {
                metric: _EMPTY[metric][0 if empty else 1] if metric in _EMPTY else None
                for metric in metrics
            }
            if "accuracy" in metrics:
                baseline["accuracy"] = _number(line["accuracy_background"])
            listed.append(
                {
                    "case": line["case"],
                    "subject": line["subject"],
                    "region": line["region"],
                    **values,
                    "_nothing": baseline,
                }
            )
        if len({line["region"] for line in lines}) > 1:
            for case in dict.fromkeys(row["case"] for row in listed):
                case_rows = [row for row in listed if row["case"] == case]
                values = {m: _mean([row[m] for row in case_rows]) for m in metrics}
                baseline = {m: _mean([row["_nothing"][m] for row in case_rows]) for m in metrics}
                listed.append({**case_rows[0], "region": MEAN, **values, "_nothing": baseline})
        return listed

    def summary(self, rows: Sequence[Row], metrics: Sequence[str]) -> list[dict[str, Any]]:
        """Mean and median of every arm, region and metric, with 95 % intervals over subjects."""
        entries = []
        arms = list(dict.fromkeys(row["arm"] for row in rows))
        for region in regions(rows):
            for metric in metrics:
                for arm in [*arms, ALL_BACKGROUND]:
                    arm_rows = (
                        _once(rows, region) if arm == ALL_BACKGROUND else of(rows, arm, region)
                    )
                    values = [row["_nothing"][metric] if arm == ALL_BACKGROUND else row[metric]
                              for row in arm_rows]  # fmt: skip
                    if all(value is None for value in values):
                        continue
                    head = {"arm": arm, "region": region, "metric": metric}
                    entries.append({**head, **over_subjects(values, arm_rows)})
        return entries

    def paired(
        self, rows: Sequence[Row], metrics: Sequence[str], condition: str
    ) -> tuple[Sequence[Row], Sequence[str]]:
        """The rows as they are."""
        return rows, metrics

    def notes(self, rows: Sequence[Row], terms: Terms) -> list[str]:
        """What a reader must know to read the table."""
        judged = {arm: {row["subject"] for row in rows if row["arm"] == arm}
                  for arm in dict.fromkeys(row["arm"] for row in rows)}  # fmt: skip
        subjects = len(set().union(*judged.values()))
        short = [
            f"{arm} {len(arm_subjects)}"
            for arm, arm_subjects in judged.items()
            if len(arm_subjects) < subjects
        ]
        missing = (
            f"not every arm judged all {subjects} subjects ({', '.join(short)}): its mean is of "
            "other subjects than the others'; paired contrasts use those that both judged"
        )
        draws = "labels" in terms.splits
        alike = (
            "one learning rate, loss and width for all, and weights drawn at random: what an "
            "architecture reaches with its own schedule, pretraining or random field is not asked"
        )
        return [
            *([missing] if short else []),
            *(_of_draws(terms.runs, subjects) if draws else _of_folds(terms.runs, subjects)),
            "equal compute: multiplications counted in a training step, backward pass and critics "
            "included; a cheaper network gets more steps, at most four times the median",
            "the U-Net has deep supervision, as nnU-Net trains it; the others are as published",
            *([alike] if terms.alike else []),
            "a structure that is missed, or found where there is none, has a Dice of 0 and the "
            "image's diagonal as its distances",
            "all background: what an answer that finds nothing would score on the same cases",
        ]


def _of_folds(runs: int, subjects: int) -> list[str]:
    return [
        f"every run holds out another of {runs} parts of the subjects and draws its own "
        f"weights; each of {subjects} subjects is judged by a model that never saw it",
        "intervals: 95 % bootstrap over subjects; p: Wilcoxon's signed-rank test over "
        "subjects, corrected by Holm within a metric, planned contrasts apart from the others",
        f"intervals and p speak of the {runs} models that were trained, and of new "
        "subjects; training again, with other seeds, would move figures beyond them",
    ]


def _of_draws(runs: int, subjects: int) -> list[str]:
    return [
        f"{runs} draws (or seeds, of a list of labelled subjects), the same for every arm: few "
        "subjects keep their labels, all others who may "
        f"train are there without; the same {subjects} held-out subjects judge every draw",
        "the control learns from the same labels, with the same augmentation and compute, and does "
        "not see the other scans; weights are those of the last steps, and nothing is selected",
        "intervals and p of contrasts: paired bootstrap over draws, and subjects within them, "
        "corrected by Holm within a metric; intervals of arms are over subjects alone, of their "
        "means over draws; of fewer than about 15 draws or subjects both are somewhat too narrow",
    ]


def _once(rows: Sequence[Mapping[str, Any]], region: str) -> list[Mapping[str, Any]]:
    """One row of every case, whichever arm judged it."""
    return list({row["case"]: row for row in rows if row["region"] == region}.values())


def _number(text: str) -> float | None:
    return known(float(text)) if text else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
