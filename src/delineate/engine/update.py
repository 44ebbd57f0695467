"""The engine's side of a method's step: backward, accumulate, clip, step, guard."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer


class NotFiniteError(ArithmeticError):
    """A loss or a gradient is NaN or infinite; the loop decides what to do."""


@dataclass
class EngineUpdate:
    """Called by a method's step once an optimiser; see ``methods._plan.Update``.

    Gradient goes only into the parameters of the optimiser at hand. Where ``waits`` is false and
    the optimiser is fused, the device itself leaves out a step that is not finite, and ``fault``
    says so to whoever reads it later.
    """

    fabric: Fabric
    averaged: nn.Module
    accumulate: int
    clip: float
    progress: float = 0.0
    micro: int = 0
    waits: bool = True
    norms: dict[int, Tensor] = field(default_factory=dict)
    #: Whether something was not finite, of a device that was not waited for.
    fault: Tensor | None = None

    @property
    def last(self) -> bool:
        """Whether this micro-batch is the one after which optimisers step."""
        return self.micro >= self.accumulate - 1

    def __call__(self, optimiser: Optimizer, loss: Tensor) -> None:
        """Backward; at the last micro-batch also clip and step.

        Raises:
            NotFiniteError: Before the optimiser has changed anything.
        """
        waits = self.waits or not is_fused(optimiser)
        self._check(loss, "the loss is not finite", waits)
        parameters = [p for g in optimiser.param_groups for p in g["params"] if p.requires_grad]
        self.fabric.backward(loss / self.accumulate, inputs=parameters)
        if not self.last:
            return
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.clip)
        self._check(norm, "a gradient is not finite", waits)
        self.norms[id(optimiser)] = norm
        if not waits and self.fault is not None:
            cast(Any, optimiser).found_inf = self.fault.float()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    def _check(self, value: Tensor, message: str, waits: bool) -> None:
        """Note that a value is not finite, or refuse it at once."""
        fault = torch.isfinite(value.detach()).logical_not()
        if self.fault is not None:
            fault = fault | self.fault
        if not waits:
            self.fault = fault
        elif bool(fault):
            raise NotFiniteError(message)


def fuse(optimiser: Optimizer) -> None:
    """Have Adam and AdamW step in one kernel, which changes nothing where ``found_inf`` is 1.

    Before their first step. Others stay as they are: they are waited for.
    """
    if isinstance(optimiser, Adam | AdamW):
        for group in optimiser.param_groups:
            group["fused"] = True


def is_fused(optimiser: Optimizer) -> bool:
    """Whether ``fuse`` has had an effect."""
    return isinstance(optimiser, Adam | AdamW) and all(
        group["fused"] for group in optimiser.param_groups
    )
