"""Where a run computes, and how precisely."""

from __future__ import annotations

from typing import Any

import torch
from lightning_fabric import Fabric


def precision(wanted: str, device: torch.device) -> str:
    """bf16 where the device gains by it; never on a CPU unless asked for."""
    if wanted != "auto":
        return wanted
    gains = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return "bf16-mixed" if gains else "32-true"


def fabric(device: torch.device, precision: Any) -> Fabric:
    """Fabric on one device."""
    if device.type == "cuda":
        return Fabric(accelerator="cuda", devices=[device.index or 0], precision=precision)
    return Fabric(accelerator=device.type, devices=1, precision=precision)
