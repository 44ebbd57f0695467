"""The repository keeps its own promises: documents name what exists, and the house rules hold."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import itertools
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import delineate
from delineate.cli import _arguments, _completion
from delineate.cli.main import verbs
from delineate.core import catalog

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "src" / "delineate").rglob("*.py"))
TASKS = sorted((ROOT / "src" / "delineate" / "tasks").glob("*.py"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _commands() -> list[str]:
    """Every ``delineate …`` line of the README's code, inline code included."""
    found = re.findall(r"(?:^\$ |`)(delineate [a-z][^`\n#]*)", README, flags=re.MULTILINE)
    return sorted({command.strip() for command in found})


@pytest.mark.parametrize("command", _commands())
def test_every_command_in_the_readme_can_be_given(command: str) -> None:
    _, verb, *words = shlex.split(command)
    if verb == "completion":
        assert set(words) <= _completion.SHELLS.keys()
        return
    assert verb in verbs()
    function = getattr(catalog.load("tasks", verb), verb)
    _arguments.parse(function, f"delineate {verb}", words)


def test_the_readme_has_a_line_for_every_verb() -> None:
    table = re.findall(r"^\| `([a-z-]+)` \|", README, flags=re.MULTILINE)
    assert sorted(table) == sorted(verbs())


def test_the_readmes_python_calls_functions_as_they_are() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    calls = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call)]
    assert calls
    for call in calls:
        assert isinstance(call.func, ast.Attribute)
        names = {keyword.arg or "": None for keyword in call.keywords}
        function = getattr(delineate, call.func.attr)
        inspect.signature(function).bind(*([None] * len(call.args)), **names)


def test_every_verb_says_in_one_line_what_it_does() -> None:
    lines = verbs()
    assert {"doctor", "model"} <= set(lines)
    assert all(lines.values())
    long = {verb: line for verb, line in lines.items() if len(line) > 90}
    assert long == {}


def test_every_public_task_file_is_a_verb() -> None:
    assert sorted(verbs()) == sorted(name.replace("_", "-") for name in catalog.members("tasks"))


def test_a_verb_is_a_signature_and_a_call() -> None:
    lengths = {path.name: len(path.read_text("utf-8").splitlines()) for path in TASKS}
    assert {name: length for name, length in lengths.items() if length >= 120} == {}


@pytest.mark.parametrize("document", ["README.md", "DESIGN.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)", text):
        if not target.startswith("https://") and not target.startswith("docs/images/"):
            assert (ROOT / target).exists(), f"{document}: {target}"


def _names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """What a file does that the house rules speak of, with the line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            yield "assert", node.lineno
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield f"{node.func.id}()", node.lineno
        elif isinstance(node, ast.Attribute):
            yield node.attr, node.lineno
        elif isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0], node.lineno


@pytest.mark.parametrize("file", SOURCES, ids=lambda p: str(p.relative_to(ROOT / "src")))
def test_house_rules(file: Path) -> None:
    forbidden = {"assert", "pickle", "dill", "joblib", "eval()", "exec()", "environ", "getenv"}
    forbidden |= {"urllib", "requests", "http", "ftplib"}
    if "cli" not in file.parts:
        forbidden |= {"print()", "breakpoint()", "input()"}
    text = file.read_text(encoding="utf-8")
    tree = ast.parse(text)
    broken = [f"{name}, line {line}" for name, line in _names(tree) if name in forbidden]
    assert broken == []
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
    loads = [n for n in calls if ast.unparse(n.func) == "torch.load"]
    assert not loads or file.name == "initial_weights.py", "files of others are read in one place"
    assert all(ast.unparse(n).endswith("weights_only=True)") for n in loads), "and run no code"
    assert text.count("torch.load") == len(loads)
    assert not re.search(r"\bTODO\b|\bFIXME\b|raise NotImplementedError", text)
    if text.strip():
        assert ast.get_docstring(tree), "a file says what it is"


def test_constraints_pin_every_requirement_and_name_no_host() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    pinned = {_normal(pin.split("==")[0]) for pin in pins}
    extras = {k: v for k, v in project["optional-dependencies"].items() if k != "gpl"}
    wanted = [*project["dependencies"], *itertools.chain(*extras.values())]
    names = {_normal(re.split(r"[^\w.-]", line)[0]) for line in wanted}
    assert names - pinned == {"delineate"}  # the development extra names the others


def test_a_plain_installation_brings_no_server_and_no_pandas() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known, todo = set(), [Requirement(line) for line in project["dependencies"]]
    while todo:
        wanted = todo.pop()
        if wanted.name in known:
            continue
        known.add(wanted.name)
        for line in importlib.metadata.requires(wanted.name) or []:
            further = Requirement(line)
            if further.marker is None or any(
                further.marker.evaluate({"extra": extra}) for extra in {"", *wanted.extras}
            ):
                todo.append(further)
    unwanted = {"pandas", "monai", "nilearn", "tensorboard", "Werkzeug", "werkzeug", "Flask"}
    assert known & unwanted == set()
    assert {"torch", "lightning-utilities"} <= known  # it did look


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_changelog_knows_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{delineate.__version__}]" in text


def test_the_readmes_python_scores_scans_that_had_no_part_in_training() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    calls = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call)]
    given = {
        call.func.attr: [ast.literal_eval(one) for one in call.args]
        for call in calls
        if isinstance(call.func, ast.Attribute)
    }
    assert given["predict"][1] == given["evaluate"][1] != given["train"][0]


@pytest.mark.parametrize("name", ["README.md", "DESIGN.md", "CONTRIBUTING.md", *(
    f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))])  # fmt: skip
def test_documents_point_at_files_that_are_there(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    here = [link for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in here if not ((ROOT / name).parent / link).exists()] == []
