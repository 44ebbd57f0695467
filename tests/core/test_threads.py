"""Threads that read and prepare keep nobody waiting who wants to leave."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from delineate.core import threads


def test_an_error_waits_for_the_work_at_hand_and_drops_the_rest() -> None:
    done: list[int] = []
    begun, go = threading.Event(), threading.Event()

    def work(n: int) -> None:
        begun.set()
        go.wait(20)
        done.append(n)

    def write() -> None:
        with threads.pool(1) as pool:
            for n in range(5):
                pool.submit(work, n)
            begun.wait(20)
            go.set()
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write()
    assert 0 in done
    assert not threads._left_alone


def test_control_c_does_not_wait_for_a_case_that_takes_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads, "_left_alone", [])
    begun, go, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go.wait(60)
        done.set()

    def prepare() -> None:
        with threads.pool(2) as pool:
            pool.submit(work)
            begun.wait(20)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare()
    assert not done.is_set()
    assert len(threads._left_alone) == 1
    go.set()
    assert done.wait(20)


def test_a_process_leaves_though_its_threads_are_at_work() -> None:
    script = """
        import threading, time
        from delineate.core import threads
        begun = threading.Event()
        def work():
            begun.set()
            time.sleep(600)
        try:
            with threads.pool(1) as pool:
                pool.submit(work)
                begun.wait()
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            print("stopped")
            raise SystemExit(threads.leave(130))
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True,
        timeout=120, check=False, env={"PYTHONPATH": str(Path(__file__).parents[2] / "src")},
    )  # fmt: skip
    assert result.returncode == 130, result.stderr
    assert result.stdout == "stopped\n"
