"""Memory that is freed and asked for again is not fetched from the system again."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import resource
from delineate.core import memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        several = [bytearray(2**23) for _ in range(4)]
        del several
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

memory.keep_freed()
faults()
print(faults())
"""


def test_pages_are_fetched_once() -> None:
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("another C library")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, check=True, capture_output=True
    )
    assert int(done.stdout) < 2**10, "of 2**16 pages"
