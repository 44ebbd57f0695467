"""What a training loop is fed with."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from delineate.core.image import Grid
from delineate.preprocess.presets import Channel, Preparation
from delineate.settings import RunConfig
from delineate.targets._outline_feed import Feed


@dataclass
class Prepared:
    image: NDArray[np.float32]
    label: NDArray[np.uint8]
    samples: dict[int, NDArray[Any]]
    grid: Grid

    @property
    def shape(self) -> tuple[int, ...]:
        return self.image.shape


def case() -> Prepared:
    label = np.zeros((12, 14, 10), np.uint8)
    label[4:8, 4:9, 2:8] = 1
    grid = Grid(label.shape, np.diag([0.5, 2.0, 3.0, 1.0]))
    return Prepared(label[None].astype(np.float32), label, {1: np.argwhere(label)}, grid)


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize(
    ("axis", "patch", "spacing"),
    [(None, (8, 8, 8), (0.5, 2.0, 3.0)), (2, (8, 8), (0.5, 2.0)), (0, (8, 8), (2.0, 3.0))],
)
def test_a_batch_knows_the_spacing_of_its_patch(
    augment: bool, axis: int | None, patch: tuple[int, ...], spacing: tuple[float, ...]
) -> None:
    prepared: Any = [case()]
    preparation = Preparation(
        (Channel("mr", "MR", "zscore"),), 3 if axis is None else 2, slice_axis=axis
    )
    feed = Feed(prepared, RunConfig(augment=augment), preparation, patch, 2, (), 0)
    batch = feed(0, 0, 1)
    assert batch.label.shape == (2, *patch)
    assert batch.spacing_mm == pytest.approx(spacing)


def test_a_batch_depends_on_nothing_but_the_seed_and_the_step() -> None:
    """Neither on PyTorch's global generator, nor on the thread: batches are made ahead."""
    prepared: Any = [case()]
    preparation = Preparation((Channel("mr", "MR", "zscore"),), 3)
    feed = Feed(prepared, RunConfig(augment=True), preparation, (8, 8, 8), 4, (0, 1), 0)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    here = [feed(step, 0, 1) for step in range(4)]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    with ThreadPoolExecutor(2) as threads:
        there = list(threads.map(feed, range(4), [0] * 4, [1] * 4))
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.label, other.label)
