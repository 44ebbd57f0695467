"""Where a run computes, and how precisely."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning_fabric import Fabric

from delineate.core import memory
from delineate.methods._plan import Plan
from delineate.networks._precision import half_is_faster, put_channels_last

#: Fewer threads are taken if they need less than this share of the time.
_CLEARLY = 0.75
#: Pieces of work that threads are timed with.
_TRIES = 12


def precision(requested: str, device: torch.device) -> str:
    """bf16 where the device gains by it, which is measured on a processor."""
    if requested != "auto":
        return requested
    gains = torch.cuda.is_bf16_supported() if device.type == "cuda" else half_is_faster(device)
    return "bf16-mixed" if gains else "32-true"


def fabric(device: torch.device, precision: Any) -> Fabric:
    """Fabric on one device; what it would say of the precision, the plan says."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    if device.type == "cuda":
        return Fabric(accelerator="cuda", devices=[device.index or 0], precision=precision)
    return Fabric(accelerator=device.type, devices=1, precision=precision)


def place(plan: Plan, fabric: Fabric) -> None:
    """Move the modules of a plan to the device, in the order of memory that is fastest there.

    With 32 bits on a processor there was nothing to gain by another order (docs/LOG.md). Adam and
    AdamW step in one call for all weights. On a processor this process keeps the memory that steps
    free.
    """
    if fabric.device.type == "cpu":
        memory.keep_freed()
    for optimiser in (o for stage in plan.stages for o in stage.optimisers.values()):
        if isinstance(optimiser, torch.optim.Adam | torch.optim.AdamW):
            for group in optimiser.param_groups:
                group |= {"fused": True, "foreach": False}
            optimiser.register_load_state_dict_post_hook(_order_like_weights)
    with fabric.autocast():
        in_half = torch.is_autocast_enabled("cpu")
    modules = {id(m): m for stage in plan.stages for m in stage.modules.values()}
    for module in {**modules, id(plan.predictor): plan.predictor}.values():
        module.to(fabric.device)
        if in_half and fabric.device.type == "cpu":
            put_channels_last(module)


def _order_like_weights(optimiser: torch.optim.Optimizer) -> None:
    """Order averages of gradients in memory as their weights are: fused steps rely on it.

    A checkpoint has them in the usual order.
    """
    for weight, values in optimiser.state.items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                values[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


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
