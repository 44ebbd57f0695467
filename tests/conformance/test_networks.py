"""What every network owes the house, over all of ``networks/``; see ``delineate.conformance``."""

from __future__ import annotations

import pytest

from delineate.conformance import _rules, networks
from delineate.conformance._rules import Check, Subject
from delineate.core import catalog

NAMES = catalog.members("networks")
SUBJECTS = [
    pytest.param(subject, id=f"{name}-{subject.form}")
    for name in NAMES
    for subject in networks.subjects(catalog.load("networks", name), name)
]


def _id(check: Check) -> str:
    return check.__name__


@pytest.mark.parametrize("check", networks.FILE_CHECKS, ids=_id)
@pytest.mark.parametrize("name", NAMES)
def test_its_file(name: str, check: Check) -> None:
    check(Subject(catalog.load("networks", name), name, ""))


@pytest.mark.parametrize("check", networks.CHECKS, ids=_id)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_it(subject: Subject, check: Check) -> None:
    check(subject)


@pytest.mark.slow
@pytest.mark.parametrize("check", networks.SLOW_CHECKS, ids=_id)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_it_slowly(subject: Subject, check: Check) -> None:
    check(subject)


@pytest.mark.parametrize("check", networks.CHECKS, ids=_id)
def test_one_that_halves_axes_unlike(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    module = catalog.load("networks", "unet")
    small = {
        "levels": 3,
        "strides": ((1, 2, 2), (2, 2, 2)),
        "kernels": ((1, 3, 3),) + ((3,) * 3,) * 2,
    }
    monkeypatch.setattr(module, "SMALL", small, raising=False)
    check(Subject(module, "unet", "3D", 3))


def test_every_rule_is_a_sentence_of_its_own() -> None:
    rules = [_rules.rule(check) for check in (*networks.FILE_CHECKS, *networks.CHECKS)]
    assert len(set(rules)) == len(rules)
    assert all(rule.endswith(".") for rule in rules)
