"""Cases with another subject or class than their layout gives, because the user knows better."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

from delineate.core.case import Case
from delineate.core.errors import ConfigError
from delineate.core.schema import Schema
from delineate.data.layouts._listing import NOTHING
from delineate.data.site_key import SiteKey


def patients(cases: tuple[Case, ...], named: Mapping[str, str], key: SiteKey) -> tuple[Case, ...]:
    """Cases whose subject is a mark of the patient, where one is named (case id -> patient)."""
    return tuple(
        dataclasses.replace(case, subject=f"patient-{key.mark(named[case.id])}")
        if case.id in named
        else case
        for case in cases
    )


def subjects(cases: tuple[Case, ...], pattern: str) -> tuple[Case, ...]:
    """Cases whose subject is group 1 of a pattern, found in their ids.

    Raises:
        ConfigError: Not a pattern, one without a group, or one that some id does not hold.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"expected a regular expression, got {pattern!r}: {error}", code="subject-pattern"
        ) from None
    if expression.groups < 1:
        raise ConfigError(
            f"expected a pattern with a group, got {pattern!r}",
            fix=r"put the subject in brackets, as in 'Image_(\d+)[LR]'",
            code="subject-pattern",
        )
    matches = {case.id: expression.search(case.id) for case in cases}
    missing = [name for name, match in matches.items() if match is None or not match[1]]
    if missing:
        raise ConfigError(
            f"the subject pattern {pattern!r} is not found in {len(missing)} case ids: "
            + ", ".join(missing[:5]),
            code="subject-pattern",
        )
    return tuple(
        dataclasses.replace(case, subject=match[1])
        for case in cases
        if (match := matches[case.id]) is not None
    )


def classes(
    cases: tuple[Case, ...], schema: Schema, column: str, root: Path
) -> tuple[tuple[Case, ...], Schema]:
    """Cases with the class that a column of the data's own table gives them.

    Raises:
        ConfigError: No case has anything in that column; names those there are.
    """
    standard_columns = ("class", "site", "sex")
    class_names = []
    for case in cases:
        known = {**case.meta, "class": case.class_name, "site": case.site, "sex": case.sex}
        value = known.get(column)
        class_names.append(None if value is None or str(value).lower() in NOTHING else str(value))
    if not any(class_names):
        columns = {k for case in cases for k, v in case.meta.items() if isinstance(v, str)}
        raise ConfigError(
            f"expected a column of the data's table, got {column!r}",
            where=root,
            fix=f"columns here: {', '.join([*sorted(columns), *standard_columns])}",
            code="class-column",
        )
    renamed = tuple(
        dataclasses.replace(case, class_name=value)
        for case, value in zip(cases, class_names, strict=True)
    )
    names = tuple(sorted({case.class_name for case in renamed if case.class_name}))
    return renamed, dataclasses.replace(schema, classes=names)
