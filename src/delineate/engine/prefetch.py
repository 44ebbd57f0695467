"""The batch of the next step, made in a thread of its own while the present step computes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from delineate.core.case import Batch

#: (step, micro-batch, divisor of the batch size) -> Batch. Pure, so that steps can be replayed and
#: batches made ahead: random numbers come from generators of its own, never from PyTorch's global.
Batches = Callable[[int, int, int], Batch]


@contextmanager
def made_ahead(batches: Batches, accumulate: int, device: torch.device) -> Iterator[Batches]:
    """The same batches, of which the one that should come next is begun beforehand.

    Where another is asked for, after a roll-back or with half the batch, the one that was begun is
    dropped. Memory holds one batch more. What making a batch raises, asking for it raises.

    All batches are made in one thread, which computes on one core: a batch does not depend on how
    many the network computes on. The thread ends with the ``with`` block, which waits for a batch
    that is being made.

    Args:
        batches: Makes them.
        accumulate: Micro-batches of a step with the whole batch.
        device: Where they are going: for a GPU they are left in memory that it copies from by
            itself.
    """
    pending: dict[tuple[int, int, int], Future[Batch]] = {}
    thread = ThreadPoolExecutor(1, "batches")

    def make(*key: int) -> Batch:
        batch = batches(*key)
        return _each(batch, Tensor.pin_memory) if device.type == "cuda" else batch

    def take(step: int, micro: int, split: int) -> Batch:
        future = pending.pop((step, micro, split), None)
        for dropped in pending.values():
            dropped.cancel()
        pending.clear()
        batch = (future or thread.submit(make, step, micro, split)).result()
        last = micro + 1 == accumulate * split
        following = (step + 1, 0, split) if last else (step, micro + 1, split)
        pending[following] = thread.submit(make, *following)
        return batch

    try:
        thread.submit(_on_one_core).result()
        torch.set_num_threads(torch.get_num_threads())  # of threads that are still to come
        yield take
    finally:
        thread.shutdown(cancel_futures=True)


def _on_one_core() -> None:
    """Compute on one core in this thread from here on."""
    torch.get_num_threads()  # PyTorch gives a thread the usual number when it is first used there
    torch.set_num_threads(1)


def on_device(batch: Batch, fabric: Fabric) -> Batch:
    """The batch where the network computes; out of pinned memory without waiting for the copy."""
    return _each(batch, fabric.to_device)


def _each(batch: Batch, change: Callable[[Tensor], Any]) -> Batch:
    """The batch with its tensors changed, as it is: made anew, it would be masked once more."""
    changed = copy.copy(batch)
    for name, part in vars(batch).items():
        if isinstance(part, Tensor):
            object.__setattr__(changed, name, change(part))
    return changed
