"""No file outside ``targets/`` asks which target a run, a model or a prediction has.

Floors and rooms come from ``pyproject.toml``, members from the folder: nothing here lists files.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from delineate.core import catalog

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "delineate"
MEMBERS = set(catalog.members("targets"))
#: Rooms that make parts for several kinds of network, and whose business these kinds are.
PARTS = ("networks", "methods", "conformance")
KINDS = {"segmenter", "classifier"}


def _below() -> set[str]:
    """Rooms under ``targets`` that know data and no model."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    contracts = tomllib.loads(text)["tool"]["importlinter"]["contracts"]
    layers = next(one["layers"] for one in contracts if one["type"] == "layers")
    floors = [{room.strip(" ()") for room in line.split("|")} for line in layers]
    first = next(k for k, rooms in enumerate(floors) if "findings" in rooms)
    return set().union(*floors[first:])


BELOW = _below()
FILES = [
    path
    for path in sorted(SOURCE.rglob("*.py"))
    if path.relative_to(SOURCE).parts[0] not in {"targets", *BELOW}
]


def _key(node: ast.AST) -> str:
    """The last name of ``a.b``, ``a["b"]``, ``a.get("b")`` or ``b``."""
    match node:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
        case ast.Subscript(slice=ast.Constant(value=str(name))):
            return name
        case ast.Call(func=ast.Attribute(attr="get"), args=[ast.Constant(value=str(name)), *_]):
            return name
    return ""


def _owner(node: ast.AST) -> str:
    """What ``_key`` is of, as text; empty for a plain name."""
    match node:
        case ast.Attribute(value=owner) | ast.Subscript(value=owner):
            return ast.unparse(owner)
        case ast.Call(func=ast.Attribute(value=owner)):
            return ast.unparse(owner)
    return ""


def _conditions(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        match node:
            case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
                yield test
            case ast.Match(subject=subject):
                yield subject
            case ast.comprehension(ifs=tests):
                yield from tests
            case ast.BoolOp(values=values):
                yield from values
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                yield operand


def asked(room: str, text: str) -> list[str]:
    """Where a file of a room asks for the target before it."""
    tree, found = ast.parse(text), list[str]()
    of_targets = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("delineate.targets")
        for alias in node.names
    }
    for node in ast.walk(tree):
        match node:
            case ast.Compare(left=left, comparators=others):
                sides = [left, *others]
                said = {
                    one.value
                    for side in sides
                    for one in ast.walk(side)
                    if isinstance(one, ast.Constant)
                }
                of_target = any(_key(side).endswith("target") for side in sides)
                if (said & MEMBERS and of_target) or (said & KINDS and room not in PARTS):
                    found.append(ast.unparse(node))
            case ast.ImportFrom(module=str(module), names=names):
                reached = {module, *(f"{module}.{alias.name}" for alias in names)}
                members = {f"delineate.targets.{member}" for member in MEMBERS}
                found += [name for name in reached if name in members]
            case ast.Call(func=ast.Name(id="isinstance"), args=[_, kinds]):
                if of_targets & {one.id for one in ast.walk(kinds) if isinstance(one, ast.Name)}:
                    found.append(ast.unparse(node))
            case ast.Call(func=function, args=[ast.Constant(value=name), *_]):
                if name in MEMBERS and ast.unparse(function).endswith("targets.make"):
                    found.append(ast.unparse(node))
    for condition in _conditions(tree):
        for node in ast.walk(condition):
            owner = _owner(node)
            if _key(node) == "classes" and owner and not owner.endswith("schema"):
                found.append(ast.unparse(condition))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_nobody_else_asks_for_the_target(path: Path) -> None:
    room = path.relative_to(SOURCE).parts[0]
    assert asked(room, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        'if chosen.target == "outline": pass',
        'x = 1 if suite["target"] in ("class", "presence") else 2',
        'if network.KIND == "classifier": pass',
        "from delineate.targets.outline import Outlines",
        "from delineate.targets import outline",
        'targets.make("outline")',
        "from delineate.targets._classes import Classes\nx = isinstance(target, Classes)",
        "if session.classes: pass",
        'jobs = [] if document.get("classes") else [1]',
        'x = not index["classes"]',
        "x = [a for a in b if a.classes]",
    ],
)
def test_who_asks_is_found(text: str) -> None:
    assert asked("predicting", text)


@pytest.mark.parametrize(
    "text",
    [
        'if chosen.target == "auto": pass',
        "targets.make(chosen.target).usable(cohort)",
        "if schema.classes: pass",
        'index = {"classes": document.get("classes")}',
        'if column == "class": pass',
    ],
)
def test_who_hands_it_on_may(text: str) -> None:
    assert asked("training", text) == []
