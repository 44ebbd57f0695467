"""Fixtures shared by all tests."""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from delineate.core import catalog
from delineate.data import site_key
from delineate.networks import _precision

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """Folder of a real data set by name; the test is skipped where it is absent."""

    def find(name: str) -> Path:
        folder = DATA / name
        if not folder.is_dir():
            pytest.skip(f"real data set {name!r} is not beside this checkout")
        return folder

    return find


@pytest.fixture(scope="session", autouse=True)
def thirty_two_bits() -> Iterator[None]:
    """Tests compute alike on every processor; those of 16 bits ask for ``sixteen_bits``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_precision, "measured", lambda: False)
        yield


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    """Runs choose their threads for the whole process; another number adds in another order."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def sixteen_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor that is faster with them, whatever this one is."""
    monkeypatch.setattr(_precision, "measured", lambda: True)


@pytest.fixture(scope="session", autouse=True)
def signals_as_in_a_terminal() -> None:
    """A shell has what it puts into the background ignore Ctrl-C; tests must not depend on that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def own_site_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A key that tests may make where data cannot be written, and not in the home of who tests."""
    home = tmp_path_factory.mktemp("home") / "site-key"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site_key, "_home_file", lambda: home)
        yield


@pytest.fixture(autouse=True)
def no_key_of_another_test(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keys are looked for in all folders above the data, which tests share."""
    for folder in (tmp_path_factory.getbasetemp(), tmp_path_factory.getbasetemp().parent):
        (folder / site_key.NAME).unlink(missing_ok=True)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, dict[str, str], str], None]:
    """Make a folder of modules an installed package, version 1.2, that offers parts of a room."""

    def install(folder: Path, points: dict[str, str], room: str) -> None:
        (folder / "__init__.py").write_text("")
        info = folder.with_name(f"{folder.name}-1.2.dist-info")
        info.mkdir()
        name = folder.name.replace("_", "-")
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        lines = [f"[delineate.{room}]", *(f"{k} = {v}" for k, v in points.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        monkeypatch.syspath_prepend(folder.parent)
        importlib.invalidate_caches()
        for module in [name for name in sys.modules if name.split(".")[0] == folder.name]:
            del sys.modules[module]

    return install


@pytest.fixture(autouse=True)
def no_part_of_another_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that a user has named may run from then on."""
    monkeypatch.setattr(catalog, "_NAMED", {})
    monkeypatch.setattr(catalog, "_INSTEAD", {})
