"""Orientation, cropping, resampling, and the way home."""

from __future__ import annotations

import dataclasses
import itertools
import json
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray
from scipy import ndimage
from tests.preprocess.referee import home

from delineate.core.errors import GeometryError
from delineate.core.image import Grid, Image, flat_grid
from delineate.preprocess import crop, orient, presets, resample

ORIENTATIONS = [
    (axes, signs)
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def affine_of(axes: tuple[int, ...], signs: tuple[int, ...], spacing: Any = (1.0, 2.0, 3.0)) -> Any:
    affine = np.eye(4)
    affine[:3, :3] = 0
    for a, (body, sign) in enumerate(zip(axes, signs, strict=True)):
        affine[body, a] = sign * spacing[a]
    affine[:3, 3] = (-11.5, 7.25, 3.0)
    return affine


def volume(shape: tuple[int, ...] = (7, 6, 5), channels: int = 1, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).normal(size=(channels, *shape)).astype(np.float32)


def preparation(**options: Any) -> presets.Preparation:
    channel = presets.Channel("image", "MR", "zscore", {})
    return presets.Preparation(channels=(channel,), ndim=3, **options)


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_all_48_orientations_agree_with_nibabel(
    axes: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    array = volume()
    image = Image(array, Grid((7, 6, 5), affine_of(axes, signs)))
    turned = orient.to_ras(image)
    referee = nib.as_closest_canonical(nib.Nifti1Image(array[0], image.grid.affine))
    np.testing.assert_array_equal(turned.array[0], referee.get_fdata(dtype=np.float32))
    np.testing.assert_allclose(turned.grid.affine, referee.affine, atol=1e-9)
    assert nib.aff2axcodes(turned.grid.affine) == ("R", "A", "S")
    assert orient.ras_grid(image.grid).same_as(turned.grid)


@pytest.mark.parametrize("seed", range(20))
def test_oblique_grids_agree_with_nibabel(seed: int) -> None:
    generator = np.random.default_rng(seed)
    angles = generator.uniform(-30, 30, 3)
    euler = SimpleITK.Euler3DTransform((0, 0, 0), *(float(a) for a in np.deg2rad(angles)))
    affine = affine_of(*ORIENTATIONS[generator.integers(48)])
    affine[:3, :3] = np.reshape(euler.GetMatrix(), (3, 3)) @ affine[:3, :3]
    array = volume(seed=seed)
    turned = orient.to_ras(Image(array, Grid((7, 6, 5), affine)))
    referee = nib.as_closest_canonical(nib.Nifti1Image(array[0], affine))
    np.testing.assert_array_equal(turned.array[0], referee.get_fdata(dtype=np.float32))
    np.testing.assert_allclose(turned.grid.affine, referee.affine, atol=1e-9)


def test_images_without_a_place_in_the_body_are_left_alone() -> None:
    image = Image(volume(), flat_grid((7, 6, 5)))
    assert orient.to_ras(image) is image


def test_flat_oriented_images_keep_their_body_plane() -> None:
    # A sagittal picture: rows run to inferior, columns to posterior.
    affine = np.array([[0, 0, 1, 5], [0, -2, 0, 9], [-3, 0, 0, 4], [0, 0, 0, 1]], dtype=float)
    array = volume((4, 3))
    turned = orient.to_ras(Image(array, Grid((4, 3), affine)))
    assert turned.grid.shape == (3, 4)
    np.testing.assert_array_equal(turned.array[0], array[0].T[::-1, ::-1])
    np.testing.assert_allclose(turned.grid.affine[:3, 0], (0, 2, 0))
    np.testing.assert_allclose(turned.grid.affine @ (2, 3, 0, 1), affine @ (0, 0, 0, 1))


def test_background_is_only_a_constant_border() -> None:
    image = np.zeros((12, 12, 12), np.float32)
    image[4:8, 4:8, 4:8] = 100
    assert crop.background(image) == 0
    generator = np.random.default_rng(0)
    air = np.where(image > 0, image, np.abs(np.rint(generator.normal(0, 1, image.shape))))
    assert crop.background(air) is None
    assert crop.background(generator.normal(size=image.shape)) is None


def test_crop_finds_the_hand_made_box_and_records_it() -> None:
    array = np.full((2, 10, 10, 10), -1024, np.float32)
    array[0, 2:7, 3:9, 4:6] = 40
    array[1, 2:7, 3:9, 4:7] = 50
    grid = Grid((10, 10, 10), affine_of((0, 1, 2), (1, 1, 1)))
    cut = crop.crop_foreground(Image(array, grid))
    assert cut.history[-1]["box"] == [[2, 7], [3, 9], [4, 7]]
    assert cut.array.shape == (2, 5, 6, 3)
    np.testing.assert_allclose(cut.grid.affine @ (0, 0, 0, 1), grid.affine @ (2, 3, 4, 1))


def test_crop_that_saves_little_is_not_done() -> None:
    array = np.zeros((1, 20, 20), np.float32)
    array[0, :19, :] = volume((19, 20))[0]
    image = Image(array, flat_grid((20, 20)))
    assert crop.crop_foreground(image) is image


def test_dark_voxels_inside_the_box_are_kept() -> None:
    array = np.zeros((1, 30, 30), np.float32)
    array[0, 10, 10] = array[0, 20, 20] = 7
    assert crop.crop_foreground(Image(array, flat_grid((30, 30)))).array.shape == (1, 11, 11)


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("to", [(1.5, 1.5, 2.0), (0.9, 1.0, 2.5)])
def test_resampling_agrees_with_scipy(order: int, to: tuple[float, ...]) -> None:
    image = Image(volume((20, 17, 12)), Grid((20, 17, 12), np.diag([1, 1.2, 2, 1])))
    done = resample.resample(image, to, order)
    zoom = np.divide(done.grid.shape, image.grid.shape)
    referee = ndimage.zoom(image.array[0], zoom, order=order, mode="nearest", grid_mode=True)
    referee = np.clip(referee, image.array.min(), image.array.max())
    np.testing.assert_allclose(done.array[0], referee, atol=1e-5)


@pytest.mark.parametrize("interpolator", [SimpleITK.sitkLinear, SimpleITK.sitkNearestNeighbor])
def test_resampling_agrees_with_simpleitk_in_place_and_value(interpolator: int) -> None:
    affine = affine_of((0, 1, 2), (1, 1, 1), (1.0, 1.3, 2.0))
    # Sizes without a sample half-way between two voxels, where nearest is a matter of taste.
    image = Image(volume((20, 17, 11)), Grid((20, 17, 11), affine))
    order = 1 if interpolator == SimpleITK.sitkLinear else 0
    done = resample.resample(image, (0.83, 1.9, 1.7), order)
    source = SimpleITK.GetImageFromArray(image.array[0].T)
    source.SetSpacing(image.spacing_mm)
    source.SetOrigin(affine[:3, 3].tolist())
    grid = SimpleITK.Image(*done.grid.shape, SimpleITK.sitkFloat32)
    grid.SetSpacing(done.spacing_mm)
    grid.SetOrigin(done.grid.affine[:3, 3].tolist())
    filtered = SimpleITK.ResampleImageFilter()
    filtered.SetReferenceImage(grid)
    filtered.SetInterpolator(interpolator)
    filtered.UseNearestNeighborExtrapolatorOn()
    referee = SimpleITK.GetArrayFromImage(filtered.Execute(source)).T
    np.testing.assert_allclose(done.array[0], referee, atol=1e-5)


def test_resampling_keeps_the_field_of_view() -> None:
    grid = Grid((20, 17, 12), affine_of((2, 0, 1), (-1, 1, -1)))
    done = resample.resample(Image(volume(grid.shape), grid), (2.3, 1.1, 2.0))
    for corner in itertools.product((0, 1), repeat=3):
        old = np.multiply(corner, grid.shape) - 0.5
        new = np.multiply(corner, done.grid.shape) - 0.5
        np.testing.assert_allclose(grid.affine @ (*old, 1), done.grid.affine @ (*new, 1), atol=1e-9)


def test_spacings_within_one_per_cent_are_not_resampled() -> None:
    image = Image(volume(), Grid((7, 6, 5), np.diag([1, 1, 1, 1])))
    assert resample.resample(image, (1.009, 0.992, None)) is image


def test_cubic_splines_do_not_overshoot_nor_cross_thick_slices() -> None:
    array = np.zeros((1, 12, 12, 6), np.float32)
    array[0, :, :, 3:] = 1
    thick = Image(array, Grid((12, 12, 6), np.diag([1, 1, 5, 1])))
    done = resample.resample(thick, (1, 1, 2.5), order=3)
    assert done.history[-1]["orders"] == [3, 3, 1]
    assert done.array.min() == 0
    assert done.array.max() == 1
    assert np.all(np.diff(done.array[0, 0, 0]) >= 0)


def test_labels_are_resampled_by_majority_and_never_invented() -> None:
    array = np.array([[0, 0, 4, 4, 0, 9, 9, 9]], np.int16)[None]
    image = Image(array, flat_grid((1, 8), (1.0, 1.0)))
    half = resample.resample(image, (1.0, 2.0))
    assert half.array.dtype == np.int16
    assert half.array[0, 0].tolist() == [0, 4, 0, 9]
    double = resample.resample(image, (1.0, 0.5))
    assert set(np.unique(double.array)) == {0, 4, 9}
    assert double.array[0, 0, ::2].tolist() == array[0, 0].tolist()


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_home_is_the_identity_voxel_for_voxel(
    axes: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    generator = np.random.default_rng(len(axes) + sum(signs))
    array = np.zeros((1, 11, 9, 8), np.float32)
    start = generator.integers(0, 4, 3)
    stop = start + generator.integers(2, 5, 3)
    inside = (0, *(slice(a, b) for a, b in zip(start, stop, strict=True)))
    array[inside] = generator.uniform(1, 2, array[inside].shape)
    image = Image(array, Grid((11, 9, 8), affine_of(axes, signs)))
    done = presets.apply(preparation(), image)
    assert done.grid.shape != image.grid.shape
    history = json.loads(json.dumps(done.history))
    label = Image((array > 1.5).astype(np.uint8), image.grid)
    mapped = presets.apply_label(label, done)
    assert mapped.shape == done.grid.shape
    assert presets.cropped_away(label, done) == 0
    back = home(mapped[None], history)
    np.testing.assert_array_equal(back, label.array)
    # Each kept voxel lies where it lay: its body coordinates, carried as channels, agree.
    index = np.stack(np.meshgrid(*map(np.arange, done.grid.shape), indexing="ij")).reshape(3, -1)
    place = (done.grid.affine @ np.vstack([index, np.ones(index.shape[1])]))[:3]
    kept = home(place.reshape(3, *done.grid.shape), history, fill=[np.nan])
    where = np.argwhere(np.isfinite(kept[0]))
    expected = (image.grid.affine @ np.c_[where, np.ones(len(where))].T)[:3]
    np.testing.assert_allclose(kept[:, *where.T], expected, atol=1e-3)
    assert len(where) == np.prod(done.grid.shape)


def brought(array: Any, done: Image, grid: Grid, axis: int = 0, rows: int = 100) -> Any:
    """A map ``(K, *S)`` brought home, so many rows at once; 1 in channel 0 where none come."""
    inverse = presets.Inverse(done.history, done.grid.shape, grid, axis)
    found = np.zeros((len(array), *grid.shape), np.float32)
    found[0] = 1
    moved = np.moveaxis(array.astype(np.float32), axis + 1, 1)
    for start in range(0, moved.shape[1], rows):
        for some in inverse.add({"map": moved[:, start : start + rows]}):
            for k, channel in enumerate(some.of(found)):
                channel[...] = some.channel("map", k)
    return found


def test_resampled_probabilities_come_home_to_the_right_place() -> None:
    # The distance from a plane is linear, so linear interpolation must give it back exactly.
    grid = Grid((24, 20, 16), affine_of((1, 2, 0), (-1, 1, -1), (1.0, 1.1, 2.0)))
    image = Image(volume(grid.shape), grid)
    done = presets.apply(preparation(spacing_mm=(1.3, 1.3, 1.3)), image)
    index = np.stack(np.meshgrid(*map(np.arange, done.grid.shape), indexing="ij")).reshape(3, -1)
    place = (done.grid.affine @ np.vstack([index, np.ones(index.shape[1])]))[:3]
    back = brought(place.reshape(3, *done.grid.shape), done, grid)
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij")).reshape(3, -1)
    expected = (grid.affine @ np.vstack([index, np.ones(index.shape[1])]))[:3]
    inner = (slice(None), *[slice(2, -2)] * 3)
    np.testing.assert_allclose(back[inner], expected.reshape(3, *grid.shape)[inner], atol=1e-3)


def test_probabilities_add_up_to_one_at_home_and_background_fills_the_rest() -> None:
    array = np.zeros((1, 16, 16, 16), np.float32)
    array[0, 4:12, 4:12, 4:12] = volume((8, 8, 8))[0] + 10
    image = Image(array, Grid((16, 16, 16), np.diag([1, 1, 1, 1])))
    done = presets.apply(preparation(spacing_mm=(0.8, 0.8, 0.8)), image)
    logits = volume(done.grid.shape, channels=4)
    probabilities = np.exp(logits) / np.exp(logits).sum(0)
    back = brought(probabilities, done, image.grid)
    np.testing.assert_allclose(back.sum(0), 1, atol=1e-5)
    assert back[0, 0, 0, 0] == 1


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("spacing", [None, (0.8, 1.7, 2.3), (2.5, 1.0, 0.7), (1.0, 3.1, 1.0)])
def test_rows_come_home_as_the_whole_does_to_the_last_bit(
    rows: int, axis: int, spacing: tuple[float, ...] | None
) -> None:
    array = np.zeros((1, 16, 14, 12), np.float32)
    array[0, 4:12, 3:12, 2:11] = volume((8, 9, 9))[0] + 10
    affine = affine_of((1, 2, 0), (-1, 1, -1), (1.0, 1.1, 2.0))
    affine[:3, :3] = [[0.98, -0.17, 0], [0.17, 0.98, 0], [0, 0, 1]] @ affine[:3, :3]
    image = Image(array, Grid((16, 14, 12), affine))
    done = presets.apply(preparation(spacing_mm=spacing), image)
    logits = volume(done.grid.shape, channels=4)
    probabilities = (np.exp(logits) / np.exp(logits).sum(0)).astype(np.float32)
    whole = brought(probabilities, done, image.grid)
    expected = home(probabilities, done.history, fill=(1, 0, 0, 0))
    np.testing.assert_allclose(whole, expected, atol=1e-5)
    found = brought(probabilities, done, image.grid, axis, rows)
    np.testing.assert_array_equal(found, whole)


def test_home_refuses_another_grid_or_another_array() -> None:
    grid = Grid((7, 6, 5), affine_of((1, 0, 2), (1, -1, 1)))
    done = presets.apply(preparation(), Image(volume(), grid))
    moved = Grid(grid.shape, grid.affine + np.eye(4, k=3) * 0.01)
    with pytest.raises(GeometryError, match="starts from the grid"):
        brought(done.array, done, moved)
    with pytest.raises(GeometryError, match="as the image was prepared"):
        presets.Inverse(done.history, (6, 5, 5), grid)


def test_label_on_another_grid_is_refused() -> None:
    grid = Grid((7, 6, 5), affine_of((1, 0, 2), (1, -1, 1)))
    done = presets.apply(preparation(), Image(volume(), grid))
    shifted = grid.affine.copy()
    shifted[0, 3] += 2e-3
    label = Image(np.zeros((1, 7, 6, 5), np.uint8), Grid(grid.shape, shifted))
    with pytest.raises(GeometryError) as caught:
        presets.apply_label(label, done)
    assert caught.value.code == "label-grid"


def test_labels_outside_the_box_are_counted() -> None:
    array = np.zeros((1, 16, 16), np.float32)
    array[0, 4:9, 4:9] = volume((5, 5))[0] + 10
    image = Image(array, flat_grid((16, 16)))
    label = np.zeros((1, 16, 16), np.uint8)
    label[0, 5, 3:6] = 1
    done = presets.apply(dataclasses.replace(preparation(), ndim=2), image)
    assert presets.cropped_away(Image(label, image.grid), done) == 1


def test_channels_on_other_grids_are_named_and_never_resampled() -> None:
    first = Image(volume(), Grid((7, 6, 5), np.eye(4)))
    both = presets.stack_channels([first, first])
    assert both.channels == 2
    second = Image(volume(), Grid((7, 6, 5), np.diag([1, 1, 1.01, 1])))
    with pytest.raises(GeometryError, match="channel 'pet' on the grid of channel 'ct'") as caught:
        presets.stack_channels([first, second], ["ct", "pet"])
    assert caught.value.code == "channels-grid"
