"""Whether a slice shows any structure, learnt from label maps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from delineate.core.case import Case
from delineate.core.progress import Progress
from delineate.core.schema import Schema
from delineate.data import readers
from delineate.data.cache import PreparedCase
from delineate.data.cohort import Cohort
from delineate.data.labels import PRESENCE, presence, read_indices
from delineate.inference.classes import any_slice
from delineate.preprocess import views
from delineate.scoring.classes import Row
from delineate.targets import NoSettings, Target
from delineate.targets._classes import Classes, Question
from delineate.targets._labelled import labelled, spread

Config = NoSettings


def build(config: NoSettings) -> Target:
    """A target without settings of its own."""
    return Classes(
        Question(
            name="presence",
            classes=_classes,
            usable=labelled,
            sample=spread,
            contents=_contents,
            pictures=_pictures,
            pool=any_slice,
            rows=_rows,
            named=_named,
            of_slices=True,
        )
    )


def _classes(schema: Schema) -> Sequence[str]:
    return PRESENCE


def _contents(cohort: Cohort, folder: Path, progress: Progress) -> dict[str, frozenset[str]]:
    return {}


def _pictures(
    case: PreparedCase, axis: int | None, classes: Sequence[str]
) -> list[tuple[int | None, int]]:
    """See ``_class_feed.Pictures``."""
    if case.label is None:
        return []
    moved = np.asarray(case.label)
    moved = moved[None] if axis is None else np.moveaxis(moved, axis, 0)
    presence_of_place = [
        (place, presence(moved[place or 0])) for place in views.places(case.image, axis)
    ]
    return [
        (place, class_index) for place, class_index in presence_of_place if class_index is not None
    ]


def _rows(
    case: Case, record: Mapping[str, Any], classes: Sequence[str], schema: Schema
) -> list[Row]:
    """See ``scoring.classes.RowsOfCase``."""
    if case.label is None:
        return []
    slices = record["facts"].get("slices", [])
    grid = readers.probe(next(iter(case.images.values())), case.reading)[0]
    mask = read_indices(case, schema, grid).array[0]
    if slices and slices[0]["slice"] is None:
        truths = [presence(mask)]
    else:
        moved = np.moveaxis(mask, record["facts"]["slice_axis"], 0)
        truths = [presence(moved[slice_["slice"]]) for slice_ in slices]
    return [
        {"case": case.id, "subject": case.subject, **slice_, "truth": classes[truth]}
        for slice_, truth in zip(slices, truths, strict=True)
        if truth is not None
    ]


def _named(cohort: Cohort) -> tuple[list[Case], list[str]]:
    """See ``ClassComparison``."""
    cases = cohort.labelled().cases
    known = [(case, presence(read_indices(case, cohort.schema).array)) for case in cases]
    named = [
        dataclasses.replace(case, class_name=PRESENCE[index])
        for case, index in known
        if index is not None
    ]
    return named, []
