"""Ctrl-C, SIGTERM, a closed terminal during a run: at once, but in training after the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Self

from delineate.core import processes
from delineate.core.progress import Bar, Say, silent

#: Whether nothing more is wanted, told the share of the present case that is done.
Enough = Callable[[float], bool]


class TimeUpError(Exception):
    """Work was given up, because it took too long or somebody wants an end; never shown."""


class Tick:
    """Told of windows done of a case; shows them on a bar and ends what has to end.

    Args:
        bar: Of cases, if any.
        over: Whether to end.
    """

    def __init__(self, bar: Bar | None, over: Callable[[], bool]) -> None:
        self.bar, self.over, self._advanced = bar, over, 0.0

    def __call__(self, done: int, total: int) -> None:
        """Windows done, of so many in all."""
        if self.bar is not None:
            self.bar.advance(done / total - self._advanced)
        self._advanced = done / total % 1.0
        if self.over():
            raise TimeUpError


class Stop:
    """Whether the person who waits wants an end; open while the run lasts.

    Outside of ``gently`` a signal to stop raises KeyboardInterrupt.
    """

    def __init__(self, say: Say = silent) -> None:
        self.say, self.requested = say, False
        self._gently, self._handlers = False, ExitStack()

    def __call__(self) -> bool:
        """Whether somebody has asked for an end."""
        return self.requested

    def __enter__(self) -> Self:
        self._handlers.enter_context(processes.on_stop(self._ask))
        return self

    def __exit__(self, *failure: object) -> None:
        self._handlers.close()

    @contextmanager
    def gently(self) -> Iterator[None]:
        """The first signal only asks; what runs in here looks at the answer in good time."""
        self._gently = True
        try:
            yield
        finally:
            self._gently = False

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.requested or not self._gently:
            self.requested = True
            raise KeyboardInterrupt
        self.requested = True
        self.say("stopping after this step; once more to stop at once")
