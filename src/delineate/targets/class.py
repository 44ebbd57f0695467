"""The class of a case; its slices, where it has any, are of that class too."""
# ruff: noqa: N999 - the name of the target, which no import statement needs

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from delineate.core.case import Case
from delineate.core.errors import InputError
from delineate.core.progress import Progress
from delineate.core.schema import Schema
from delineate.data.cache import PreparedCase
from delineate.data.cohort import Cohort
from delineate.data.opening import Opening
from delineate.inference.classes import mean_of_slices
from delineate.preprocess import views
from delineate.scoring.classes import Row
from delineate.targets import NoSettings, Target, Usable
from delineate.targets._classes import Classes, Question

Config = NoSettings


def build(config: NoSettings) -> Target:
    """A target without settings of its own."""
    return Classes(
        Question(
            name="class",
            classes=_classes,
            usable=_usable,
            sample=_one_of_each,
            contents=_contents,
            pictures=_pictures,
            pool=mean_of_slices,
            rows=_rows,
            named=_named,
            each="class",
            automatic=1,
            asked_by=_asked_by,
        )
    )


def _classes(schema: Schema) -> Sequence[str]:
    return schema.classes


def _asked_by(opening: Opening) -> str:
    return "" if opening.class_column is None else "class column"


def _usable(cohort: Cohort) -> Usable:
    """Cases with a class.

    Raises:
        InputError: No case has a class, or all have the same one, or one has a single subject.
    """
    subjects: dict[str, set[str]] = {}
    for case in cohort.cases:
        if case.class_name is not None:
            subjects.setdefault(case.class_name, set()).add(case.subject)
    counts = ", ".join(f"{name} ({len(members)})" for name, members in sorted(subjects.items()))
    if len(subjects) < 2:
        raise InputError(
            f"expected at least two classes, got {counts or 'none'}",
            where=cohort.root,
            fix="put images of each class into a folder of its own, "
            "or name classes in a table with the columns image and class",
            code="classes-too-few",
        )
    single = [name for name, members in sorted(subjects.items()) if len(members) < 2]
    if single:
        raise InputError(
            f"expected at least two subjects of every class, one to learn from and one to "
            f"judge, got {counts}",
            where=cohort.root,
            fix=f"add subjects, or leave the cases of {', '.join(single)} out: --exclude FILE, "
            "one id a line",
            code="class-lonely",
        )
    known = [case.id for case in cohort.cases if case.class_name is not None]
    others = {case.id: "class" for case in cohort.cases if case.class_name is None}
    return Usable(cohort.subset(known), others)


def _one_of_each(cohort: Cohort, count: int) -> list[Case]:
    """A case of every class, however few are wanted: without one, nothing can be fed."""
    return list({case.class_name: case for case in reversed(cohort.cases)}.values())


def _contents(cohort: Cohort, folder: Path, progress: Progress) -> dict[str, frozenset[str]]:
    return {case.id: frozenset({case.class_name}) for case in cohort.cases if case.class_name}


def _pictures(
    case: PreparedCase, axis: int | None, classes: Sequence[str]
) -> list[tuple[int | None, int]]:
    """See ``_class_feed.Pictures``."""
    if case.class_name is None or case.class_name not in classes:
        return []
    class_index = list(classes).index(case.class_name)
    return [(place, class_index) for place in views.places(case.image, axis)]


def _rows(
    case: Case, record: Mapping[str, Any], classes: Sequence[str], schema: Schema
) -> list[Row]:
    """See ``scoring.classes.RowsOfCase``."""
    if case.class_name not in classes:
        return []
    head = {"case": case.id, "subject": case.subject}
    slices = record["facts"].get("slices", [])
    if not slices or slices[0]["slice"] is None:
        return [
            {**head, "slice": None, "truth": case.class_name, "probabilities": record["classes"]}
        ]
    return [{**head, **slice_, "truth": case.class_name} for slice_ in slices]


def _named(cohort: Cohort) -> tuple[list[Case], list[str]]:
    """See ``ClassComparison``."""
    named = [case for case in cohort.cases if case.class_name is not None]
    lost = len(cohort) - len(named)
    return named, [f"{lost} cases without a class are left out"] * bool(lost)
