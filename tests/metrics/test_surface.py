from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from delineate.core.errors import GeometryError
from delineate.metrics import surface as module
from delineate.metrics._surfels import surfels
from delineate.metrics.surface import (
    bounding_box,
    image_diagonal_mm,
    surface,
    surface_distances,
    surface_scores,
)


def referee(prediction, truth, spacing, tolerance):
    """The definition, by erosion and distance transforms over the whole image."""
    a, b = (m & ~ndimage.binary_erosion(m, border_value=0) for m in (prediction, truth))
    there = ndimage.distance_transform_edt(~b, sampling=spacing)[a]
    back = ndimage.distance_transform_edt(~a, sampling=spacing)[b]
    both = np.concatenate([there, back])
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    return both.max(), hd95, both.mean(), np.mean(both <= tolerance)


def blobs(shape, seed, level=0.6):
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2)
    return field > level * field.std()


def pixels(*places, shape=(9, 9)):
    mask = np.zeros(shape, bool)
    for place in places:
        mask[place] = True
    return mask


def test_two_pixels_two_mm_apart():
    scores = surface_scores(pixels((4, 4)), pixels((4, 6)), (1, 1))
    assert scores == (2.0, 2.0, 2.0, 0.5, 0.0)  # 4 corners each, of which 2 are 1 mm apart
    assert surface_scores(pixels((4, 4)), pixels((4, 6)), (1, 1), 2.0)[3:] == (1.0, 1.0)


def test_spacing_belongs_to_its_axis():
    a = pixels((2, 2, 2), shape=(6, 6, 6))
    spacing = (0.5, 2.0, 6.5)
    for axis, step in enumerate(spacing):
        place = [2, 2, 2]
        place[axis] += 2
        assert surface_scores(a, pixels(tuple(place), shape=a.shape), spacing).hd_mm == 2 * step


def test_directed_distances_differ_and_the_larger_counts():
    # A point against a line of 5: the point lies on the line, the line's ends are 4 away.
    point, line = pixels((4, 0)), pixels(*((4, j) for j in range(5)))
    there, back = surface_distances(point, line, (1, 1))
    assert there.tolist() == [0]
    assert sorted(back) == [0, 1, 2, 3, 4]
    scores = surface_scores(point, line, (1, 1))
    assert scores.hd_mm == 4
    assert scores.hd95_mm == pytest.approx(3.8)  # linear between 3 and 4
    assert scores.assd_mm == pytest.approx(10 / 6)
    assert scores.nsd_voxels == pytest.approx(3 / 6)


def test_one_stray_voxel_moves_hd_and_not_hd95():
    truth = np.zeros((40, 40, 40), bool)
    truth[5:25, 5:25, 5:25] = True
    prediction = truth.copy()
    prediction[38, 38, 38] = True
    scores = surface_scores(prediction, truth, (1, 1, 1))
    assert scores.hd95_mm == 0
    assert scores.hd_mm == pytest.approx(14 * 3**0.5)


@pytest.mark.parametrize("shape", [(48, 40), (24, 30, 18)])
@pytest.mark.parametrize("spacing", [1.0, 0.4])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_distance_transforms(shape, spacing, seed):
    spacings = (spacing, 1.3, 5.0)[: len(shape)]
    a, b = blobs(shape, seed), blobs(shape, seed + 100)
    hd, hd95, assd, _, nsd_voxels = surface_scores(a, b, spacings, 2.0)
    expected = referee(a, b, spacings, 2.0)
    assert (hd, hd95, assd, nsd_voxels) == pytest.approx(expected)


def test_dense_and_sparse_ways_agree(monkeypatch):
    a, b = blobs((24, 30, 18), 1), blobs((24, 30, 18), 2)
    found = []
    for share in (0.0, 1.0):
        monkeypatch.setattr(module, "DENSE", share)
        found.append(surface_scores(a, b, (1, 1.3, 5)))
    assert found[0] == pytest.approx(found[1])


def test_surface_is_what_one_erosion_removes_and_the_border_counts_as_outside():
    for shape in ((11, 13), (9, 7, 8), (1, 5, 5)):
        mask = blobs(shape, 3, -0.5)
        expected = mask & ~ndimage.binary_erosion(mask, border_value=0)
        assert np.array_equal(surface(mask), expected)
    assert surface(np.ones((3, 3), bool)).sum() == 8


def test_bounding_box():
    mask = np.zeros((5, 6, 7), np.uint8)
    assert mask[bounding_box(mask)].size == 0
    mask[1, 2, 3] = mask[3, 2, 6] = 4
    assert bounding_box(mask) == (slice(1, 4), slice(2, 3), slice(3, 7))


def test_empty_masks_give_the_diagonal_of_the_challenge():
    shape = (240, 240, 155)
    full, empty = np.ones(shape, bool), np.zeros(shape, bool)
    assert surface_scores(empty, full, (1, 1, 1)).hd95_mm == pytest.approx(373.1287, abs=1e-4)
    assert surface_scores(empty, empty, (1, 1, 1)) == (0, 0, 0, 1, 1)


def test_tolerance_is_not_missed_by_rounding():
    # 0.1 * 3 is 0.30000000000000004, and affines are kept in float32.
    a, b = pixels((1, 1)), pixels((1, 4))
    assert surface_scores(a, b, (0.1, 0.1), 0.3)[3:] == (1, 1)
    assert surface_scores(a, b, (0.1, float(np.float32(0.1))), 0.3)[3:] == (1, 1)


def ellipsoid(shape, radii, centre):
    radii, centre = (np.reshape(v, (-1, *[1] * len(shape))) for v in (radii, centre))
    return (((np.indices(shape) - centre) / radii) ** 2).sum(axis=0) < 1


