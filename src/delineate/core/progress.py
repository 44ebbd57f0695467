"""How a task speaks while it works: a line of text, and a bar. Doors fill both in.

A task takes ``say: Say = silent`` and ``progress: Progress = QUIET``; neither is an option of the
command line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeVar

T = TypeVar("T")

#: Says one line to the person who waits.
Say = Callable[[str], None]


class Bar(Protocol):
    """One running piece of work."""

    def advance(self, n: float = 1, **live: float) -> None:
        """``n`` more units are done; ``live`` numbers are shown beside the bar."""


class Progress(Protocol):
    """Shows how far a task is and how long it will still take."""

    def task(self, total: float | None, description: str) -> AbstractContextManager[Bar]:
        """A bar of ``total`` units (None: unknown), open for the length of a ``with`` block."""

    def track(
        self, iterable: Iterable[T], description: str, total: float | None = None
    ) -> Iterator[T]:
        """The items of ``iterable``, one unit each."""


class _QuietBar:
    def advance(self, n: float = 1, **live: float) -> None:
        """Show nothing."""


class Quiet:
    """A progress that shows nothing: what tasks use when nobody watches."""

    @contextmanager
    def task(self, total: float | None, description: str) -> Iterator[Bar]:
        """See ``Progress.task``."""
        yield _QuietBar()

    def track(
        self, iterable: Iterable[T], description: str, total: float | None = None
    ) -> Iterator[T]:
        """See ``Progress.track``."""
        yield from iterable


QUIET: Progress = Quiet()


def silent(text: str) -> None:
    """A ``Say`` that says nothing."""
