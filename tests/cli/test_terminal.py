"""What is shown of results and of progress."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from delineate.cli import _terminal
from delineate.cli._terminal import Terminal


def shown(result: Any, capsys: pytest.CaptureFixture[str]) -> list[str]:
    Terminal().show(result)
    return [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip()]


def test_a_path_stays_whole(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("/" + "long/" * 60 + "report.html")
    assert shown(path, capsys) == [str(path)]
    assert shown({"report": path}, capsys) == [f"report  {path}"]


def test_nothing_is_shown_as_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(None, capsys) == []


def test_undefined_figures_are_a_dash_not_nan(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown({"dice": float("nan"), "hd95_mm": None, "voxels": 1234567.0}, capsys)
    assert [line.split()[-1] for line in lines] == ["–", "–", "1,234,567"]


def test_parts_with_the_same_keys_are_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown({"regions": {"WT": {"dice": 0.9}, "ET": {"dice": 0.75}}}, capsys)
    assert lines[0] == "regions"
    assert lines[-2].split() == ["WT", "0.9"]
    assert lines[-1].split() == ["ET", "0.75"]


def test_nested_settings_are_dotted(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown({"network": {"name": "unet", "config": {"width": [16, 32]}}}, capsys)
    assert lines == ["network", "name          unet", "config.width  16, 32"]


def test_a_large_part_is_shown_in_brief(capsys: pytest.CaptureFixture[str]) -> None:
    dice = {"mean": 0.9, "ci_low": 0.85, "ci_high": None, "sd": 0.1}
    deep = {f"metric {i}": {f"figure {j}": i * j for j in range(10)} for i in range(10)}
    lines = shown({"scores": {"n": 3, "mean_dice": dice, "regions": deep}}, capsys)
    assert lines == ["scores", "n          3", "mean dice  0.9 (0.85 to –)"]


def test_a_table_that_is_wider_than_high_is_turned_over(
    capsys: pytest.CaptureFixture[str],
) -> None:
    dice = {"mean": 0.9, "ci_low": 0.8, "ci_high": 1.0}
    lines = shown({"regions": {"WT": {"dice": dice, "present": 4}}, "mean": dice}, capsys)
    assert lines[0] == "mean  0.9 (0.8 to 1)"
    assert [line.split() for line in lines[-2:]] == [
        ["dice", "0.9", "(0.8", "to", "1)"],
        ["present", "4"],
    ]


def test_a_cell_that_needs_a_table_of_its_own_is_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [{"id": "a", "facts": {str(n): n for n in range(9)}, "dice": 0.5}]
    lines = shown({"cases": rows}, capsys)
    assert "facts" not in " ".join(lines)
    assert lines[-1].split() == ["a", "0.5"]


def test_markup_in_data_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown({"name": "[red]a[/red]"}, capsys) == ["name  [red]a[/red]"]
    assert shown([{"[b]": "[/b]"}], capsys)[-1] == "[/b]"


def test_dataclasses_are_shown_as_their_fields(capsys: pytest.CaptureFixture[str]) -> None:
    @dataclass
    class Score:
        dice: float

    assert shown(Score(0.5), capsys) == ["dice  0.5"]


def test_off_a_terminal_a_long_task_says_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 10.0, 20.0, 30.0, 40.0, 60.0])
    monkeypatch.setattr(_terminal.time, "monotonic", lambda: next(clock))
    with Terminal().task(4, "training") as bar:
        for loss in (0.4, 0.3, 0.2, 0.1):
            bar.advance(1, loss=loss)
    assert capsys.readouterr().err.splitlines() == [
        "training: 50%, 20 s left, loss 0.3",
        "training: 100%, 0 s left, loss 0.1",
        "training: done in 1 min 00 s, loss 0.1",
    ]


def test_on_a_terminal_bars_nest_and_lines_stand_above_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = io.StringIO()
    terminal = Terminal()
    monkeypatch.setattr(terminal, "_err", Console(file=screen, force_terminal=True, width=120))
    with terminal.task(2, "folds") as outer:
        for _ in terminal.track(range(3), "[steps]"):
            terminal.say("a line")
        outer.advance(2, dice=0.8123)
    with terminal.task(None, "again"):
        pass
    text = screen.getvalue()
    for part in ("folds", "[steps]", "a line", "dice 0.812", "again"):
        assert part in text
