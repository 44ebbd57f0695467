from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from delineate.core import atomic
from delineate.core.errors import LockedError, OutputError
from delineate.core.lock import HOLDER_NAME, LOCK_NAME, folder_lock
from delineate.engine import checkpoint


def test_file_is_replaced_and_nothing_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    atomic.atomic_write_text(path, "one")
    atomic.atomic_write_text(path, "zwei é")
    assert path.read_text(encoding="utf-8") == "zwei é"
    assert list(tmp_path.iterdir()) == [path]


def test_body_that_raises_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(b"old")

    def stop_half_way() -> None:
        with atomic.atomic_path(path) as temporary:
            assert temporary.name.endswith(".nii.gz")
            temporary.write_bytes(b"half")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        stop_half_way()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_names_of_255_bytes_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 120 + "a" * 11 + ".txt")
    assert len(path.name.encode()) == 255
    atomic.atomic_write_text(path, "x")
    assert path.exists()


def test_the_umask_is_kept(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        atomic.atomic_write_text(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("path", "code"),
    [("missing/a", "output-missing"), ("file/a", "output-not-folder"), ("x" * 300, "output-name")],
)
def test_places_that_cannot_be_written_give_an_output_error(
    tmp_path: Path, path: str, code: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError) as caught:
        atomic.atomic_write_text(tmp_path / path, "x")
    assert caught.value.code == code


def test_full_disk_is_seen_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught, atomic.atomic_path(tmp_path / "a", 1 << 60):
        pytest.fail("the body must not run")
    assert caught.value.code == "disk-full"


def test_fault_of_another_file_is_not_blamed_on_the_output(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic.atomic_path(tmp_path / "a"):
        (tmp_path / "input").read_bytes()


def test_writable_folder(tmp_path: Path) -> None:
    assert atomic.writable_folder(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="got a file"):
        atomic.writable_folder(tmp_path / "file")
    with pytest.raises(OutputError):
        atomic.writable_folder(tmp_path / "file" / "below")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_read_only_folder_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    def denied(self: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "touch", denied)  # root may write anywhere, so chmod would not do
    with pytest.raises(OutputError) as caught:
        atomic.writable_folder(tmp_path)
    assert caught.value.code == "output-permission"


def test_only_files_of_dead_processes_are_removed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        dead = child.pid
    mine = tmp_path / f".tmp-{atomic._HOST}-{os.getpid()}-00000000.nii.gz"
    old = tmp_path / f".tmp-{atomic._HOST}-{dead}-00000000.nii.gz"
    far = tmp_path / f".tmp-ffffff-{dead}-00000000"
    for path in (mine, old, far, tmp_path / ".tmp-notes", tmp_path / "case"):
        path.touch()
    assert atomic.remove_stale(tmp_path) == [old]
    assert mine.exists()
    assert far.exists()
    assert (tmp_path / ".tmp-notes").exists()


def test_kill_while_writing_never_leaves_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "state"
    code = (
        "import sys; from delineate.core.atomic import atomic_write_bytes as w\n"
        "n = 0\n"
        "while True:\n"
        "    w(sys.argv[1], bytes([n % 251]) * 2_000_000); n += 1\n"
        "    print(n, flush=True)"
    )
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(0.05)
            child.send_signal(signal.SIGKILL)
        data = path.read_bytes()
        assert len(data) == 2_000_000
        assert len(set(data)) == 1
    atomic.remove_stale(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_second_holder_is_refused_and_told_who_holds(tmp_path: Path) -> None:
    with folder_lock(tmp_path), pytest.raises(LockedError) as caught, folder_lock(tmp_path):
        pytest.fail("two runs in one folder")
    assert caught.value.exit_code == 4
    assert str(os.getpid()) in caught.value.message
    with folder_lock(tmp_path):
        pass
    assert not (tmp_path / LOCK_NAME).exists()


def test_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    code = (
        "import sys, time; from delineate.core.lock import folder_lock\n"
        "with folder_lock(sys.argv[1]):\n    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(LockedError, match=str(child.pid)), folder_lock(tmp_path):
            pytest.fail("two runs in one folder")
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert (tmp_path / HOLDER_NAME).exists()
    with folder_lock(tmp_path):
        pass


def test_lock_of_another_host_is_respected(tmp_path: Path) -> None:
    (tmp_path / HOLDER_NAME).write_text('{"pid": 1, "host": "elsewhere"}')
    with pytest.raises(LockedError, match="elsewhere"), folder_lock(tmp_path):
        pytest.fail("two runs in one folder")
    assert (tmp_path / HOLDER_NAME).exists()


def test_holder_without_sense_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / HOLDER_NAME).write_text("[nonsense")
    with folder_lock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_writers_need_nothing_that_only_posix_has(tmp_path: Path, monkeypatch: Any) -> None:
    """Windows has no ``pwrite``; it flushes no file open for reading and opens no folder."""
    modes: dict[int, int] = {}
    opened, flush = os.open, os.fsync

    def windows_open(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied", str(path))
        descriptor = opened(path, flags, *rest, **named)
        modes[descriptor] = flags & (os.O_RDWR | os.O_WRONLY)
        return descriptor

    def windows_flush(descriptor: int) -> None:
        if not modes.get(descriptor, 1):
            raise OSError(9, "Bad file descriptor")
        flush(descriptor)

    monkeypatch.setattr(os, "open", windows_open)
    monkeypatch.setattr(os, "fsync", windows_flush)
    for name in ("pwrite", "fork", "getuid", "fchmod", "killpg"):
        monkeypatch.delattr(os, name, raising=False)
    (tmp_path / f".tmp-{atomic._HOST}-999999999-00000000.json").touch()
    with folder_lock(tmp_path):
        assert len(atomic.remove_stale(tmp_path)) == 1
        atomic.writable_folder(tmp_path / "out")
        atomic.atomic_write_text(tmp_path / "out" / "a.json", "{}")
        with atomic.atomic_path(tmp_path / "out" / "b.bin", 10) as temporary:
            temporary.write_bytes(b"0123456789")
        checkpoint.write(tmp_path / "out" / "checkpoints", 3, {"step": 3})
    assert checkpoint.read_newest(tmp_path / "out" / "checkpoints", print) == {"step": 3}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "a.json",
        "b.bin",
        "checkpoints",
    ]
