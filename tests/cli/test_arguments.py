"""A signature and a docstring become arguments."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from delineate.cli import _arguments
from delineate.cli.main import verbs
from delineate.core import catalog
from delineate.core.errors import ConfigError
from delineate.core.image import Image
from delineate.core.progress import QUIET, Progress, Say, silent


def train(
    data: Path,
    network: Literal["unet", "swin"] = "unet",
    *,
    budget: str = "40m",
    seed: int = 0,
    folds: tuple[int, ...] = (),
    size: tuple[int, float] | None = None,
    flips: bool = True,
    coarse: bool = False,
    config: Path | None = None,
    image: Image | None = None,
    source: Path | Image | None = None,
    say: Say = silent,
    progress: Progress = QUIET,
) -> dict[str, Any]:
    """Train a model at 100 % of ``speed``.

    Args:
        data: Folder of the cohort.
        budget: How long training may take,
            at most 100 % of it.
        seed: Where randomness starts.
        flips: Mirror patches at random.
    """
    return {}


def parse(line: str) -> dict[str, Any]:
    return _arguments.parse(train, "delineate train", line.split())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("d", {}),
        ("d --seed 3 --budget 90s", {"seed": 3, "budget": "90s"}),
        ("--seed=-3 d", {"seed": -3}),
        ("d --folds 0 2 4", {"folds": (0, 2, 4)}),
        ("d --size 3 1.5", {"size": (3, 1.5)}),
        ("d --no-flips", {"flips": False}),
        ("d --coarse", {"coarse": True}),
        ("d --config a.yaml", {"config": Path("a.yaml")}),
        ("d --network swin", {"network": "swin"}),
        ("d --source x", {"source": Path("x")}),
    ],
)
def test_words_become_typed_values(line: str, expected: dict[str, Any]) -> None:
    assert parse(line) == {"data": Path("d"), **expected}


@pytest.mark.parametrize(
    ("line", "folds"),
    [
        ("--folds 0 d", (0,)),
        ("--folds 0 2 d", (0, 2)),
        ("--folds 0 2 --seed 1 d", (0, 2)),
        ("--seed 1 --folds 0 2 d --coarse", (0, 2)),
        ("--coarse --folds 0 d", (0,)),
        ("d --folds 0 2", (0, 2)),
        ("--size 3 1.5 --folds -1 d", (-1,)),
        ("--folds 4 -- d", (4,)),
    ],
)
def test_an_option_of_many_words_leaves_the_last_to_the_argument(
    line: str, folds: tuple[int, ...]
) -> None:
    found = parse(line)
    assert (found["data"], found["folds"]) == (Path("d"), folds)


def test_arguments_keep_their_order_around_options_of_many_words() -> None:
    def predict(model: Path, scans: Path, *, only: list[str] | None = None) -> None:
        """Predict."""

    for line in ("--only a b m s", "m --only a b s", "m s --only a b"):
        found = _arguments.parse(predict, "delineate predict", line.split())
        assert found == {"model": Path("m"), "scans": Path("s"), "only": ["a", "b"]}


def test_several_words_of_an_argument_stand_before_the_last_one() -> None:
    def predict(
        model: Path | Sequence[Path], scans: Path, *, out: str = "x", only: list[str] | None = None
    ) -> None:
        """Predict."""

    for line in ("a b s", "a --out y b s", "--out y a b s", "a b s --only c", "a --only c b s"):
        found = _arguments.parse(predict, "delineate predict", line.split())
        models = ("a", "b") if line != "a --only c b s" else ("a",)
        assert found["model"] == tuple(map(Path, models))
        assert found["scans"] == Path("s")


def test_an_option_keeps_its_word_when_the_argument_is_forgotten() -> None:
    with pytest.raises(ConfigError, match="required: data"):
        parse("--folds 1")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "the following arguments are required: data"),
        ("d --seed x", "--seed: expected a whole number, got 'x'"),
        ("d --network sw", "--network: expected unet or swin, got 'sw'"),
        ("d --folds 1 x", "--folds: expected a whole number, got 'x'"),
        ("d --size 3", "expected 2 arguments"),
        ("d --sed 3", "did you mean '--seed'?"),
        ("d --bud=3", "got '--bud=3'"),
        ("d e", "expected nothing more, got 'e'"),
        ("d --say x", "expected a known option, got '--say'"),
        ("d --image x", "expected a known option, got '--image'"),
    ],
)
def test_wrong_words_are_config_errors(line: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(line)
    assert message in str(caught.value)


def test_help_is_the_docstring(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "Train a model at 100 % of speed." in text
    assert "How long training may take, at most 100 % of it. (default: 40m)" in text
    assert "--network {unet,swin}" in text
    assert "Where randomness starts. (default: 0)" in text
    assert "Do not mirror patches at random." in text
    assert "--progress" not in text


def test_the_door_gives_only_what_a_task_takes() -> None:
    class Door:
        say = staticmethod(silent)

    def quiet(data: Path) -> None: ...

    assert set(_arguments.injected(train, Door())) == {"say", "progress"}
    assert _arguments.injected(quiet, Door()) == {}


@pytest.mark.parametrize("verb", [name.replace("-", "_") for name in verbs()])
def test_every_task_can_be_called_from_the_command_line(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    function = getattr(catalog.load("tasks", verb), verb)
    with pytest.raises(SystemExit):
        _arguments.parse(function, f"delineate {verb}", ["--help"])
    shown = capsys.readouterr().out
    for argument in _arguments._arguments(function):
        assert argument.help, f"{verb}: {argument.name} has no help in the docstring"
        assert argument.required or argument.spelling[2:] in shown
    documented = inspect.getdoc(function) or ""
    assert documented.split("\n")[0].endswith(".")
