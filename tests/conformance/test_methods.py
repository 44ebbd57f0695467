"""What every method owes the house, over all of ``methods/``; see ``delineate.conformance``."""

from __future__ import annotations

import pytest

from delineate.conformance import methods
from delineate.conformance._rules import Check, Subject
from delineate.core import catalog

NAMES = catalog.members("methods")
SUBJECTS = [
    pytest.param(subject, id=f"{name}-{subject.form}")
    for name in NAMES
    for subject in methods.subjects(catalog.load("methods", name), name)
]


def _id(check: Check) -> str:
    return check.__name__


@pytest.mark.parametrize("check", methods.FILE_CHECKS, ids=_id)
@pytest.mark.parametrize("name", NAMES)
def test_its_file(name: str, check: Check) -> None:
    check(Subject(catalog.load("methods", name), name, ""))


@pytest.mark.parametrize("check", methods.CHECKS, ids=_id)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_it(subject: Subject, check: Check) -> None:
    check(subject)
