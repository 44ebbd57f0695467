"""Files that are either wholly written or not there: temporary name, fsync, rename, fsync."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from delineate.core.errors import DelineateError, OutputError, ResourceError

#: Temporary files carry host and process, so that those of a dead run can be told and removed.
_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]
_TEMPORARY = re.compile(r"^\.tmp-([0-9a-f]{6})-(\d+)-[0-9a-f]{8}")


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str], need_bytes: int = 0) -> Iterator[Path]:
    """Give a temporary path in the folder of ``path``; rename it to ``path`` if all went well.

    The temporary file keeps the extension (``.nii.gz``), since writers choose the format by it.
    If the body raises, the temporary file is removed and an older ``path`` stays as it was.

    Args:
        path: The file to write; its folder must exist.
        need_bytes: Refuse before anything is written unless so much space is free.

    Raises:
        OutputError: No permission, no space, or the folder is missing.
    """
    path = Path(path)
    check_space(path.parent, need_bytes)
    suffix = "".join(path.suffixes[-2:]) if path.suffix in (".gz", ".zst") else path.suffix
    temporary = path.parent / f".tmp-{_HOST}-{os.getpid()}-{secrets.token_hex(4)}{suffix[-32:]}"
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        concerns_path = error.filename is None or Path(error.filename) in (
            temporary,
            path,
            path.parent,
        )
        if not concerns_path or isinstance(error, DelineateError):
            raise
        raise output_error(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path`` so that a crash leaves either the old file or the new one."""
    with atomic_path(path, len(data)) as temporary:
        temporary.write_bytes(data)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8 to ``path``; see ``atomic_write_bytes``."""
    atomic_write_bytes(path, text.encode("utf-8"))


def check_space(folder: str | os.PathLike[str], need_bytes: int) -> None:
    """Refuse if the file system of ``folder`` has less than ``need_bytes`` free."""
    if need_bytes <= 0:
        return
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise output_error(error, folder) from error
    if free < need_bytes:
        raise OutputError(
            f"expected {need_bytes / 1e6:.1f} MB of free space, got {free / 1e6:.1f} MB",
            where=folder,
            fix="free some space or choose another folder",
            code="disk-full",
        )


def writable_folder(path: str | os.PathLike[str]) -> Path:
    """Make the folder if need be, and prove that a file can be written into it.

    Raises:
        OutputError: ``path`` is a file, or the folder cannot be made or written.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise OutputError(
            "expected a folder, got a file",
            where=folder,
            fix="choose another output folder",
            code="output-not-folder",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".tmp-{_HOST}-{os.getpid()}-{secrets.token_hex(4)}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise output_error(error, folder) from error
    return folder


def remove_stale(folder: str | os.PathLike[str]) -> list[Path]:
    """Remove temporary files that dead processes of this host left in ``folder``."""
    import psutil  # a twentieth of a second, which `--help` need not wait for

    removed = []
    for path in Path(folder).glob(".tmp-*"):
        match = _TEMPORARY.match(path.name)
        if match and match[1] == _HOST and not psutil.pid_exists(int(match[2])):
            with contextlib.suppress(OSError):
                path.unlink()
                removed.append(path)
    return removed


def output_error(error: OSError, path: str | os.PathLike[str]) -> OutputError | ResourceError:
    """The error of the operating system in the user's words."""
    code, fix = {
        errno.ENOSPC: ("disk-full", "free some space or choose another folder"),
        errno.EDQUOT: ("disk-full", "free some space or choose another folder"),
        errno.EACCES: ("output-permission", "choose a folder that you may write to"),
        errno.EPERM: ("output-permission", "choose a folder that you may write to"),
        errno.EROFS: ("output-permission", "choose a folder that you may write to"),
        errno.ENOENT: ("output-missing", "make the folder first"),
        errno.ENOTDIR: ("output-not-folder", "choose another output folder"),
        errno.ENAMETOOLONG: ("output-name", "choose a shorter name"),
    }.get(error.errno or 0, ("output", "choose another output folder"))
    return OutputError(
        f"expected to write here, got: {error.strerror or error}", where=path, fix=fix, code=code
    )


def sync(path: Path) -> None:
    """Have the system write a file, or a folder's list of names, to the disk.

    Windows flushes only files that are open for writing, and no folders: they pass without a word.
    """
    folder = path.is_dir()
    try:
        descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError:
        if not folder:
            raise
