"""What slices are worth by the labels on them, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from delineate.core.schema import IGNORED
from delineate.preprocess import thickness
from delineate.preprocess.thickness import Thickness


def box(shape: tuple[int, ...], value: int = 1, margin: int = 2) -> np.ndarray:
    return np.pad(np.full(shape, value, np.uint8), margin)


def ball(spacing: tuple[float, ...], radius: float = 20.0) -> np.ndarray:
    axes = [np.arange(-radius - mm, radius + 2 * mm, mm) for mm in spacing]
    distance = np.sqrt(sum(mm**2 for mm in np.meshgrid(*axes, indexing="ij")))
    return (distance <= radius).astype(np.uint8)


def test_a_box_is_worked_by_hand() -> None:
    # Of n planes n - 1 are left after a step: 3 of 4 across, and 9 of 12 after three in plane.
    found = thickness.of_label(box((4, 12, 12)))
    assert found is not None
    assert found.pixels == pytest.approx((3, 0.5, 0.5))
    assert (found.axis, found.largest) == (0, pytest.approx(3))


@pytest.mark.parametrize("ratio", [1, 2, 3, 5])
@pytest.mark.parametrize("axis", [0, 2])
def test_a_ball_in_thick_slices_says_how_thick_they_are(ratio: int, axis: int) -> None:
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = ratio
    found = thickness.of_label(ball(tuple(spacing)))
    assert found is not None
    assert found.pixels[axis] == pytest.approx(ratio, rel=0.1)
    assert ratio == 1 or found.axis == axis


def test_structures_count_alike_and_what_nobody_annotated_does_not() -> None:
    both = np.concatenate([box((4, 12, 12)), box((2, 12, 12), 3)])
    found = thickness.of_label(both)
    assert found is not None
    # after a step across (3/4 + 1/2) / 2 is left, as after 4.5 of 12 in plane
    assert found.pixels[0] == pytest.approx(4.5)
    with_unknown = both.copy()
    with_unknown[both == 0] = IGNORED
    assert thickness.of_label(with_unknown) == found


def test_nothing_drawn_has_no_thickness_and_one_plane_has_one() -> None:
    assert thickness.of_label(np.zeros((4, 5, 6), np.uint8)) is None
    assert thickness.of_label(np.full((4, 5, 6), IGNORED, np.uint8)) is None
    single = thickness.of_label(box((1, 9, 9)))
    assert single is not None
    assert single.pixels[0] == 9


def test_a_cohort_has_the_median_of_its_cases() -> None:
    cases = [Thickness((n, 0.5, 1.0)) for n in (1, 2, 9)]
    assert thickness.median(cases) == Thickness((2.0, 0.5, 1.0), 3)
    assert thickness.median([]) is None
    hair = Thickness((2.04, 0.5, 1.0))
    assert thickness.median([hair]) == thickness.median(cases[1:2])
