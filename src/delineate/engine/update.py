"""The engine's side of a method's step: backward, accumulate, reduce, clip, step, guard."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim import Optimizer


class NotFiniteError(ArithmeticError):
    """A loss or a gradient is NaN or infinite; the loop decides what to do."""


@dataclass
class EngineUpdate:
    """Called by a method's step once an optimiser; see ``methods._plan.Update``.

    Gradient goes only into the parameters of the optimiser at hand, and is averaged over processes
    here, so methods hold bare modules and nothing wraps them.
    """

    fabric: Fabric
    accumulate: int
    clip: float
    progress: float = 0.0
    micro: int = 0
    norms: dict[int, float] = field(default_factory=dict)

    def __call__(self, optimiser: Optimizer, loss: Tensor) -> None:
        """Backward; at the last micro-batch also reduce, clip and step.

        Raises:
            NotFiniteError: Before the optimiser has changed anything.
        """
        if not bool(torch.isfinite(loss)):
            raise NotFiniteError("the loss is not finite")
        parameters = [p for g in optimiser.param_groups for p in g["params"] if p.requires_grad]
        self.fabric.backward(loss / self.accumulate, inputs=parameters)
        if self.micro < self.accumulate - 1:
            return
        if self.fabric.world_size > 1:
            _average(self.fabric, parameters)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.clip)
        if not bool(torch.isfinite(norm)):
            raise NotFiniteError("a gradient is not finite")
        self.norms[id(optimiser)] = float(norm)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)


def _average(fabric: Fabric, parameters: list[torch.nn.Parameter]) -> None:
    """Mean of the gradients over processes, in one message."""
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    mean = cast(Tensor, fabric.all_reduce(flat, reduce_op="mean"))
    offset = 0
    for parameter, gradient in zip(parameters, gradients, strict=True):
        size = gradient.numel()
        parameter.grad = mean[offset : offset + size].view_as(gradient).clone()
        offset += size
