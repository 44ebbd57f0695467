"""Batches made ahead in threads, while a device trains on earlier ones."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import replace
from typing import Any

from torch import Tensor

from delineate.core.case import Batch

#: Batches: (step, micro-batch, divisor of the batch size) -> Batch. Pure, so that steps can be
#: replayed, and made ahead: it draws from generators of its own, never from PyTorch's global one.
Batches = Callable[[int, int, int], Batch]
_Key = tuple[int, int, int]


class Prefetch:
    """The same batches, those that should come next begun beforehand.

    Others than expected may be asked for, after a roll-back or with half the batch: those begun
    are then dropped. What fails ahead is raised when its batch is asked for.

    Args:
        batches: Makes them.
        threads: Where they are made.
        depth: How many are made ahead.
        micro: Micro-batches of a step with the whole batch.
        pinned: Leave them where a device can fetch them by itself.
    """

    def __init__(
        self, batches: Batches, threads: Executor, depth: int, micro: int, *, pinned: bool = False
    ) -> None:
        self.batches, self.threads, self.depth = batches, threads, depth
        self.micro, self.pinned = micro, pinned
        self.begun: dict[_Key, Future[Batch]] = {}

    def __call__(self, step: int, micro: int, split: int) -> Batch:
        """See ``Batches``."""
        key = step, micro, split
        if key not in self.begun:
            for batch in self.begun.values():
                batch.cancel()
            self.begun = {key: self._begin(key)}
        wanted, following = self.begun.pop(key), key
        for _ in range(self.depth):
            following = self._after(*following)
            if following not in self.begun:
                self.begun[following] = self._begin(following)
        return wanted.result()

    def _after(self, step: int, micro: int, split: int) -> _Key:
        if micro + 1 < self.micro * split:
            return step, micro + 1, split
        return step + 1, 0, split

    def _begin(self, key: _Key) -> Future[Batch]:
        return self.threads.submit(self._make, key)

    def _make(self, key: _Key) -> Batch:
        batch = self.batches(*key)
        return pinned(batch) if self.pinned else batch


def pinned(batch: Batch) -> Batch:
    """The batch in memory from which a device copies while others compute."""
    tensors: dict[str, Any] = {
        name: part.pin_memory() for name, part in vars(batch).items() if isinstance(part, Tensor)
    }
    return replace(batch, **tensors)
