"""Conditions of a benchmark of classifiers: who is on which side of the split, and whose labels.

Slices of stacks, or flat images, are written as one table a condition and run, with the split that
the condition wants. Leaky splits and labels drawn at random for each subject are there to show what
they lead to: a classifier that beats chance on random labels has recognised subjects.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from delineate.core.atomic import atomic_write_text, writable_folder
from delineate.core.case import Case
from delineate.core.errors import InputError
from delineate.data import readers, splits
from delineate.data.cohort import Cohort
from delineate.tasks._settings import PRESENCE
from delineate.tasks._tables import table

_COLUMNS = ("id", "subject", "site", "class", "split", "label")


@dataclass(frozen=True)
class Condition:
    """How subjects are parted, and which labels are learned."""

    name: str = field(metadata={"help": "as shown in tables"})
    split: Literal["subject", "slice", "site"] = field(
        default="subject", metadata={"help": "what stays together; slice: leaky"}
    )
    labels: Literal["true", "random"] = field(
        default="true", metadata={"help": "random: one drawn for each subject"}
    )


def pictures(cohort: Cohort, target: str) -> Cohort:
    """Every slice, or flat image, as a case with the class that the target gives it.

    Slices that show nothing at all, above and below the head, are left out.

    Raises:
        InputError: Volumes in one file, or no classes.
    """
    stacked = any(isinstance(s, tuple) for case in cohort.cases for s in case.images.values())
    flat = cohort.slices() if stacked else cohort
    flat = flat.with_cases([case for case in flat.cases if not _blank(case)])
    if target == "presence":
        flat = flat.labelled()
        named = [dataclasses.replace(case, klass=_presence(case)) for case in flat.cases]
    else:
        named = [case for case in flat.cases if case.klass is not None]
    if len({case.klass for case in named}) < 2:
        raise InputError(
            f"expected slices or flat images of at least two classes, got {len(named)} images",
            where=cohort.root,
            fix="give a data set with masks for --target presence, or with classes for class",
            code="classes-too-few",
        )
    return flat.with_cases(named)


def _blank(case: Case) -> bool:
    arrays = [readers.read(source).array for source in case.images.values()]
    return all(float(array.min()) == float(array.max()) for array in arrays)


def _presence(case: Case) -> str:
    return PRESENCE[int(case.label is not None and readers.read_label(case.label).array.any())]


def write(
    cohort: Cohort, conditions: Sequence[Condition], runs: int, folder: Path
) -> dict[tuple[str, int], Path]:
    """One table for every condition and run.

    Args:
        cohort: From ``pictures``.
        conditions: All that are wanted.
        runs: Parts of the cross-validation; sites are left out one by one instead.
        folder: For the tables.

    Returns:
        Condition and number of the run -> table.
    """
    writable_folder(folder)
    chance = _random_labels(cohort)
    channel = {name: "image" if kind == "unknown" else f"image_{kind.lower()}"
               for name, kind in cohort.modalities.items()}  # fmt: skip
    found: dict[tuple[str, int], Path] = {}
    for condition in conditions:
        parts = _parts(cohort, condition.split, runs)
        for number, held_out in enumerate(parts):
            path = folder / f"{condition.split}-{condition.labels}-{number}.csv"
            found[condition.name, number] = path
            if path.exists():
                continue
            rows = [
                {
                    "id": case.id, "subject": case.subject, "site": case.site or "",
                    "class": case.klass if condition.labels == "true" else chance[case.subject],
                    "split": "test" if case.id in held_out else "train",
                    "label": str(case.label) if isinstance(case.label, Path) else "",
                    **{channel[name]: str(source) for name, source in case.images.items()},
                }
                for case in cohort.cases
            ]  # fmt: skip
            atomic_write_text(path, table([*_COLUMNS, *dict.fromkeys(channel.values())], rows))
    return found


def _parts(cohort: Cohort, split: str, runs: int) -> list[set[str]]:
    """Ids that are held out, run by run."""
    if split == "site":
        return [set(one["test"]) for one in splits.leave_one_site_out(cohort)]
    if split == "subject":
        return [set(one["validation"]) for one in splits.k_fold(cohort, runs, seed=0)]
    ids = sorted(case.id for case in cohort.cases)
    order = np.random.default_rng(0).permutation(len(ids))
    return [{ids[i] for i in order[k::runs]} for k in range(runs)]


def _random_labels(cohort: Cohort) -> Mapping[str, str]:
    """One class a subject, every class about as often, whatever the images show."""
    classes = sorted({str(case.klass) for case in cohort.cases})
    subjects = sorted({case.subject for case in cohort.cases})
    order = np.random.default_rng(0).permutation(len(subjects))
    return {subjects[i]: classes[k % len(classes)] for k, i in enumerate(order)}
