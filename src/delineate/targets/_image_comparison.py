"""By what runs that give images are compared: scans, and the best mix of their inputs beside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from delineate.data.cohort import Cohort
from delineate.scoring.translations import FIGURES
from delineate.targets import Judged, Terms
from delineate.targets._rows import Row, of, over_subjects, regions

#: What a mix of a case's own inputs, fitted to the true scan, would score; needs no model.
MIX = "best mix of the inputs"


class ImageComparison:
    """See ``delineate.targets.Comparison``."""

    noun = "scans"
    metrics = FIGURES
    phantom: Mapping[str, Any] = {"layout": "bids", "twins": 0.15}

    def judged(self, cohort: Cohort, level: str) -> Judged:
        """Every scan, in the folds of the data themselves."""
        return Judged(cohort)

    def rows(
        self, table: Iterable[Mapping[str, str]], metrics: Sequence[str]
    ) -> list[dict[str, Any]]:
        """A row a case."""
        return [
            {
                "case": line["case"],
                "subject": line["subject"],
                **{name: float(line[name]) for name in metrics},
                "_mix": {name: float(line[f"baseline_{name}"]) for name in metrics},
            }
            for line in table
        ]

    def summary(self, rows: Sequence[Row], metrics: Sequence[str]) -> list[dict[str, Any]]:
        """Mean and median of every arm and metric, with 95 % intervals over subjects."""
        entries = []
        for region in regions(rows):
            for metric in metrics:
                for arm in [*dict.fromkeys(row["arm"] for row in rows), MIX]:
                    arm_rows = list({row["case"]: row for row in rows}.values())
                    values = [row["_mix"][metric] for row in arm_rows]
                    if arm != MIX:
                        arm_rows = of(rows, arm, region)
                        values = [row[metric] for row in arm_rows]
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
        return [
            f"every run holds out another of {terms.runs} parts of the subjects and draws its own "
            "weights; each subject is judged by a model that never saw it",
            f"{MIX}: fitted to the true scan itself, which no model sees",
        ]
