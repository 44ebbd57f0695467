"""Ctrl-C during a run: at once, but in training after the step at hand."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

from delineate.core.progress import Bar, Say, silent


class TimeUpError(Exception):
    """Work was given up, because it took too long or somebody wants an end; never shown."""


class Tick:
    """Told of windows done of a case; shows them on a bar and ends what has to end.

    Args:
        bar: Of cases, if any.
        over: Whether to end.
    """

    def __init__(self, bar: Bar | None, over: Callable[[], bool]) -> None:
        self.bar, self.over, self._shown = bar, over, 0.0

    def __call__(self, done: int, total: int) -> None:
        if self.bar is not None:
            self.bar.advance(done / total - self._shown)
        self._shown = done / total % 1.0
        if self.over():
            raise TimeUpError


class Stop:
    """Whether the person who waits wants an end; open while the run lasts.

    Outside of ``gently`` Ctrl-C raises KeyboardInterrupt, as ever.
    """

    def __init__(self, say: Say = silent) -> None:
        self.say, self.asked = say, False
        self._gently = False
        self._before: Any = None

    def __call__(self) -> bool:
        return self.asked

    def __enter__(self) -> Self:
        try:
            self._before = signal.signal(signal.SIGINT, self._ask)
        except ValueError:  # not the main thread: somebody else owns the signals
            self._before = None
        return self

    def __exit__(self, *failure: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    @contextmanager
    def gently(self) -> Iterator[None]:
        """The first Ctrl-C only asks; what runs in here looks at the answer in good time."""
        self._gently = True
        try:
            yield
        finally:
            self._gently = False

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked or not self._gently:
            self.asked = True
            raise KeyboardInterrupt
        self.asked = True
        self.say("stopping after this step; once more to stop at once")
