"""Processes that do not outlive the one that started them, whatever ends it and when.

A child's standard input is a pipe whose other end only the parent holds. The system closes it when
the parent ends, be it killed, and the child, which watches it, ends too. No moment is left out:
a child that was born but not yet watching finds the pipe closed when it begins to.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

#: A process that was started here.
Child = subprocess.Popen[bytes]
#: The word that makes ``delineate`` end with its parent.
TIED = "--tied"
#: A child that was asked to end, and has not after this long, is ended.
GRACE_SECONDS = 10.0


def start(arguments: Sequence[str], log: Path) -> Child:
    """Start ``delineate WORDS`` as a child that ends with this process.

    Args:
        arguments: Verb and arguments.
        log: File for what it prints, made anew.

    Returns:
        The child, in a process group of its own: Ctrl-C reaches this process alone.
    """
    detached: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        detached = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "delineate", *arguments, TIED],
            stdin=_lifeline(), stdout=file, stderr=subprocess.STDOUT, **detached,
        )  # fmt: skip


@functools.cache
def _lifeline() -> int:
    """The end to read of a pipe whose other end, inherited by nobody, closes with this process."""
    return os.pipe()[0]


def end(children: Sequence[Child]) -> None:
    """Ask children to end, and see to it that they do within ``GRACE_SECONDS``."""
    for child in children:
        child.terminate()
    until = time.monotonic() + GRACE_SECONDS
    for child in children:
        try:
            child.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def end_with_parent(grace_seconds: float = GRACE_SECONDS) -> None:
    """From now on, end when standard input closes: politely first, then for certain."""

    def watch() -> None:
        with contextlib.suppress(OSError, ValueError):
            while os.read(0, 4096):
                pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace_seconds)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Ctrl-C, SIGTERM and a closed terminal set a flag while the body runs; they raise nothing.

    So the body is never torn between the birth of a child and its being noted. After the body,
    ``KeyboardInterrupt`` is raised if any came. Signals that are ignored stay so (``nohup``), and
    outside the main thread nothing changes.

    Yields:
        Whether a signal has come.
    """
    come: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        come.append(number)

    with on_stop(note):
        yield lambda: bool(come)
    if come:
        raise KeyboardInterrupt


@contextmanager
def on_stop(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Let whatever asks this process to end call ``handler`` while the body runs.

    Ctrl-C, SIGTERM and a closed terminal, and Ctrl-Break where there is one. Signals that are
    ignored stay so (``nohup``); outside the main thread nothing changes.
    """
    before: dict[int, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
                number = getattr(signal, name, None)
                if number is None or signal.getsignal(number) in (signal.SIG_IGN, None):
                    continue
                before[number] = signal.signal(number, handler)
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
