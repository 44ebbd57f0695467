"""The public names: all of them are there, and none costs anything before it is used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import delineate
from delineate.core import catalog


@pytest.mark.parametrize("name", delineate.__all__)
def test_every_public_name_resolves(name: str) -> None:
    value = getattr(delineate, name)
    assert name == "__version__" or callable(value)
    assert getattr(delineate, name) is value


def test_the_list_is_all_there_is() -> None:
    assert dir(delineate) == sorted(delineate.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = delineate.trian
    functions = set(delineate.__all__) & set(catalog.members("tasks"))
    assert functions >= {"audit", "train", "predict", "evaluate", "report", "demo", "phantom"}


def test_import_is_quick_and_without_torch() -> None:
    code = (
        "import time; t = time.perf_counter(); import delineate; s = time.perf_counter() - t;"
        "import sys; print(s, 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    seconds, torch, numpy = _python(code).split()
    assert (torch, numpy) == ("False", "False")
    assert float(seconds) < 0.3


@pytest.mark.parametrize("room", ["core", "data", "findings", "phantoms", "tasks", "cli"])
def test_no_room_but_those_that_compute_imports_torch(room: str) -> None:
    members = "\n".join(f"import delineate.{room}.{name}" for name in catalog.members(room))
    heavy = "('torch', 'monai', 'sklearn', 'matplotlib')"
    left = _python(f"{members}\nimport sys; print([m for m in {heavy} if m in sys.modules])")
    assert left.strip() == "[]"


def _python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(delineate.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
