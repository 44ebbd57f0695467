"""Which file or entry bears the name of which case."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from delineate.core.case import Case
from delineate.data.layouts._listing import stem

T = TypeVar("T")
_ENDING = re.compile(r"[_\-. ](?:mask|seg|segmentation|labels?|pred|prediction)$", re.I)


def bare(name: str) -> str:
    """A name without what tools append to the names of label files."""
    return _ENDING.sub("", name) or name


def match(cases: list[Case], named: Iterable[tuple[str, T]]) -> dict[str, list[T]]:
    """Case id -> what bears its name: the id itself or, if unique, the name of one of its files."""
    exact: dict[str, list[T]] = {}
    loose: dict[str, list[T]] = {}
    for name, item in named:
        exact.setdefault(name, []).append(item)
        loose.setdefault(bare(name), []).append(item)
    names = {
        case.id: dict.fromkeys(
            [bare(case.id)]
            + [bare(stem(s)) for s in (case.label, *case.images.values()) if isinstance(s, Path)]
        )
        for case in cases
    }
    count = Counter(name for names_of_case in names.values() for name in names_of_case)
    matched = {}
    for case in cases:
        unique_matches = [loose[n] for n in names[case.id] if n in loose and count[n] == 1]
        if case.id in exact or unique_matches:
            matched[case.id] = exact.get(case.id) or unique_matches[0]
    return matched
