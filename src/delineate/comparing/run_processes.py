"""Many training runs side by side, each a process of its own that can be taken up again."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from delineate.core import processes, run
from delineate.core.progress import Bar, Progress

_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Run:
    """One training run of several.

    Args:
        name: Of its folder.
        arm: Whose.
        number: Which of the arm's runs.
        seconds: It should take.
        steps: It has; 0 where it keeps to ``seconds``.
        condition: Of a benchmark of classifiers.
        table: What it learns from, where that differs from run to run.
    """

    name: str
    arm: str
    number: int
    seconds: float
    steps: int
    condition: str = ""
    table: Path | None = None


def finished(folder: Path) -> bool:
    """Whether a run of this folder came to its end."""
    record = run.read_json(folder / "run.json") or {}
    return record.get("status") == "finished" and (folder / "validation" / "cases.csv").exists()


def race(
    runs: Sequence[Run],
    commands: Mapping[str, Sequence[str]],
    folder: Path,
    jobs: int,
    progress: Progress,
    *,
    description: str = "training every arm",
    finished: Callable[[Path], bool] = finished,
    ended: Callable[[Run, str | None], None] = lambda planned, failure: None,
) -> dict[str, str]:
    """Do all runs that are not finished, several at a time.

    Whatever ends this process ends the runs too (``core.processes``); the same call goes on where
    they stood.

    Args:
        runs: In the order in which they begin.
        commands: Words after ``delineate``, by name.
        folder: Holds a folder for every run.
        jobs: At the same time.
        progress: Shows how far it is.
        description: What is shown beside the bar.
        finished: Whether the run of a folder came to its end.
        ended: Told of every run that ends, and the last thing it said if it failed.

    Returns:
        Names of the runs that failed, each with the last thing it said.
    """
    waiting = [planned for planned in runs if not finished(folder / planned.name)]
    going: dict[str, tuple[Run, processes.Child, float]] = {}
    failed: dict[str, str] = {}
    with (
        processes.stop_signals() as stopped,
        progress.task(sum(planned.seconds for planned in runs), description) as bar,
    ):
        bar.advance(sum(planned.seconds for planned in runs if planned not in waiting))
        advanced: dict[str, float] = {}
        try:
            while (waiting or going) and not stopped():
                while waiting and len(going) < jobs:
                    planned = waiting.pop(0)
                    process = _start(folder / planned.name, commands[planned.name])
                    going[planned.name] = planned, process, time.monotonic()
                time.sleep(_POLL_SECONDS)
                for name, (planned, process, started) in list(going.items()):
                    code = process.poll()
                    share = 1.0 if code is not None else _share(folder / name, planned, started)
                    _advance(bar, advanced, name, planned.seconds * share)
                    if code is None:
                        continue
                    del going[name]
                    if code != 0:
                        failed[name] = _last_words(folder / f"{name}.log", code)
                    elif finished(folder / name):  # nothing will go on from them
                        shutil.rmtree(folder / name / "checkpoints", ignore_errors=True)
                    ended(planned, failed.get(name))
        finally:
            processes.end([process for _, process, _ in going.values()])
    return failed


def _start(folder: Path, command: Sequence[str]) -> processes.Child:
    record = run.read_json(folder / "run.json") or {}
    if record.get("status") == "finished":  # but not scored
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    return processes.start(command, folder.with_name(f"{folder.name}.log"))


def _advance(bar: Bar, advanced: dict[str, float], name: str, done: float) -> None:
    more = done - advanced.get(name, 0.0)
    if more > 0:
        bar.advance(more)
        advanced[name] = done


def _share(folder: Path, run: Run, started: float) -> float:
    """How much of a run its log shows, or the clock."""
    if not run.steps:
        return min(1.0, (time.monotonic() - started) / run.seconds)
    try:
        with (folder / "log.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 4096))
            last = file.read().splitlines()[-1]
        return min(1.0, float(json.loads(last)["step"]) / run.steps)
    except (OSError, ValueError, KeyError, IndexError):
        return 0.0  # not yet, or a line half written


def _last_words(log: Path, code: int) -> str:
    """The last lines that a failed run wrote; one that was killed cannot say so itself."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last_lines = " ".join(line.strip() for line in lines[-3:])
    killed = f"killed by signal {-code} (9: often for want of memory); last words:"
    return (
        f"{killed} {last_lines or 'none'}"
        if code < 0
        else last_lines or f"ended with exit code {code}"
    )
