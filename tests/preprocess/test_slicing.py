"""Volumes or slices: what decides, in which order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from delineate.core.image import Grid, flat_grid
from delineate.preprocess import slicing
from delineate.preprocess.thickness import Thickness


def grid(shape: tuple[int, ...], spacing: tuple[float, ...]) -> Grid:
    return Grid(shape, np.diag([*spacing, 1.0]))


def thick(pixels: float, axis: int = 2) -> Thickness:
    by_axis = [0.5, 0.5, 0.5]
    by_axis[axis] = pixels
    return Thickness(tuple(by_axis), 24)


FEW, MANY = grid((256, 256, 10), (1, 1, 6)), grid((256, 256, 90), (1, 1, 6))
EVEN, UNKNOWN = grid((60, 60, 60), (1, 1, 1)), flat_grid((256, 256, 20))
BY_LABELS = "by the overlap of labels in 24 cases"


@pytest.mark.parametrize(
    ("volume", "measured", "axis", "reason"),
    [
        (FEW, thick(3.0), None, f"3D: one slice is worth 3.0 pixels, {BY_LABELS}"),
        (FEW, thick(3.1), 2, f"2D, slice by slice: one slice is worth 3.1 pixels, {BY_LABELS}"),
        (MANY, thick(4.5), 2, "worth 4.5 pixels"),
        (EVEN, thick(1.3), None, "worth 1.3 pixels"),
        (EVEN, thick(4.5, axis=0), 0, "worth 4.5 pixels"),
        (UNKNOWN, thick(6.9), 2, "worth 6.9 pixels"),
        (UNKNOWN, thick(1.5), 2, "the distance between slices is not known"),
        (UNKNOWN, None, 2, "the distance between slices is not known"),
        (FEW, None, 2, "10 slices of 6 mm, 6.0 times the pixel size"),
        (MANY, None, None, "3D: 6.0 times as coarse along the coarsest axis, 90 slices"),
    ],
)
def test_labels_decide_where_there_are_any_and_headers_elsewhere(
    volume: Grid, measured: Thickness | None, axis: int | None, reason: str
) -> None:
    cut = slicing.decide([volume] * 3, "auto", measured)
    assert cut.axis == axis
    assert reason in cut.reason


def test_single_slices_are_flat_whatever_was_measured() -> None:
    cut = slicing.decide([grid((64, 64, 1), (1, 1, 3))], "auto", thick(1.0))
    assert (cut.axis, cut.single) == (2, True)


@pytest.mark.parametrize("measured", [None, thick(4.5), thick(4.5, axis=1)])
@pytest.mark.parametrize("volume", [FEW, UNKNOWN])
def test_slices_that_were_decided_on_are_the_same_when_asked_for(
    volume: Grid, measured: Any
) -> None:
    decided = slicing.decide([volume], "auto", measured)
    asked = slicing.decide([volume], 2, measured)
    assert asked.axis == decided.axis
