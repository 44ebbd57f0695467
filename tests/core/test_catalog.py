"""Rooms list themselves."""

from __future__ import annotations

import pytest

from delineate.core import catalog
from delineate.core.errors import ConfigError


def test_a_member_is_a_file_and_private_files_are_none() -> None:
    assert "doctor" in catalog.members("tasks")
    assert not [name for name in catalog.members("networks") if name.startswith("_")]


def test_a_member_is_loaded_by_its_name() -> None:
    assert catalog.load("tasks", "doctor").__name__ == "delineate.tasks.doctor"


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match="got 'docter'") as caught:
        catalog.load("tasks", "docter")
    assert caught.value.fix == "did you mean 'doctor'?"


@pytest.mark.parametrize("name", ["_pairs", "../core/errors", "doctor.doctor", ""])
def test_a_name_reaches_nothing_but_members(name: str) -> None:
    with pytest.raises(ConfigError):
        catalog.load("tasks", name)
