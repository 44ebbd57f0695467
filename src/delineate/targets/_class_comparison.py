"""By what runs that name classes are compared: pictures, their answers pooled by condition."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from delineate.core.case import Case
from delineate.core.errors import InputError
from delineate.core.threads import cores
from delineate.data import readers
from delineate.data.cohort import Cohort
from delineate.targets import Judged, Terms
from delineate.targets._rows import Row, known, of, regions

#: What always answering the commonest class would score.
MAJORITY = "majority class"


@dataclass(frozen=True)
class ClassComparison:
    """See ``delineate.targets.Comparison``.

    Args:
        named: Gives labelled cases the classes that are told apart, and says what to know of them.
    """

    named: Callable[[Cohort], tuple[list[Case], list[str]]]
    noun = "pictures"
    metrics: tuple[str, ...] | None = None
    # Slices do not tell that two patients are one person: with twins every split would leak.
    phantom: Mapping[str, Any] = field(default_factory=lambda: {"layout": "kaggle", "twins": 0.0})

    def judged(self, cohort: Cohort, level: str) -> Judged:
        """What is classified, each with its class, for tables that say the split.

        Slices that show nothing at all, above and below the head, are left out. Pictures that are
        equal to the last voxel count as one subject's.

        Args:
            cohort: As it lies there.
            level: ``slice``: stacks are taken apart; ``case``: they are judged whole.

        Raises:
            InputError: Volumes in one file, or no classes.
        """
        notes: list[str] = []
        flat = cohort
        if level == "slice":
            stacked = any(isinstance(s, tuple) for c in cohort.cases for s in c.images.values())
            flat, notes = _distinct(cohort.slices() if stacked else cohort)
        classified, more = self.named(flat)
        if len({case.class_name for case in classified}) < 2:
            raise InputError(
                f"expected slices or images of at least two classes, got {len(classified)} images",
                where=cohort.root,
                fix="give a data set with masks for --target presence, or with classes for class",
                code="classes-too-few",
            )
        return Judged(flat.with_cases(classified), tuple(notes + more), "class")

    def rows(
        self, table: Iterable[Mapping[str, str]], metrics: Sequence[str]
    ) -> list[dict[str, Any]]:
        """The rows of one run's ``cases.csv``: a picture each."""
        return [
            {
                "case": line["case"], "subject": line["subject"],
                "accuracy": float(line["right"] == "yes"),
                "_truth": line["truth"],
                "_p": {k[2:]: float(v) for k, v in line.items() if k.startswith("p_")},
            }
            for line in table
        ]  # fmt: skip

    def summary(self, rows: Sequence[Row], metrics: Sequence[str]) -> list[dict[str, Any]]:
        """Figures of every arm and condition, with 95 % bootstrap intervals over subjects."""
        from delineate.metrics.classification import classification_figures

        entries: list[dict[str, Any]] = []
        for region in dict.fromkeys(row["region"] for row in rows):
            baseline: Mapping[str, Any] = {}
            for arm in dict.fromkeys(row["arm"] for row in rows):
                arm_rows = [row for row in rows if (row["arm"], row["region"]) == (arm, region)]
                if not arm_rows:
                    continue
                classes = sorted(arm_rows[0]["_p"])
                figures = classification_figures(
                    [[row["_p"][name] for name in classes] for row in arm_rows],
                    [classes.index(row["_truth"]) for row in arm_rows],
                    [row["subject"] for row in arm_rows],
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

    def paired(
        self, rows: Sequence[Row], metrics: Sequence[str], condition: str
    ) -> tuple[Sequence[Row], Sequence[str]]:
        """Accuracy under the first condition; declared parts are judged in every run."""
        judged: dict[tuple[str, str], list[Row]] = {}
        for row in rows:
            if row["region"] == condition:
                judged.setdefault((row["arm"], row["case"]), []).append(row)
        means = [
            {**answers[0], "accuracy": sum(row["accuracy"] for row in answers) / len(answers)}
            for answers in judged.values()
        ]
        return means, ("accuracy",)

    def notes(self, rows: Sequence[Row], terms: Terms) -> list[str]:
        """What a reader must know to read the table."""
        subjects = {row["subject"] for row in rows}
        parts = {
            "subject": f"by subject: every run holds out another of {terms.runs} parts of the "
            "subjects",
            "site": "by site: every run holds out one site",
            "slice": "by slice: neighbouring slices of one subject are on both sides, as in many "
            "published results; such figures say nothing of new subjects",
            "declared": "as declared: every run is judged on the test part that came with the data",
        }
        short = [
            f"{arm} {len(arm_subjects)} ({region})"
            for region in regions(rows)
            for arm in dict.fromkeys(row["arm"] for row in rows if row["region"] == region)
            if len(arm_subjects := {row["subject"] for row in of(rows, arm, region)})
            < len({row["subject"] for row in rows if row["region"] == region})
        ]
        return [
            *([f"not every arm judged all subjects: {', '.join(short)}"] if short else []),
            *(words for kind, words in parts.items() if kind in terms.splits),
            "random labels are drawn for each subject, anew in every run: whatever beats chance on "
            "them has recognised subjects, not disease",
            f"{len(subjects)} subjects; every run draws its own weights, and answers of all runs "
            "are pooled, so that ROC-AUC ranks answers of several models",
            "equal compute: multiplications counted in a training step; a cheaper network gets "
            "more steps, at most four times the median",
            "intervals: 95 % bootstrap over subjects; contrasts: accuracy, Wilcoxon's test over "
            "subjects, corrected by Holm",
            "no temperature is fitted, for there are no validation cases",
        ]


def _distinct(flat: Cohort) -> tuple[Cohort, list[str]]:
    """Without blank pictures, and with one subject for all copies of a picture."""
    with ThreadPoolExecutor(min(8, cores())) as pool:
        prints = list(pool.map(_print, flat.cases))
    owners: dict[str, str] = {}
    distinct: list[Case] = []
    copies = 0
    for case, digest in zip(flat.cases, prints, strict=True):
        if digest is None:
            continue
        owner = owners.setdefault(digest, case.subject)
        copies += owner != case.subject
        distinct.append(
            dataclasses.replace(case, subject=owner, meta={**case.meta, "print": digest})
        )
    note = f"{copies} images are copies of another subject's and count as that subject's"
    return flat.with_cases(distinct), [note] * bool(copies)


def _print(case: Case) -> str | None:
    """Hash of all that a picture shows; None if that is nothing."""
    arrays = [readers.read(source, case.reading).array for source in case.images.values()]
    if all(float(array.min()) == float(array.max()) for array in arrays):
        return None
    whole = hashlib.sha256()
    for array in arrays:
        whole.update(repr((array.shape, array.dtype.str)).encode())
        whole.update(array.tobytes())
    return whole.hexdigest()


def _entry(arm: str, region: str, metric: str, figure: Mapping[str, Any], n: int) -> dict[str, Any]:
    return {
        "arm": arm, "region": region, "metric": metric, "mean": known(figure.get("value")),
        "low": known(figure.get("ci_low")), "high": known(figure.get("ci_high")),
        "median": None, "n": n,
    }  # fmt: skip
