"""Where a run computes, and how precisely."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning_fabric import Fabric

#: Fewer threads are taken if they need less than this share of the time.
_CLEARLY = 0.75
#: Pieces of work that threads are timed with.
_TRIES = 12
#: Times that a number format is tried; one that takes so many times as long at first, only once.
_ROUNDS, _HOPELESS = 3, 20


def precision(requested: str, device: torch.device) -> str:
    """bf16 where the device gains by it, which is measured on a processor."""
    if requested != "auto":
        return requested
    if device.type == "cuda":
        gains = torch.cuda.is_bf16_supported()
    else:
        gains = device.type == "cpu" and faster_in_half(_seconds_of_convolution)
    return "bf16-mixed" if gains else "32-true"


def faster_in_half(seconds: Callable[[torch.dtype], float]) -> bool:
    """Whether convolutions with 16 bits clearly take less time.

    Processors with matrix units for bf16 (AMX) are some five times as fast with it; others emulate
    it, up to a thousand times more slowly: they are found out at the first try.

    Args:
        seconds: That a piece of work takes with a number format.
    """
    seconds(torch.float32)  # the first warms up
    usual = min(seconds(torch.float32) for _ in range(_ROUNDS))
    if seconds(torch.bfloat16) > _HOPELESS * usual:
        return False
    return min(seconds(torch.bfloat16) for _ in range(_ROUNDS)) < _CLEARLY * usual


def _seconds_of_convolution(dtype: torch.dtype) -> float:
    """Of one convolution of small volumes, forward and backward, on one core.

    Of 16, for PyTorch computes fewer another way where there is one thread.
    """
    image = torch.zeros(16, 32, 8, 8, 8, dtype=dtype, requires_grad=True)
    weight = torch.zeros(32, 32, 3, 3, 3, dtype=dtype, requires_grad=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # other programs' work disturbs one thread least
    try:
        started = time.perf_counter()
        output = torch.conv3d(image, weight, padding=1)
        torch.autograd.grad(output, (image, weight), torch.zeros_like(output))
        return time.perf_counter() - started
    finally:
        torch.set_num_threads(threads)


def fabric(device: torch.device, precision: Any) -> Fabric:
    """Fabric on one device; what it would say of the precision, the plan says."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
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
