"""What a room may touch outside itself, and that its members do not know each other.

Which room may import which is in ``pyproject.toml`` (import-linter); nothing here or there lists
files, so that a new one is under the rules at once.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from delineate.conformance import _house

SOURCE = Path(__file__).resolve().parents[1] / "src" / "delineate"
FILES = sorted(SOURCE.rglob("*.py"))
#: Rooms whose public files are alternatives to each other; shared bricks begin with ``_``.
ALTERNATIVES = ("data/layouts", "data/readers", "networks", "losses", "methods", "targets")
#: The rooms (or files) that may reach for a thing outside the program.
MAY = {
    "the environment": ("cli", "server"),
    "the network": ("clinic", "server"),
    "other processes": ("core/processes.py",),
}
#: A machine's own name, to tell whose lock or half-written file it is, is not the network.
HOST_NAME = "socket.gethostname"
NAME_OF_THE_MACHINE = ("core/lock.py", "core/atomic.py")
#: Rooms that compute and touch nothing: no files, no clock, no global random state.
PURE = ("augment", "losses", "methods", "metrics", "networks", "preprocess")


def trespasses(file: str, text: str) -> list[str]:
    """What a file, named from the package's folder, reaches for though its room may not."""
    found = [] if file.split("/")[0] not in PURE else _house.reaches(text)
    names = {name for name, _ in _house.reached(ast.parse(text))}
    for what, things in _house.OUTSIDE.items():
        rooms = MAY[what]
        if any(_house.is_of(file.replace("/", "."), room.replace("/", ".")) for room in rooms):
            continue
        taken = {name for name in names for thing in things if _house.is_of(name, thing)}
        if file in NAME_OF_THE_MACHINE:
            taken = {name for name in taken if name != "socket" and not name.startswith(HOST_NAME)}
        found += [f"{what}: {name}" for name in sorted(taken)]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_room_touches_only_what_it_may(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert trespasses(path.relative_to(SOURCE).as_posix(), text) == []


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("networks/unet.py", "import os\nos.environ['A'] = '1'"),
        ("networks/unet.py", "from os import environ"),
        ("losses/dice.py", "with open('a') as file: pass"),
        ("core/run.py", "import urllib.request"),
        ("core/run.py", "from socket import create_connection"),
        ("core/lock.py", "import socket\nsocket.create_connection(('a', 1))"),
        ("tasks/train.py", "import subprocess"),
        ("training/job.py", "from multiprocessing import Pool"),
    ],
)
def test_who_reaches_outside_is_found(file: str, text: str) -> None:
    assert trespasses(file, text)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("cli/main.py", "import os\nos.environ.get('TERM')"),
        ("clinic/dicomweb.py", "import httpx"),
        ("core/processes.py", "import subprocess"),
        ("core/lock.py", "import socket\nsocket.gethostname()"),
        ("training/job.py", "environment = {}\nenvironment.get('a')"),
    ],
)
def test_who_may_reach_outside_may(file: str, text: str) -> None:
    assert trespasses(file, text) == []


@pytest.mark.parametrize("room", ALTERNATIVES)
def test_alternatives_do_not_know_each_other(room: str) -> None:
    package = f"delineate.{room.replace('/', '.')}"
    members = {path.stem for path in (SOURCE / room).glob("[!_]*.py")}
    assert len(members) > 2
    known = [
        f"{path.name}: {name}"
        for path in sorted((SOURCE / room).glob("[!_]*.py"))
        for name, _ in _house.reached(ast.parse(path.read_text(encoding="utf-8")))
        if any(_house.is_of(name, f"{package}.{member}") for member in members)
    ]
    assert known == []


def _contract(room: str) -> set[str]:
    """Names that a room's ``__init__`` says its members may have."""
    tree = ast.parse((SOURCE / room / "__init__.py").read_text(encoding="utf-8"))
    inside = [node for one in tree.body if isinstance(one, ast.ClassDef) for node in one.body]
    names = {node.name for node in inside if isinstance(node, ast.FunctionDef)}
    names |= {ast.unparse(node.target) for node in inside if isinstance(node, ast.AnnAssign)}
    return names | set(re.findall(r"``(\w+)``", ast.get_docstring(tree) or ""))


@pytest.mark.parametrize(
    "room", ["conformance", "engine", "inference", "methods", "targets", "training"]
)
def test_nothing_is_looked_for_that_no_contract_names(room: str) -> None:
    """A hook that is not written down is one that nobody can write, or that nobody dares remove."""
    contracts = ("conformance", "networks", "methods", "losses", "targets")
    named = set().union(*map(_contract, contracts))
    looked_for = {
        (path.name, node.args[1].value)
        for path in sorted((SOURCE / room).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr")
        if isinstance(node.args[1], ast.Constant)
    }
    assert {(file, name) for file, name in looked_for if name not in named} == set()
