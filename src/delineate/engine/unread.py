"""What steps leave on a device, read for several steps at once: every reading waits for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Step:
    """What there is to say of a step.

    Args:
        numbers: For the log; tensors are scalars.
        fault: Whether it was left out, not being finite; None: it was not.
        reason: Why it was.
        head: What its line in the log begins with.
    """

    numbers: dict[str, float | Tensor]
    fault: Tensor | None = None
    reason: str = "the loss or a gradient is not finite"
    head: Mapping[str, Any] = field(default_factory=dict)


def read(steps: list[Step]) -> list[tuple[dict[str, float], bool]]:
    """Numbers of each step, and whether it was left out; waits for the device once."""
    asked = [value for step in steps for value in (*step.numbers.values(), step.fault)]
    tensors = [value.detach().float() for value in asked if isinstance(value, Tensor)]
    device = next((t.device for t in tensors if t.device.type != "cpu"), torch.device("cpu"))
    values = iter(torch.stack([t.to(device) for t in tensors]).tolist() if tensors else ())
    found = []
    for step in steps:
        numbers = {
            name: float(next(values)) if isinstance(value, Tensor) else value
            for name, value in step.numbers.items()
        }
        found.append((numbers, step.fault is not None and bool(next(values))))
    return found
