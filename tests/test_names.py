"""Identifiers are the field's words: what a thing is, not that it was found, seen or told."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "delineate"
#: Names that say nothing of what they stand for.
VAGUE = {
    *("begun", "found", "given", "how", "kept", "klass", "lone", "lonely", "look", "looked"),
    *("looks", "many", "mine", "odd", "one", "ours", "people", "said", "seen", "settle", "shown"),
    *("some", "strange", "taught", "theirs", "thing", "things", "told", "wanted", "who"),
}
#: Keys of files that users read, which dataclasses write under the names of their fields.
KEYS = {("engine/allowance.py", "looks"), ("phantoms/_draw.py", "kept")}


def _bound(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every name that a file gives to something of its own, with the line."""
    for node in ast.walk(tree):
        match node:
            case (
                ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.ExceptHandler(name=name)
            ):
                yield name or "", node.lineno
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()):
                yield name, node.lineno
            case ast.Attribute(attr=name, ctx=ast.Store()):
                yield name, node.lineno


def _vague(text: str) -> list[str]:
    names = ((name.strip("_").lower(), line) for name, line in _bound(ast.parse(text)))
    return [f"{name}, line {line}" for name, line in names if name in VAGUE]


@pytest.mark.parametrize(
    "room", sorted({path.relative_to(SOURCE).parts[0] for path in SOURCE.rglob("*.py")})
)
def test_identifiers_say_what_a_thing_is(room: str) -> None:
    files = [SOURCE / room] if room.endswith(".py") else sorted((SOURCE / room).rglob("*.py"))
    vague: dict[str, list[str]] = {}
    for path in files:
        file = path.relative_to(SOURCE).as_posix()
        names = [n for n in _vague(path.read_text("utf-8")) if (file, n.split(",")[0]) not in KEYS]
        vague |= {file: names} if names else {}
    assert vague == {}


def test_vague_names_are_noticed_wherever_a_name_is_given() -> None:
    text = "def look(self, told, *, one=1):\n  self._kept = [found for found in told]\n"
    assert _vague(text) == [
        "look, line 1", "told, line 1", "one, line 1", "kept, line 2", "found, line 2",
    ]  # fmt: skip
    assert _vague("scores = [case.found for case in cases]  # found\n") == []
