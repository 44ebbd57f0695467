"""Whether a scan shows any structure at all, learnt from its label map.

A target of your own in one file: a classifier that sorts out scans without a finding. Copy it,
change it, try it out with ``delineate check mytarget.py``, and use it:

    delineate train DATA --target mytarget.py
    delineate predict run/model.safetensors SCANS --part mytarget.py
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from delineate.core.case import Case
from delineate.core.progress import Progress
from delineate.core.schema import Schema
from delineate.data import structures
from delineate.data.cache import PreparedCase
from delineate.data.cohort import Cohort
from delineate.data.labels import presence, read_indices
from delineate.inference.classes import mean_of_slices
from delineate.preprocess import views
from delineate.targets import NoSettings, Target
from delineate.targets._classes import Classes, Question
from delineate.targets._labelled import labelled, spread

CLASSES = ("without", "with")
Config = NoSettings


def build(config: NoSettings) -> Target:
    """A target without settings of its own, which shares all but these functions with others."""
    return Classes(
        Question(
            name="any_structure",
            classes=_classes,
            usable=labelled,
            sample=spread,
            contents=_shown,
            pictures=_pictures,
            pool=mean_of_slices,
            rows=_rows,
            named=_named,
            each="class",
        )
    )


def _classes(schema: Schema) -> Sequence[str]:
    return CLASSES


def _shown(cohort: Cohort, folder: Path, progress: Progress) -> dict[str, frozenset[str]]:
    """The class of every case, so that each part of a split gets some of both."""
    found = structures.by_case(cohort, folder, progress)
    return {name: frozenset({CLASSES[bool(shown)]}) for name, shown in found.items()}


def _pictures(
    case: PreparedCase, axis: int | None, classes: Sequence[str]
) -> list[tuple[int | None, int]]:
    """Every slice is of the class of its case; a case of which nobody can tell gives none."""
    found = None if case.label is None else presence(np.asarray(case.label))
    if found is None:
        return []
    return [(place, found) for place in views.places(case.image, axis)]


def _rows(
    case: Case, record: Mapping[str, Any], classes: Sequence[str], schema: Schema
) -> list[dict[str, Any]]:
    """What is scored of a predicted case: its class."""
    found = None if case.label is None else presence(read_indices(case, schema).array)
    if found is None:
        return []
    head = {"case": case.id, "subject": case.subject, "slice": None}
    return [{**head, "truth": classes[found], "probabilities": record["classes"]}]


def _named(cohort: Cohort) -> tuple[list[Case], list[str]]:
    """Cases with their classes, for the tables of a benchmark."""
    cases = cohort.labelled().cases
    found = [(case, presence(read_indices(case, cohort.schema).array)) for case in cases]
    return [replace(case, class_name=CLASSES[k]) for case, k in found if k is not None], []
