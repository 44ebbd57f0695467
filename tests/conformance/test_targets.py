"""What every target owes the house, over all of ``targets/``; see ``delineate.conformance``."""

from __future__ import annotations

import pytest

from delineate.conformance import targets
from delineate.conformance._rules import Check, Subject
from delineate.core import catalog

NAMES = catalog.members("targets")
SUBJECTS = [
    pytest.param(subject, id=f"{name}-{subject.form}")
    for name in NAMES
    for subject in targets.subjects(catalog.load("targets", name), name)
]


def _id(check: Check) -> str:
    return check.__name__


@pytest.mark.parametrize("check", targets.FILE_CHECKS, ids=_id)
@pytest.mark.parametrize("name", NAMES)
def test_its_file(name: str, check: Check) -> None:
    check(Subject(catalog.load("targets", name), name, ""))


@pytest.mark.parametrize("check", targets.CHECKS, ids=_id)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_it(subject: Subject, check: Check) -> None:
    check(subject)


@pytest.mark.slow
@pytest.mark.parametrize("check", targets.SLOW_CHECKS, ids=_id)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_it_slowly(subject: Subject, check: Check) -> None:
    check(subject)
