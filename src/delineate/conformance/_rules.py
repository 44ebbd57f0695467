"""Running checks, and what a broken rule is."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from types import ModuleType
from typing import Any

import numpy as np
import torch

from delineate.conformance import _house
from delineate.core import catalog, config
from delineate.core.errors import DelineateError


class BrokenRuleError(Exception):
    """A member does not do what its room asks for; the message says what it does instead."""


def expect(holds: object, got: str) -> None:
    """Go on where a rule is kept.

    Args:
        holds: Whether it is.
        got: What came instead, for the message.

    Raises:
        BrokenRuleError: It is not.
    """
    if not holds:
        raise BrokenRuleError(got)


@dataclass(frozen=True)
class Subject:
    """A member of a room in one of the forms in which it is tried.

    Args:
        module: The member.
        name: By which the catalog finds it.
        form: Shown beside the rule, such as ``2D``.
        ndim: Spatial dimensions.
        kind: Of the network, where a method trains several.
        settings: Given to it.
    """

    module: ModuleType
    name: str
    form: str
    ndim: int = 2
    kind: str = ""
    settings: tuple[tuple[str, Any], ...] = ()


Check = Callable[[Subject], None]


@dataclass(frozen=True)
class Verdict:
    """How one check of one subject came out.

    Args:
        rule: In a sentence.
        form: Of the subject.
        fault: What came instead; None where the rule is kept.
    """

    rule: str
    form: str
    fault: str | None


def rule(check: Check) -> str:
    """The sentence that a check stands for."""
    return (check.__doc__ or check.__name__).strip().split("\n")[0]


def run(checks: Sequence[Check], subjects: Sequence[Subject]) -> Iterator[Verdict]:
    """Try every subject by every check; what a member raises is a fault, with its line."""
    for check in checks:
        for subject in subjects:
            with _random_state_kept(), torch.random.fork_rng(devices=[]):
                yield Verdict(rule(check), subject.form, _fault(check, subject))


def _fault(check: Check, subject: Subject) -> str | None:
    try:
        check(subject)
    except BrokenRuleError as error:
        return str(error)
    except DelineateError as error:
        return " ".join(filter(None, (error.where and f"{error.where}:", error.message)))
    except Exception as error:
        known = catalog.fault(error)
        where = f", line {str(known.where).rpartition(':')[2]}" if known else ""
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}{where}"
    return None


# --- rules of all rooms ---------------------------------------------------------------------------


def touches_nothing(subject: Subject) -> None:
    """It touches no file, clock, environment, process, network, screen or global random state."""
    reached_for = _house.reaches(_house.text(str(subject.module.__file__)))
    expect(not reached_for, "; ".join(reached_for))


def has_settings(subject: Subject) -> None:
    """Its settings are a frozen dataclass with defaults, a help text each, that YAML can hold."""
    cls = subject.module.Config
    expect(cls.__dataclass_params__.frozen, "Config can be changed: write frozen=True")
    for setting in fields(cls):
        expect(setting.metadata.get("help"), f"{setting.name} has no help")
    written = config.to_dict(cls())
    again = config.from_dict(written, cls)
    expect(again == cls(), f"settings that are read back differ: {again}")


def settings_of(cls: Any) -> set[str]:
    """Names of the fields of a settings class."""
    return {field.name for field in fields(cls)}


@contextmanager
def _random_state_kept() -> Iterator[None]:
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def draws(work: Callable[[], object], torch_too: bool) -> list[str]:
    """Whose global random state some work draws from: ``random``, ``numpy`` or ``torch``."""

    def states() -> dict[str, str]:
        return {
            "random": repr(random.getstate()),
            "numpy.random": repr(np.random.get_state(legacy=False)),
            **({"torch": repr(torch.get_rng_state().tolist())} if torch_too else {}),
        }

    before = states()
    work()
    after = states()
    return [name for name, state in before.items() if state != after[name]]


def close(a: float, b: float, relative: float) -> bool:
    """Whether two numbers agree."""
    return math.isclose(a, b, rel_tol=relative, abs_tol=1e-12)