@pytest.mark.parametrize(
    ("shape", "spacing", "tolerance", "first", "second", "published"),
    [
        ((25, 25, 25), (1, 1, 1), 1, ((8,) * 3, (12,) * 3), ((9,) * 3, (12,) * 3),
         0.9721747656525829),
        ((30, 26, 12), (0.9, 1.1, 5), 2, ((9, 7, 3), (14, 12, 5)), ((8, 8, 4), (15, 12, 6)),
         0.8162345041813516),
        ((30, 26, 12), (0.9, 1.1, 5), 0, ((9, 7, 3), (3, 12, 5)), ((8, 8, 4), (4, 12, 0)),
         0.1711798548693541),  # cut off by the image's border
        ((40, 36), (1, 0.7), 1.5, ((11, 8), (18, 17)), ((9, 10), (20, 16)), 0.662256277544195),
    ],
)  # fmt: skip
def test_surface_dice_is_that_of_published_figures(
    shape, spacing, tolerance, first, second, published
):
    # What surface-distance 0.1 (DeepMind) gives; voxels give 0.855 for the first pair.
    scores = surface_scores(ellipsoid(shape, *first), ellipsoid(shape, *second), spacing, tolerance)
    assert scores.nsd == pytest.approx(published, rel=1e-9)


@pytest.mark.parametrize("tolerance", [0.0, 1.0, 1.3, 4.0])
@pytest.mark.parametrize("sheared", [False, True])
def test_neighbours_and_distances_give_one_surface_dice(monkeypatch, tolerance, sheared):
    steps = np.diag([1.0, 0.7, 1.3])
    steps[0, 2] = 0.6 * sheared
    a, b = blobs((14, 16, 12), 1), blobs((14, 16, 12), 2)
    found = surface_scores(a, b, steps, tolerance)
    monkeypatch.setattr(module, "MOST_NEIGHBOURS", 0)
    assert surface_scores(a, b, steps, tolerance) == pytest.approx(found)
    assert 0 < found.nsd < 1 or tolerance == 4


TILTED = np.array([[-0.5, 0, 0], [0, 0.5, -1.81985], [0, 0, 5.0]])  # 20 degrees of gantry tilt


def test_distances_on_a_sheared_grid_go_through_the_affine():
    a, b = (pixels(place, shape=(9, 9, 9)) for place in ((4, 4, 4), (4, 4, 5)))
    assert surface_scores(a, b, TILTED).hd_mm == pytest.approx(np.hypot(1.81985, 5))
    a, b = (pixels(place, shape=(9, 9, 9)) for place in ((4, 4, 4), (4, 8, 5)))
    assert surface_scores(a, b, TILTED).hd_mm == pytest.approx(np.hypot(0.18015, 5))
    box, higher = np.zeros((2, 48, 48, 12), bool)
    box[10:30, 10:30, 3:9] = higher[10:30, 10:30, 4:10] = True
    scores = surface_scores(higher, box, TILTED)
    assert (scores.hd95_mm, scores.assd_mm) == pytest.approx((5.067, 2.339), abs=5e-4)


def test_a_rotated_grid_measures_as_its_spacing_does():
    turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))
    a, b = blobs((14, 16, 12), 1), blobs((14, 16, 12), 2)
    steps = (turn * (0.5, 0.8, 3.0)).astype(np.float32)
    assert surface_scores(a, b, steps) == pytest.approx(surface_scores(a, b, (0.5, 0.8, 3.0)))
    assert image_diagonal_mm((4, 5, 6), steps) == pytest.approx(np.linalg.norm((2, 4, 18)))


@pytest.mark.parametrize("steps", [np.diag([1.0, 1.3, 2.0]), TILTED])
def test_surfels_have_the_area_of_the_mesh(steps):
    from skimage.measure import marching_cubes, mesh_surface_area

    ball = ellipsoid((24, 24, 16), (9, 8, 5), (12, 11, 8))
    vertices, faces, _, _ = marching_cubes(ball.astype(float), 0.5, method="lorensen")
    _, areas = surfels(ball, steps)
    assert areas.sum() == pytest.approx(mesh_surface_area(vertices @ steps.T, faces), rel=1e-3)


def test_a_mask_and_its_complement_have_one_surface():
    blob = np.pad(blobs((9, 8, 7), 5), 1)
    inside, areas = surfels(blob, np.eye(3))
    outside, others = surfels(~blob, np.eye(3))
    inner = (slice(1, -1),) * 3  # the complement has the image's border too
    assert np.array_equal(inside[inner], outside[inner])
    field, other = np.zeros(inside.shape), np.zeros(inside.shape)
    field[inside], other[outside] = areas, others
    assert np.array_equal(field[inner], other[inner])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_volume_of_one_slice_measures_as_the_flat_image_does(axis):
    a, b = ellipsoid((96, 96), (20, 20), (50, 50)), ellipsoid((96, 96), (20, 20), (50, 46))
    flat = surface_scores(a, b, (1, 0.8))
    spacing = np.insert([1, 0.8], axis, 7.0)
    thin = [np.expand_dims(mask, axis) for mask in (a, b)]
    assert surface_scores(*thin, spacing) == pytest.approx(flat)
    # One slice of a volume that has more of them is another matter.
    shape = np.insert([96, 96], axis, 9)
    assert surface_scores(*thin, spacing, image_shape=shape).assd_mm < flat.assd_mm / 2


def test_bad_geometry_is_told():
    a = pixels((1, 1))
    with pytest.raises(GeometryError, match="1 spacings"):
        surface_scores(a, a, (1,))
    with pytest.raises(GeometryError, match="positive spacings"):
        surface_scores(a, a, (1, 0))
    with pytest.raises(GeometryError, match=r"\(9, 9\) and \(9, 8\)"):
        surface_scores(a, a[:, :-1], (1, 1))
