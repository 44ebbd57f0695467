"""One run a folder: a lock that the system frees when its process dies."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from delineate.core.atomic import atomic_write_text, output_error
from delineate.core.errors import LockedError

LOCK_NAME = ".delineate.lock"
#: Says who holds the lock.
HOLDER_NAME = ".delineate.holder"


@contextlib.contextmanager
def folder_lock(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Hold ``folder`` alone while the body runs.

    The lock is the system's, so a process that was killed leaves none behind. A file beside it says
    process and host: left by a dead process of this host it is taken over; where it names another
    host, whose locks may not reach here, the folder is refused.

    Raises:
        LockedError: Another run holds the folder (exit code 4).
        OutputError: The lock file cannot be written.
    """
    path, holder = Path(folder) / LOCK_NAME, Path(folder) / HOLDER_NAME
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise _locked(holder) from None
    except OSError as error:
        raise output_error(error, path) from error
    try:
        if _read(holder).get("host", socket.gethostname()) != socket.gethostname():
            raise _locked(holder)
        holder_facts = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
        atomic_write_text(holder, json.dumps(holder_facts))
        try:
            yield path
        finally:
            with contextlib.suppress(OSError):
                holder.unlink()
    finally:
        with contextlib.suppress(OSError):  # Windows: an open file stays until it is released
            path.unlink()
        lock.release()


def _locked(holder: Path) -> LockedError:
    known = _read(holder)
    return LockedError(
        f"expected a free folder, but process {known.get('pid', 'unknown')} on "
        f"{known.get('host', 'this host')} is using it",
        where=holder.parent,
        fix="wait for that run, or choose another folder; "
        f"if it died on another host, delete {HOLDER_NAME}",
    )


def _read(holder: Path) -> dict[str, Any]:
    try:
        data = json.loads(holder.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
