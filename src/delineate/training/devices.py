"""Where a run computes, and how precisely."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning_fabric import Fabric

#: Fewer threads are taken if they need less than this share of the time.
_CLEARLY = 0.75
#: Pieces of work that threads are timed with.
_TRIES = 12


def precision(requested: str, device: torch.device) -> str:
    """bf16 where the device gains by it; never on a CPU unless asked for."""
    if requested != "auto":
        return requested
    gains = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return "bf16-mixed" if gains else "32-true"


def fabric(device: torch.device, precision: Any) -> Fabric:
    """Fabric on one device."""
    if device.type == "cuda":
        return Fabric(accelerator="cuda", devices=[device.index or 0], precision=precision)
    return Fabric(accelerator=device.type, devices=1, precision=precision)


def fastest(counts: Sequence[int], seconds: Callable[[int], float]) -> int:
    """How many threads to compute with: the first count, unless a later one is clearly faster.

    Where other programs use the processor too, threads that wait for each other can make a step
    take ten times as long as one thread alone would.

    Args:
        counts: To try, the usual one first.
        seconds: That a piece of work takes with so many threads.
    """
    times = {count: seconds(count) for count in dict.fromkeys(counts)}
    best = min(times, key=lambda count: times[count])
    return best if times[best] < _CLEARLY * times[counts[0]] else counts[0]


def choose_threads() -> int:
    """Compute with as many threads as are of use on this processor now; how many."""
    default = torch.get_num_threads()
    image, weight = torch.zeros(8, 16, 64, 64), torch.zeros(16, 16, 3, 3)

    def seconds(count: int) -> float:
        torch.set_num_threads(count)
        torch.conv2d(image, weight)  # the first starts the threads
        started = time.perf_counter()
        for _ in range(_TRIES):
            torch.conv2d(image, weight)
        return time.perf_counter() - started

    with torch.inference_mode():
        count = fastest([default, max(1, default // 2), 1], seconds)
    torch.set_num_threads(count)
    return count
