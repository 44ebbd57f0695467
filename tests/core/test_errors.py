"""What an error says, and the code a process ends with."""

from __future__ import annotations

from pathlib import Path

import pytest

from delineate.core import errors


def test_an_error_says_code_place_problem_and_next_move() -> None:
    error = errors.ReadError(
        "expected 10 bytes, got 7", where=Path("a.nii"), fix="copy it again", code="nifti-truncated"
    )
    assert str(error) == "[nifti-truncated] a.nii: expected 10 bytes, got 7\n  -> copy it again"


def test_without_place_and_move_it_is_one_line() -> None:
    assert str(errors.ConfigError("expected a verb")) == "[config] expected a verb"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("ConfigError", 1),
        ("ReadError", 1),
        ("AuditError", 2),
        ("PartialError", 3),
        ("LockedError", 4),
    ],
)
def test_exit_codes_are_a_promise(name: str, code: int) -> None:
    assert getattr(errors, name)("x").exit_code == code


def test_every_error_stands_in_the_tree_at_the_top_of_its_file() -> None:
    classes = [c for c in vars(errors).values() if isinstance(c, type)]
    assert all(issubclass(c, errors.DelineateError) for c in classes)
    missing = [c.__name__ for c in classes if c.__name__ not in (errors.__doc__ or "")]
    assert missing == []
