"""Threads that read and prepare; Ctrl-C does not wait for what they are at."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

_left_alone: list[ThreadPoolExecutor] = []


def cores() -> int:
    """Processor cores that this process may use: a queue of jobs may have granted it some."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads for the length of a ``with`` block.

    An error waits for the work at hand and drops the rest. Ctrl-C waits for nothing: whatever the
    threads write appears whole or not at all.

    Args:
        workers: How many.
    """
    threads = ThreadPoolExecutor(workers)
    try:
        yield threads
    except KeyboardInterrupt:
        _left_alone.append(threads)
        threads.shutdown(wait=False, cancel_futures=True)
        raise
    except BaseException:
        threads.shutdown(wait=True, cancel_futures=True)
        raise
    threads.shutdown()


def leave(code: int) -> int:
    """End the process with ``code``: at once where threads were left alone, for Python would wait.

    Returns:
        ``code``, where there are none.
    """
    if _left_alone:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    return code
