"""One run a folder: a lock that the kernel frees when its process dies."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from delineate.core.atomic import output_error
from delineate.core.errors import LockedError

LOCK_NAME = ".delineate.lock"


@contextlib.contextmanager
def folder_lock(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Hold ``folder`` alone while the body runs.

    The lock itself is the kernel's (``flock``), so a process that was killed leaves none behind.
    The file also says process and host: a lock of this host without a living holder is stale and
    taken over; one of another host cannot be judged from here and is refused.

    Raises:
        LockedError: Another run holds the folder (exit code 4).
        OutputError: The lock file cannot be written.
    """
    path = Path(folder) / LOCK_NAME
    descriptor = _acquire(path)
    try:
        mine = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(mine).encode(), 0)
        yield path
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _acquire(path: Path) -> int:
    """Open and lock the file; once more if its holder removed it in between."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        except OSError as error:
            raise output_error(error, path) from error
        holder = _holder(descriptor)
        foreign = holder.get("host", socket.gethostname()) != socket.gethostname()
        if not _lock(descriptor) or foreign:
            os.close(descriptor)
            raise LockedError(
                f"expected a free folder, but process {holder.get('pid', 'unknown')} on "
                f"{holder.get('host', 'an unknown host')} is using it",
                where=path.parent,
                fix="wait for that run, or choose another folder; "
                f"if it died on another host, delete {LOCK_NAME}",
            )
        try:
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _holder(descriptor: int) -> dict[str, Any]:
    try:
        data = json.loads(os.read(descriptor, 4096))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
