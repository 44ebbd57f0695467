"""Delineate beside its peers, a line each: time, ratio and spread.

    python benchmarks/table.py [--only metrics,forward] [--repeats 5] [--threads 2] [--json FILE]

Whatever stands in a row runs in this process, on the same input and the same number of threads:
each once to warm up, whose results are compared, then in turns. Times are medians with the fastest
and the slowest run; the ratio is the peer's time over ours in the same turn, above 1 where the
peer is slower. Times depend on the machine and on what else it does: quote the ratios.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import image_rows
import network_rows
from row import Peer, Run, Setup, set_threads

ROWS = {**network_rows.ROWS, **image_rows.ROWS}
LEAST_REPEATS = 5


@dataclass(frozen=True)
class Spread:
    """Median, least and largest of what was measured."""

    median: float
    least: float
    largest: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        return Spread(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Line:
    """One peer of a row; without times where it is not installed."""

    row: str
    what: str
    peer: str
    results: str
    ours_ms: Spread | None = None
    peer_ms: Spread | None = None
    ratio: Spread | None = None
    ours_gflop_per_s: float | None = None
    peer_gflop_per_s: float | None = None


def measure(name: str, setup: Setup, repeats: int) -> list[Line]:
    """Compare and time one row."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        row = ROWS[name](setup)
        expected = row.ours()
        lines: list[Line] = []
        runs: list[tuple[Peer, Run, str]] = []
        for peer in row.peers:
            try:
                run = peer.prepare()
            except ImportError:
                lines.append(Line(name, row.what, peer.name, "not installed"))
                continue
            runs.append((peer, run, peer.compared(expected, run())))
        seconds = in_turns([row.ours, *(run for _, run, _ in runs)], repeats)
    ours, *others = seconds
    for (peer, _, results), counted in zip(runs, others, strict=True):
        theirs = [peer.scale * s for s in counted]
        rates = [row.gflop / statistics.median(s) if row.gflop else None for s in (ours, theirs)]
        lines.append(
            Line(
                name, row.what, peer.name, results,
                Spread.of([1000 * s for s in ours]), Spread.of([1000 * s for s in theirs]),
                Spread.of([t / o for t, o in zip(theirs, ours, strict=True)]), *rates,
            )
        )  # fmt: skip
    return lines


def in_turns(runs: Sequence[Run], repeats: int) -> list[list[float]]:
    """Seconds of each, first one run of everything, then the next."""
    seconds: list[list[float]] = [[] for _ in runs]
    gc.freeze()  # nobody pays for looking through what all have imported
    for _ in range(repeats):
        for run, counted in zip(runs, seconds, strict=True):
            start = time.perf_counter()
            run()
            counted.append(time.perf_counter() - start)
    gc.unfreeze()
    return seconds


def text(lines: Sequence[Line]) -> str:
    """A table for the terminal, one block a row."""
    shown: list[str] = []
    for name in dict.fromkeys(line.row for line in lines):
        block = [line for line in lines if line.row == name]
        shown.append(f"\n{name}: {block[0].what}")
        shown.append(f"  {'peer':38} {'ours, ms':>24} {'peer, ms':>24} {'ratio':>18}  results")
        for line in block:
            cells = [_cell(line.ours_ms, 24), _cell(line.peer_ms, 24), _cell(line.ratio, 18)]
            rates = ""
            if line.ours_gflop_per_s and line.peer_gflop_per_s:
                rates = f"; {line.ours_gflop_per_s:.0f} and {line.peer_gflop_per_s:.0f} GFLOP/s"
            shown.append(f"  {line.peer:38} {' '.join(cells)}  {line.results}{rates}")
    return "\n".join(shown)


def _cell(spread: Spread | None, width: int) -> str:
    if spread is None:
        return f"{'–':>{width}}"
    numbers = [_digits(n) for n in (spread.median, spread.least, spread.largest)]
    return f"{numbers[0]} ({numbers[1]}–{numbers[2]})".rjust(width)


def _digits(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help=f"some of {','.join(ROWS)}")
    parser.add_argument("--repeats", type=int, default=LEAST_REPEATS)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--tiny", action="store_true", help="toy sizes: does it run at all?")
    parser.add_argument("--json", type=Path, help="write the table here too")
    given = parser.parse_args(words)
    names = [name.strip() for name in given.only.split(",") if name.strip()] or list(ROWS)
    if unknown := sorted(set(names) - set(ROWS)):
        parser.error(f"expected some of {', '.join(ROWS)}, got {', '.join(unknown)}")
    if given.repeats < LEAST_REPEATS or given.threads < 1:
        parser.error(f"expected at least {LEAST_REPEATS} repeats and a thread")
    machine = f"{platform.processor() or platform.machine()}, Python {platform.python_version()}"
    print(f"{given.threads} threads, {given.repeats} runs in turns, {machine}")
    lines: list[Line] = []
    with set_threads(given.threads), tempfile.TemporaryDirectory() as folder:
        for name in names:
            block = measure(name, Setup(given.tiny, given.threads, Path(folder)), given.repeats)
            print(text(block), flush=True)
            lines += block
    if given.json is not None:
        table = {
            "threads": given.threads, "repeats": given.repeats, "tiny": given.tiny,
            "machine": machine, "lines": [asdict(line) for line in lines],
        }  # fmt: skip
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
