"""What the person at the terminal sees: lines and bars on stderr, results on stdout."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from delineate.core.progress import Bar

T = TypeVar("T")
#: Seconds between the lines of a bar where there is no terminal to draw it on.
PLAIN_EVERY_S = 15.0
#: A part with more figures than this is shown in brief; the files that a verb writes hold all.
MOST_FIGURES = 40
#: Most entries of a mapping shown within one cell of a table.
MOST_IN_A_CELL = 4


class Terminal:
    """Fills a task's ``say`` and ``progress``, and shows what the task returns."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._out = _console(stderr=False)
        self._err = _console(stderr=True, quiet=quiet)
        self._bars: Progress | None = None

    def say(self, text: str) -> None:
        """One line for the person who waits."""
        self._err.print(Text(text), soft_wrap=True)

    def track(
        self, iterable: Iterable[T], description: str, total: float | None = None
    ) -> Iterator[T]:
        """The items of ``iterable``, with a bar."""
        if total is None and isinstance(iterable, Sized):
            total = len(iterable)
        with self.task(total, description) as bar:
            for item in iterable:
                yield item
                bar.advance()

    @contextmanager
    def task(self, total: float | None, description: str) -> Iterator[Bar]:
        """A bar of ``total`` units; bars may be opened within one another."""
        if not self._err.is_terminal:
            bar = _PlainBar(self, total, description)
            yield bar
            bar.finish()
        elif self._bars is not None:
            inner = _LiveBar(self._bars, total, description)
            yield inner
            self._bars.update(inner.id, visible=False)
        else:
            with _bars(self._err) as self._bars:
                try:
                    yield _LiveBar(self._bars, total, description)
                finally:
                    self._bars = None

    def show(self, result: Any) -> None:
        """Print what a task returned: plain data, a path or nothing."""
        if hasattr(result, "to_dict"):
            result = result.to_dict()
        elif dataclasses.is_dataclass(result) and not isinstance(result, type):
            result = dataclasses.asdict(result)
        if result is None:
            return
        if isinstance(result, Mapping):
            self._show_mapping(result)
        elif _is_table(result):
            self._out.print(_rows(result))
        else:
            items = result if isinstance(result, list | tuple) else [result]
            for item in items:
                self._out.print(Text(_word(item)), soft_wrap=True)

    def _show_mapping(self, data: Mapping[str, Any]) -> None:
        """Single values first, then each part under its own heading."""
        parts = {
            k: v
            for k, v in data.items()
            if (isinstance(v, Mapping) and not _is_estimate(v)) or _is_table(v)
        }
        single = {k: v for k, v in data.items() if k not in parts}
        if single:
            self._out.print(_pairs(single))
        for name, part in parts.items():
            if not part:
                continue
            self._out.print(Text(_title(name), style="bold"))
            nested = isinstance(part, Mapping) and all(
                isinstance(v, Mapping) for v in part.values()
            )
            if nested and len({tuple(v) for v in part.values()}) == 1:
                self._out.print(_rows(_upright(part)))
            else:
                self._out.print(_pairs(_flat(part)) if isinstance(part, Mapping) else _rows(part))


class _LiveBar:
    def __init__(self, bars: Progress, total: float | None, description: str) -> None:
        self._bars = bars
        self.id: TaskID = bars.add_task(description, total=total, live="")

    def advance(self, n: float = 1, **live: float) -> None:
        """See ``core.progress.Bar``."""
        if live:
            self._bars.update(self.id, advance=n, live=_live(live))
        else:
            self._bars.advance(self.id, n)


