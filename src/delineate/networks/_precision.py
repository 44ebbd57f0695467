"""With how many bits a device computes best, and in which order of memory.

Processors with matrix units for bf16 (AMX) are some five times as fast with it, and half as fast
again where channels lie last (docs/LOG.md). Others emulate it, up to a thousand times more slowly,
so it is measured.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import torch
from torch import nn

#: 16 bits are taken if they need less than this share of the time.
_CLEARLY = 0.75
#: Times that a number format is tried; one that takes so many times as long at first, only once.
_ROUNDS, _HOPELESS = 3, 20
#: By number of dimensions, batch and channels included.
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def half_is_faster(device: torch.device) -> bool:
    """Whether the device is a processor that convolves clearly faster with 16 bits."""
    return device.type == "cpu" and measured()


@functools.cache
def measured() -> bool:
    """What this processor does, measured once a process."""
    return not _surely_without() and faster_in_half(_seconds_of_convolution)


def _surely_without() -> bool:
    """Whether the processor says that it has no matrix units; a fifth of a second is saved."""
    says = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return says.get("architecture") == "x86_64" and not says.get("amx_bf16", True)


def faster_in_half(seconds: Callable[[torch.dtype], float]) -> bool:
    """Whether convolutions with 16 bits clearly take less time.

    Emulation is found out at the first try.

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
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # other programs' work disturbs one thread least
    try:
        with torch.inference_mode(False), torch.enable_grad():
            image = torch.zeros(16, 32, 8, 8, 8, dtype=dtype, requires_grad=True)
            weight = torch.zeros(32, 32, 3, 3, 3, dtype=dtype, requires_grad=True)
            started = time.perf_counter()
            output = torch.conv3d(image, weight, padding=1)
            torch.autograd.grad(output, (image, weight), torch.zeros_like(output))
            return time.perf_counter() - started
    finally:
        torch.set_num_threads(threads)


def put_channels_last(module: nn.Module) -> None:
    """Order the weights of convolutions in memory so, in place; features follow them."""
    for parameter in module.parameters():
        if parameter.ndim in _CHANNELS_LAST:
            order = _CHANNELS_LAST[parameter.ndim]
            parameter.data = parameter.data.contiguous(memory_format=order)
