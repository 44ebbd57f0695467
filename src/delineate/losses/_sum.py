"""Any weighted sum of segmentation losses, made from settings.

A loss that can be a term is a file with a ``Config`` (a ``Term``), a function ``loss(logits, label,
config, spacing_mm)`` and a ``KIND`` that says what it looks at:

- ``output``: every output of deep supervision, weights 1, 1/2, 1/4 ... normalised;
- ``finest``: the finest output alone. Distances and skeletons are about the surface itself: on a
  grid twice as coarse a surface is off by up to a voxel and a thin vessel is gone, and the coarser
  outputs are there to send gradient into deep layers, which overlap losses do;
- ``head``: a head of signed distances beside the logits, for methods that offer one.

A term may wait (``warm_up``) and rise slowly (``ramp``). The weight of a ``relative`` term says how
large its gradient at the finest logits is, against that of all plain terms together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from delineate.core import catalog
from delineate.core import config as settings
from delineate.core.errors import ConfigError
from delineate.losses import cross_entropy, dice
from delineate.losses._common import Term

#: Name of a loss -> its settings, or its weight alone.
Losses = Mapping[str, Term | float | Mapping[str, Any]]
#: The reference (Isensee et al. 2021).
DEFAULT: Losses = {"dice": dice.Config(), "cross_entropy": cross_entropy.Config()}


def build(losses: Losses, head: bool = False) -> Sum:
    """A weighted sum.

    Args:
        losses: For instance ``{"dice": 1, "focal": {"weight": 0.5, "gamma": 3}}``.
        head: Whether the caller offers a head of signed distances.

    Raises:
        ConfigError: A name or a setting is unknown, or nothing would teach the logits at first.
    """
    terms: dict[str, tuple[ModuleType, Term]] = {}
    for name, chosen in losses.items():
        module, title = catalog.load("losses", name), catalog.title(name)
        if title in terms:
            raise ConfigError(
                f"expected losses of different names, got two called {title!r}",
                where="losses",
                fix="rename your file: logs tell losses apart by name",
                code="name-twice",
            )
        kind = getattr(module, "KIND", None)
        if kind is None or (kind == "head" and not head):
            expected = "segmentation losses" if kind is None else "losses that look at the logits"
            raise ConfigError(
                f"expected {expected}, got {name!r}",
                where="losses",
                fix="leave it out" + (", or use method: supervised" if kind else ""),
                code="not-a-term",
            )
        options = chosen if isinstance(chosen, Mapping | Term) else {"weight": chosen}
        term = (
            options
            if isinstance(options, Term)
            else settings.from_dict(options, module.Config, f"losses.{name}")
        )
        if term.weight > 0:
            terms[title] = module, term
    if not any(m.KIND != "head" and not t.warm_up for m, t in terms.values()):
        raise ConfigError(
            f"expected a loss of the logits that acts from the start, got {list(terms)}",
            where="losses",
            fix="add dice: 1 and cross_entropy: 1",
            code="no-loss",
        )
    return Sum(terms)


@dataclass(frozen=True)
class Sum:
    """What ``build`` makes.

    Args:
        terms: Name -> the loss's file and its settings.
    """

    terms: Mapping[str, tuple[ModuleType, Term]]

    @property
    def needs_head(self) -> bool:
        """Whether a head of signed distances is wanted."""
        return any(module.KIND == "head" for module, _ in self.terms.values())

    def __call__(
        self,
        logits: Tensor | Sequence[Tensor],
        label: Tensor,
        spacing_mm: Sequence[float] | None = None,
        progress: float = 1.0,
        distances: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum, and each term before it is weighed (on the finest output), for the log.

        Args:
            logits: ``(B, C, *S)``, or several with the finest first.
            label: ``(B, *S)`` indices at the finest resolution.
            spacing_mm: Of the axes ``S``; ones if not given.
            progress: 0 to 1; terms may wait and ramp in.
            distances: ``(B, C - 1, *S)`` output of the head, if there is one.
        """
        spacing = tuple(spacing_mm or (1.0,) * (label.ndim - 1))
        finest = logits if isinstance(logits, Tensor) else logits[0]
        logged: dict[str, Tensor] = {}

        def value(name: str, output: Tensor, truth: Tensor) -> Tensor:
            module, term = self.terms[name]
            loss: Tensor = module.loss(output, truth, term, spacing)
            logged.setdefault(f"loss_{name}", loss.detach())
            return loss

        def weighted(kind: str, output: Tensor, truth: Tensor) -> Tensor:
            output = output.float()  # sums over a patch need more than 8 or 11 bits
            total = output.new_zeros(())
            for name in self._now(progress, kind, relative=False):
                weight = self.terms[name][1].weight_at(progress)
                total = total + weight * value(name, output, truth)
            return total

        base = deeply_supervised(partial(weighted, "output"), logits, label) + weighted(
            "finest", finest, label
        )
        total = base
        for kind, outputs in (("output", logits), ("finest", finest)):
            for name in self._now(progress, kind, relative=True):
                scaled_loss = deeply_supervised(partial(value, name), outputs, label)
                factor = self.terms[name][1].weight_at(progress) * _ratio(base, scaled_loss, finest)
                logged[f"factor_{name}"] = factor
                total = total + factor * scaled_loss
        if distances is not None:
            total = total + weighted("head", distances, label)
        return total, logged

    def _now(self, progress: float, kind: str, relative: bool) -> list[str]:
        """Terms of a kind that have joined by now."""
        return [
            name
            for name, (module, term) in self.terms.items()
            if kind == module.KIND and progress >= term.warm_up and relative == term.relative
        ]


def _ratio(base: Tensor, loss: Tensor, logits: Tensor) -> Tensor:
    """The factor that gives ``loss`` as large a gradient at the logits as ``base`` has.

    One where there is no base, or nothing is being trained.
    """
    if not base.requires_grad:
        return base.new_ones(())
    (base_gradient,) = torch.autograd.grad(base, logits, retain_graph=True)
    (loss_gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
    ratio: Tensor = base_gradient.float().norm() / loss_gradient.float().norm().clamp_min(1e-12)
    return ratio


def deeply_supervised(
    loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor | Sequence[Tensor], label: Tensor
) -> Tensor:
    """A loss over deep supervision's outputs, weights 1, 1/2, 1/4 ... normalised.

    Args:
        loss: Loss of one output and labels of its size.
        logits: One tensor, or several with the finest first.
        label: ``(B, *S)`` indices at the finest resolution.
    """
    if isinstance(logits, Tensor):
        return loss(logits, label)
    weights = [0.5**i for i in range(len(logits))]
    total = logits[0].new_zeros(())
    for weight, output in zip(weights, logits, strict=True):
        size = output.shape[2:]
        resized = F.interpolate(label.unsqueeze(1).float(), size=size, mode="nearest")[:, 0]
        total = total + weight / sum(weights) * loss(output, resized)
    return total
