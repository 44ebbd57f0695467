"""Start-up and seconds a case of ``delineate predict``, as a user sees them.

    python benchmarks/predict_speed.py MODEL SCANS [--cases 20]

Runs the command itself, in new processes: once for one scan, once for several; the slope between
the two is the cost of a case, the rest is start-up. Beside it stands the machine's matrix product,
so that figures of two machines can be told apart.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def ceiling() -> float:
    """GFLOP/s of a 2048 x 2048 matrix product, best of five."""
    import torch

    a = torch.randn(2048, 2048)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2 * 2048**3 / best / 1e9


def seconds(model: Path, scans: list[Path], *options: str) -> float:
    """Wall time of one command on a folder that holds just these scans."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "scans").mkdir()
        for scan in scans:
            (folder / "scans" / scan.name).write_bytes(scan.read_bytes())
        command = [
            sys.executable, "-m", "delineate", "predict", str(model), str(folder / "scans"),
            "--out", str(folder / "out"), *options,
        ]  # fmt: skip
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - start


def main() -> None:
    """Print a small table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("scans", type=Path)
    parser.add_argument("--cases", type=int, default=20)
    given = parser.parse_args()
    scans = sorted(given.scans.glob("*.nii.gz"))[: given.cases]
    print(f"matrix product: {ceiling():.0f} GFLOP/s")
    for title, options in (("plain", ()), ("mirrored", ("--mirror",))):
        one = min(seconds(given.model, scans[:1], *options) for _ in range(3))
        many = min(seconds(given.model, scans, *options) for _ in range(2))
        slope = (many - one) / (len(scans) - 1)
        print(f"{title}: start-up {one - slope:.1f} s, {slope:.2f} s a case ({len(scans)} cases)")


if __name__ == "__main__":
    main()
