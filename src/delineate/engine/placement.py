"""Where a module's weights lie, and in which order."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric
from torch import nn

#: Order of memory that convolutions of so many dimensions, batch and channels included, prefer.
_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def place(module: nn.Module, fabric: Fabric) -> None:
    """Move a module to the device, in place, in the order of memory that is fastest there.

    On processors with matrix units for 16 bits, convolutions whose channels lie last are half as
    fast again (docs/LOG.md); features follow the weights. With 32 bits there was nothing to gain.
    """
    module.to(fabric.device)
    with fabric.autocast():
        in_half = torch.is_autocast_enabled("cpu")
    if in_half and fabric.device.type == "cpu":
        _reorder(module, _LAST)


def restore(module: nn.Module) -> None:
    """Move a module to the processor, its weights in the usual order of memory, in place."""
    module.cpu()
    _reorder(module, dict.fromkeys(_LAST, torch.contiguous_format))


def _reorder(module: nn.Module, formats: dict[int, torch.memory_format]) -> None:
    for parameter in module.parameters():
        if parameter.ndim in formats:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.ndim])
