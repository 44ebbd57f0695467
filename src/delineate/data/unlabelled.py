"""Cases without labels that a method may learn from: those of nobody who is held out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from delineate.data.cohort import Cohort
from delineate.data.splits import HELD_OUT, UNLABELLED, Split


def join(split: Split, cohort: Cohort, unlabelled: Iterable[str]) -> tuple[Split, tuple[str, ...]]:
    """The split with a part ``unlabelled``, if there is anybody for it.

    A scan whose subject validates or tests the model must not teach it, labelled or not; nor one
    that the data declare for such a part, for whoever declared it will judge by it.

    Args:
        split: Of the labelled cases.
        cohort: All cases.
        unlabelled: Ids of those of which it is not known what the model is to say.

    Returns:
        The split, and the ids of unlabelled cases that must not be used.
    """
    judged = {name for part in HELD_OUT for name in split.parts.get(part, ())}
    kept_back = {
        case.subject for case in cohort.cases if case.id in judged or case.split in HELD_OUT
    }
    others = cohort.subset(sorted(unlabelled)).cases
    taken = tuple(case.id for case in others if case.subject not in kept_back)
    refused = tuple(case.id for case in others if case.subject in kept_back)
    if taken:
        split = dataclasses.replace(split, parts={**split.parts, UNLABELLED: taken})
    return split, refused
