"""The engine's side of a method's step: backward, accumulate, clip, step, guard."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer


class NotFiniteError(ArithmeticError):
    """A loss or a gradient is NaN or infinite; the loop decides what to do."""


@dataclass
class EngineUpdate:
    """Called by a method's step once an optimiser; see ``methods._plan.Update``.

    Gradient goes only into the parameters of the optimiser at hand.
    """

    fabric: Fabric
    averaged: nn.Module
    accumulate: int
    clip: float
    progress: float = 0.0
    micro: int = 0
    norms: dict[int, Tensor] = field(default_factory=dict)
    finite: list[Tensor] = field(default_factory=list)

    @property
    def last(self) -> bool:
        """Whether this micro-batch is the one after which optimisers step."""
        return self.micro >= self.accumulate - 1

    def __call__(self, optimiser: Optimizer, loss: Tensor) -> None:
        """Backward; at the last micro-batch also clip and step.

        The device is asked once, before the step, whether gradient and all losses so far are
        finite: each question makes a GPU wait.

        Raises:
            NotFiniteError: Before the optimiser has changed anything.
        """
        self.finite.append(torch.isfinite(loss.detach()))
        parameters = [p for g in optimiser.param_groups for p in g["params"] if p.requires_grad]
        self.fabric.backward(loss / self.accumulate, inputs=parameters)
        if not self.last:
            return
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.clip)
        norm = norm.to(loss.device)  # not there yet where no parameter has a gradient
        *losses, gradient = torch.stack([*self.finite, torch.isfinite(norm)]).tolist()
        if not all(losses):
            raise NotFiniteError("the loss is not finite")
        if not gradient:
            raise NotFiniteError("a gradient is not finite")
        self.norms[id(optimiser)] = norm
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)


@torch.no_grad()
def average(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    """Move averaged weights towards those of a network; counters are copied.

    Args:
        averaged: Of the same shape as ``network``; changed in place.
        network: As the last step left it.
        decay: What stays of the average, 0 to 1.
    """
    pairs = list(zip(averaged.state_dict().values(), network.state_dict().values(), strict=True))
    means = [mean for mean, _ in pairs if mean.is_floating_point()]
    now = [value for _, value in pairs if value.is_floating_point()]
    if means:
        torch._foreach_lerp_(means, now, 1 - decay)
    for mean, value in pairs:
        if not mean.is_floating_point():
            mean.copy_(value)
