"""Conditions of a benchmark of classifiers: who is on which side of the split, and whose labels.

Pictures (slices, flat images or whole cases) are written as one table a condition and run, with the
split that the condition wants. Leaky splits and labels drawn at random for each subject are there
to show what they lead to: a classifier that beats chance on random labels has recognised subjects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from delineate.core.atomic import atomic_write_text, writable_folder
from delineate.core.case import Masks, Source
from delineate.core.errors import ConfigError, DelineateError, OutputError
from delineate.core.tables import table
from delineate.data import splits
from delineate.data.cohort import Cohort
from delineate.data.layouts._listing import modality

_COLUMNS = ("id", "subject", "site", "class", "split", "label")
#: Splits that part what belongs together.
LEAKY = ("slice", "declared")


@dataclass(frozen=True)
class Condition:
    """How subjects are parted, and which labels are learned."""

    name: str = field(metadata={"help": "as shown in tables"})
    split: Literal["subject", "slice", "site", "declared", "distinct", "labels"] = field(
        default="subject",
        metadata={
            "help": "what stays together; slice: nothing (leaky); declared: the data's own parts; "
            "distinct: those, without test images that training has too; labels, of outlines: "
            "subjects, few of whom keep their labels in training"
        },
    )
    labels: Literal["true", "random"] = field(
        default="true", metadata={"help": "random: one drawn for each subject, anew in every run"}
    )
    labelled: int = field(
        default=4, metadata={"help": "split labels: subjects who keep theirs, others in every run"}
    )

    def __post_init__(self) -> None:
        if self.labelled < 1:
            raise ConfigError(f"expected a labelled subject or more, got {self.labelled}")


def fitting(
    cohort: Cohort, conditions: Iterable[Condition], runs: int
) -> tuple[tuple[Condition, ...], list[str]]:
    """The conditions that these pictures allow, and why others are left out."""
    allowed, notes = [], []
    for condition in conditions:
        reason = None
        if condition.split == "slice" and len(cohort) == len({c.subject for c in cohort.cases}):
            reason = "every subject has one picture"
        elif condition.split == "distinct" and not _copied(cohort):
            reason = "no picture of the test part has a copy in training"
        else:
            try:
                _parts(cohort, condition.split, runs)
            except DelineateError as error:
                reason = error.message
        if reason is None:
            allowed.append(condition)
        else:
            notes.append(f"left out, {condition.name}: {reason}")
    return tuple(allowed), notes


def write(
    cohort: Cohort,
    conditions: Sequence[Condition],
    runs: int,
    folder: Path,
    resumed: bool = False,
) -> dict[tuple[str, int], Path]:
    """One table for every condition and run.

    Args:
        cohort: From ``pictures``.
        conditions: All that are wanted.
        runs: Parts of the cross-validation; sites are left out one by one instead, and declared
            parts are held out in every run.
        folder: For the tables.
        resumed: Runs may have learned from the tables that lie there.

    Returns:
        Condition and number of the run -> table.

    Raises:
        OutputError: Tables that runs learned from would have to change.
    """
    writable_folder(folder)
    paths: dict[tuple[str, int], Path] = {}
    for condition in conditions:
        parts = _parts(cohort, condition.split, runs)
        left_out = _copied(cohort) if condition.split == "distinct" else set()
        listed = cohort.with_cases(case for case in cohort.cases if case.id not in left_out)
        for number, held_out in enumerate(parts):
            path = folder / f"{condition.split}-{condition.labels}-{number}.csv"
            split = {c.id: "test" if c.id in held_out else "train" for c in listed.cases}
            chance = _random_labels(cohort, number) if condition.labels == "random" else None
            paths[condition.name, number] = write_one(
                listed, path, split, classes=chance, resumed=resumed
            )
    return paths


def write_one(
    cohort: Cohort,
    path: Path,
    split: Mapping[str, str],
    *,
    classes: Mapping[str, str] | None = None,
    hidden: Collection[str] = (),
    resumed: bool = False,
) -> Path:
    """One table of a cohort.

    Args:
        cohort: All that it lists.
        path: The file.
        split: Case id -> part.
        classes: Subject -> class, instead of those that cases have.
        hidden: Ids of cases whose label map is not given.
        resumed: A run may have learned from the table that lies there.

    Returns:
        ``path``.

    Raises:
        OutputError: A table that a run learned from would have to change.
    """
    channel = _columns({name: cohort.modality(name, name) for name in cohort.channels})
    schema = cohort.schema
    ignored = {} if schema.ignore is None or schema.named else {"ignore_label": schema.ignore}
    rows = [
        {
            "id": case.id, "subject": case.subject, "site": case.site or "",
            "class": case.class_name if classes is None else classes[case.subject],
            "split": split[case.id], "label": _cell(None if case.id in hidden else case.label),
            "channels": ";".join(case.meta.get("channels", ())),
            **ignored,
            **{channel[name]: _cell(source) for name, source in case.images.items()},
        }
        for case in cohort.cases
    ]  # fmt: skip
    channel_column = ["channels"] * any(row["channels"] for row in rows)
    text = table([*_COLUMNS, *ignored, *channel_column, *channel.values()], rows)
    if path.exists() and path.read_bytes() == text.encode():
        return path
    if resumed:
        raise OutputError(
            "expected the data, classes and labels that runs in this folder learned, got others",
            where=path,
            fix="give the same command to go on, or choose another --out",
            code="benchmark-differs",
        )
    atomic_write_text(path, text)
    return path


def _columns(modalities: Mapping[str, str]) -> dict[str, str]:
    """Channel -> column whose name tells the modality again, and no two alike."""
    kinds = Counter(modalities.values())
    return {
        name: f"image_{name}"
        if kind in ("unknown", modality(name))
        else f"image_{kind.lower()}" + (f"_{i}" if kinds[kind] > 1 else "")
        for i, (name, kind) in enumerate(modalities.items())
    }


def _cell(source: Source | None) -> str:
    """A source as the cell of a table; the files of a stack, or several masks, side by side."""
    if source is None:
        return ""
    between = "|" if isinstance(source, Masks) else ";"
    return between.join(map(str, source)) if isinstance(source, tuple) else str(source)


def _parts(cohort: Cohort, split: str, runs: int) -> list[set[str]]:
    """Ids that are held out, run by run."""
    if split == "site":
        return [set(split_of_run["test"]) for split_of_run in splits.leave_one_site_out(cohort)]
    if split == "subject":
        return [
            set(split_of_run["validation"]) for split_of_run in splits.k_fold(cohort, runs, seed=0)
        ]
    if split in ("declared", "distinct"):
        return [set(splits.declared(cohort)["test"])] * runs
    ids = sorted(case.id for case in cohort.cases)
    order = np.random.default_rng(0).permutation(len(ids))
    return [{ids[i] for i in order[k::runs]} for k in range(runs)]


def _copied(cohort: Cohort) -> set[str]:
    """Ids of the declared test part whose picture is in another part too."""
    elsewhere = {case.meta.get("print") for case in cohort.cases if case.split != "test"} - {None}
    return {c.id for c in cohort.cases if c.split == "test" and c.meta.get("print") in elsewhere}


def _random_labels(cohort: Cohort, seed: int) -> Mapping[str, str]:
    """One class a subject, every class about as often, whatever the images show.

    Another draw for every run: with few subjects one draw can go with a site or a scanner.
    """
    classes = sorted({str(case.class_name) for case in cohort.cases})
    subjects = sorted({case.subject for case in cohort.cases})
    order = np.random.default_rng(seed).permutation(len(subjects))
    return {subjects[i]: classes[k % len(classes)] for k, i in enumerate(order)}