class _PlainBar:
    def __init__(self, terminal: Terminal, total: float | None, description: str) -> None:
        self._terminal, self._total, self._description = terminal, total, description
        self._done, self._live = 0.0, ""
        self._start = self._last_line = time.monotonic()

    def advance(self, n: float = 1, **live: float) -> None:
        """See ``core.progress.Bar``."""
        self._done += n
        self._live = _live(live) or self._live
        now = time.monotonic()
        if now - self._last_line >= PLAIN_EVERY_S:
            self._last_line = now
            self._line(self._remaining(now - self._start))

    def finish(self) -> None:
        """Say how long it took, if it was long enough to notice."""
        seconds = time.monotonic() - self._start
        if seconds >= 1:
            self._line(f"done in {_clock(seconds)}")

    def _remaining(self, seconds: float) -> str:
        if not self._total or self._done <= 0:
            return f"{self._done:g} after {_clock(seconds)}"
        left = seconds * max(self._total / self._done - 1, 0)
        return f"{min(self._done / self._total, 1):.0%}, {_clock(left)} left"

    def _line(self, text: str) -> None:
        self._terminal.say(", ".join(filter(None, (f"{self._description}: {text}", self._live))))


def _console(*, stderr: bool, quiet: bool = False) -> Console:
    console = Console(stderr=stderr, highlight=False, quiet=quiet)
    if not console.is_terminal:
        # Off a terminal nothing is folded, so that a path stays whole for whoever searches the
        # log, unless COLUMNS says how wide it may be.
        console.width = shutil.get_terminal_size((4096, 24)).columns if not stderr else 4096
    return console


def as_json(result: Any) -> str:
    """What a task returned, as one JSON document; figures that are not defined are null."""
    return json.dumps(_data(result), indent=1, allow_nan=False)


def _data(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _data(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_data(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if hasattr(value, "to_dict"):
        return _data(value.to_dict())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _data(dataclasses.asdict(value))
    if hasattr(value, "tolist"):  # a number or an array of NumPy's
        return _data(value.tolist())
    return str(value)


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[live]}", markup=False),
        console=console,
        speed_estimate_period=120,
    )


def _live(numbers: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in numbers.items())


def _clock(seconds: float) -> str:
    hours, seconds_left = divmod(round(seconds), 3600)
    minutes, seconds = divmod(seconds_left, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def _is_table(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) > 0
        and all(isinstance(row, Mapping) for row in value)
    )


def _rows(rows: Sequence[Mapping[str, Any]]) -> Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    # a cell that would need a table of its own is left to the file that holds everything
    names = [name for name in names if not any(_is_crowded(row.get(name)) for row in rows)]
    table = Table(box=SIMPLE_HEAD)
    for name in names:
        numeric = all(isinstance(row.get(name), int | float | None) for row in rows)
        table.add_column(_title(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_word(row.get(name))) for name in names))
    return table


def _pairs(data: Mapping[str, Any]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 0, 0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in data.items():
        table.add_row(Text(_title(name)), Text(_word(value)))
    return table


def _upright(part: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a table of named rows, turned over if it is wider than high."""
    columns = list(next(iter(part.values())))
    if len(columns) <= len(part):
        return [{"": name, **row} for name, row in part.items()]
    return [{"": _title(key), **{n: row[key] for n, row in part.items()}} for key in columns]


def _flat(data: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values under dotted names; of a large part, the first level alone."""
    flat: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, Mapping) and value and not _is_estimate(value):
            flat |= {f"{name}.{inner}": nested for inner, nested in _flat(value).items()}
        else:
            flat[name] = value
    if len(flat) > MOST_FIGURES:
        return {k: v for k, v in data.items() if not isinstance(v, Mapping) or _is_estimate(v)}
    return flat


def _is_crowded(value: Any) -> bool:
    return isinstance(value, Mapping) and len(value) > MOST_IN_A_CELL and not _is_estimate(value)


def _is_estimate(value: Mapping[str, Any]) -> bool:
    return {"mean", "ci_low", "ci_high"} <= set(value)


def _title(name: object) -> str:
    return str(name).replace("_", " ")


def _word(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, str | int | Path):
        return str(value)
    if isinstance(value, Mapping):
        if _is_estimate(value):
            low, high = (_word(value[end]) for end in ("ci_low", "ci_high"))
            return f"{_word(value['mean'])} ({low} to {high})"
        return ", ".join(f"{_title(k)} {_word(v)}" for k, v in value.items()) or "–"
    if isinstance(value, list | tuple) and not any(isinstance(v, Mapping) for v in value):
        return ", ".join(_word(v) for v in value) or "–"
    return json.dumps(value, ensure_ascii=False, default=str)
