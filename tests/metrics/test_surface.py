from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from delineate.core.errors import GeometryError
from delineate.metrics import surface as module
from delineate.metrics.surface import bounding_box, surface, surface_distances, surface_scores


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
    assert scores == (2.0, 2.0, 2.0, 0.0)
    assert surface_scores(pixels((4, 4)), pixels((4, 6)), (1, 1), 2.0).nsd == 1.0


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
    assert scores.nsd == pytest.approx(3 / 6)


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
    assert surface_scores(a, b, spacings, 2.0) == pytest.approx(referee(a, b, spacings, 2.0))


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
    assert surface_scores(empty, empty, (1, 1, 1)) == (0, 0, 0, 1)


def test_tolerance_is_not_missed_by_rounding():
    # 0.1 * 3 is 0.30000000000000004, and affines are kept in float32.
    a, b = pixels((1, 1)), pixels((1, 4))
    assert surface_scores(a, b, (0.1, 0.1), 0.3).nsd == 1
    assert surface_scores(a, b, (0.1, float(np.float32(0.1))), 0.3).nsd == 1


def test_bad_geometry_is_told():
    a = pixels((1, 1))
    with pytest.raises(GeometryError, match="1 spacings"):
        surface_scores(a, a, (1,))
    with pytest.raises(GeometryError, match="positive spacings"):
        surface_scores(a, a, (1, 0))
    with pytest.raises(GeometryError, match=r"\(9, 9\), \(9, 8\)"):
        surface_scores(a, a[:, :-1], (1, 1))
