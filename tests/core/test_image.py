"""Grids and images: what exists is valid."""

from __future__ import annotations

import numpy as np
import pytest

from delineate.core.errors import GeometryError
from delineate.core.image import Grid, Image, flat_grid


def test_spacing_is_the_length_of_the_affine_columns() -> None:
    # A quarter turn about z, 2 x 3 x 4 mm.
    affine = np.array([[0, -3, 0, 5], [2, 0, 0, 6], [0, 0, 4, 7], [0, 0, 0, 1]])
    assert Grid((8, 8, 8), affine).spacing_mm == (2, 3, 4)


def test_a_sheared_voxel_is_as_large_as_its_determinant() -> None:
    # 20 degrees of gantry tilt: slices are 5 mm apart along the normal, 5.32 mm along the axis.
    affine = np.diag([0.5, 0.5, 5.0, 1.0])
    affine[1, 2] = 5 * np.tan(np.radians(20))
    grid = Grid((20, 20, 6), affine)
    assert grid.spacing_mm[2] == pytest.approx(5.321, abs=1e-3)
    assert grid.voxel_ml == pytest.approx(0.00125)
    assert np.isnan(flat_grid((4, 5), (0.5, 0.5)).voxel_ml)


def test_two_grids_differ_by_their_furthest_corner() -> None:
    grid = Grid((11, 5, 5), np.eye(4))
    wider = Grid((11, 5, 5), np.diag([1.01, 1, 1, 1]))
    assert grid.difference_mm(wider) == pytest.approx(0.1)  # voxel 10 of 0..10, 1 % further out
    assert not grid.same_as(wider)
    assert grid.same_as(Grid((11, 5, 5), np.diag([1.00009, 1, 1, 1])))
    assert grid.difference_mm(Grid((5, 11, 5), np.eye(4))) == np.inf


def test_what_six_digits_of_a_text_header_lose_is_no_other_place() -> None:
    """A whole-body CT: 512 x 512 x 150 voxels of 0.7 x 0.7 x 5 mm, oblique, far from the origin."""
    a, b = np.radians([7.3, 23.7])
    tilt = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    turn = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ tilt * (0.7031249, 0.7031249, 5)
    affine[:3, 3] = -249.51171875, -149.51171875, -1345.71234
    text = np.array([[float(f"{x:.6g}") for x in row] for row in affine])
    shape = (512, 512, 150)
    exact, rounded = Grid(shape, affine), Grid(shape, text)
    assert 1e-3 < exact.difference_mm(rounded) < 0.01
    assert exact.same_as(rounded)
    assert rounded.same_as(exact)
    elsewhere = affine.copy()
    elsewhere[0, 3] += 0.05
    assert not exact.same_as(Grid(shape, elsewhere))
    assert not Grid((40, 40, 20), np.eye(4)).same_as(
        Grid((40, 40, 20), np.eye(4) + np.eye(4)[:, [3, 0, 1, 2]] * 0.002)
    )


@pytest.mark.parametrize(
    ("shape", "affine", "message"),
    [
        ((4,), np.eye(4), "2 or 3 positive sizes"),
        ((4, 0), np.eye(4), "2 or 3 positive sizes"),
        ((4, 4, 4), np.eye(3), "finite 4x4"),
        ((4, 4, 4), np.full((4, 4), np.nan), "finite 4x4"),
        ((4, 4, 4), np.diag([1, 1, 0, 1]), "singular"),
    ],
)
def test_a_grid_that_lies_nowhere_cannot_be_made(
    shape: tuple[int, ...], affine: np.ndarray, message: str
) -> None:
    with pytest.raises(GeometryError, match=message):
        Grid(shape, affine)


def test_an_image_must_fill_its_grid() -> None:
    with pytest.raises(GeometryError, match="expected an array"):
        Image(np.zeros((1, 4, 5)), flat_grid((5, 4)))


def test_a_step_is_recorded_and_the_old_image_stays() -> None:
    image = Image(np.zeros((2, 4, 5)), flat_grid((4, 5), (0.5, 0.5)))
    after = image.with_step("scale", image.array + 1, factor=2)
    assert after.history == ({"step": "scale", "factor": 2},)
    assert image.history == ()
    assert image.array.max() == 0
    assert after.channels == 2
    assert after.spacing_mm == (0.5, 0.5)


def test_a_flat_image_says_what_it_does_not_know() -> None:
    assert not flat_grid((4, 5)).spacing_known
    assert not flat_grid((4, 5)).oriented
    assert flat_grid((4, 5), (0.2, 0.2)).spacing_known
