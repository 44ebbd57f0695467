"""Cases with label maps, for the targets that learn from them."""

from __future__ import annotations

from delineate.core.case import Case
from delineate.core.errors import InputError
from delineate.data.cohort import Cohort
from delineate.targets import Usable


def labelled(cohort: Cohort) -> Usable:
    """Cases with label maps are labelled, others are not.

    Raises:
        InputError: There is none with a label map.
    """
    with_labels = cohort.labelled()
    if not with_labels.cases:
        raise InputError(
            "expected label maps beside the scans, got none",
            where=cohort.root,
            fix="add label maps, or name them in a table with the columns image and label",
            code="no-labels",
        )
    known = {case.id for case in with_labels.cases}
    others = {case.id: "label map" for case in cohort.cases if case.id not in known}
    return Usable(with_labels, others)


def spread(cohort: Cohort, count: int) -> list[Case]:
    """Some cases, spread over the cohort."""
    count = min(count, len(cohort))
    return [cohort.cases[i * len(cohort) // count] for i in range(count)]
