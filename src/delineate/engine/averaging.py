"""The moving average of a predictor's weights, and buffers that a failed step must not change."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Buffers:
    """Counters and running statistics of modules; a module may put others in their place.

    Args:
        modules: With all that is in them.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        parts = dict.fromkeys(part for module in modules for part in module.modules())
        self._homes = [part._buffers for part in parts]
        self._saved: list[tuple[dict[str, Tensor | None], str, Tensor]] = []

    def save(self) -> None:
        """Remember them as they are."""
        self._saved = [
            (home, name, buffer.clone())
            for home in self._homes
            for name, buffer in home.items()
            if buffer is not None
        ]

    @torch.no_grad()
    def restore(self, where: Tensor | None = None) -> None:
        """Bring back what was saved.

        Args:
            where: Only if this scalar of a device is true, which is not waited for.
        """
        for home, name, saved in self._saved:
            if (buffer := home[name]) is not None:
                buffer.copy_(saved if where is None else torch.where(where, saved, buffer))


class Average:
    """The moving average of a network: ``module``, in evaluation mode, without gradients."""

    def __init__(self, network: nn.Module) -> None:
        self.module = copy.deepcopy(network).eval().requires_grad_(False)
        self.follow(network)

    def follow(self, network: nn.Module) -> None:
        """Average the weights of ``network`` from here on; again wherever they were exchanged."""
        self._means: list[Tensor] = list(self.module.parameters())
        self._now: list[Tensor] = list(network.parameters())
        parts = zip(self.module.modules(), network.modules(), strict=True)
        self._homes = [(mean, now) for mean, now in parts if now._buffers]

    @torch.no_grad()
    def update(self, weight: float) -> None:
        """Move by ``weight``, 0 to 1, towards the network as it is; counters are copied."""
        means, now = list(self._means), list(self._now)
        for mean_part, part in self._homes:
            for name, buffer in part._buffers.items():
                mean = mean_part._buffers[name]
                if buffer is None or mean is None or name in part._non_persistent_buffers_set:
                    continue
                if buffer.is_floating_point():
                    means.append(mean)
                    now.append(buffer)
                else:
                    mean.copy_(buffer)
        if means:
            torch._foreach_lerp_(means, now, weight)
