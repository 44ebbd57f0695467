"""What a training loop is fed with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
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
