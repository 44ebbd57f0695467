from __future__ import annotations

import numpy as np
import pytest
from skimage.measure import label as components

from delineate.core.errors import GeometryError
from delineate.core.schema import Label, Schema
from delineate.inference.postprocess import choose_rules, keep_largest, keep_largest_components

SCHEMA = Schema(labels=(Label("organ", 5), Label("lesion", 9)))


def test_only_the_largest_part_stays_and_the_input_is_untouched() -> None:
    labels = np.array([[1, 1, 0, 1], [1, 0, 0, 0], [0, 0, 2, 0], [2, 0, 0, 0]])
    before = labels.copy()
    cleaned = keep_largest_components(labels, [1])
    assert cleaned.tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 2, 0], [2, 0, 0, 0]]
    assert np.array_equal(labels, before)
    assert cleaned.dtype == labels.dtype


def test_parts_that_touch_at_a_corner_are_one() -> None:
    mask = np.eye(4, dtype=bool)
    assert np.array_equal(keep_largest(mask), mask)


def test_first_of_two_equal_parts_stays_and_empty_stays_empty() -> None:
    assert keep_largest(np.array([True, False, True])).tolist() == [True, False, False]
    assert not keep_largest(np.zeros((3, 3), bool)).any()


def test_largest_part_agrees_with_scikit_image() -> None:
    mask = np.random.default_rng(0).random((20, 20, 20)) < 0.08
    parts = components(mask, connectivity=3)
    sizes = np.bincount(parts.ravel())[1:]
    assert keep_largest(mask).sum() == sizes.max()


def test_rule_is_kept_only_for_the_label_that_gains() -> None:
    truth = np.zeros((10, 10), int)
    truth[2:6, 2:6] = 1
    truth[8, 8] = truth[0, 0] = 2
    prediction = truth.copy()
    prediction[9, 0] = 1  # a stray voxel; lesions, though, are truly two
    rules = choose_rules([prediction], [truth], SCHEMA)
    assert rules["keep_largest"] == ["organ"]
    assert rules["gains"]["organ"] == pytest.approx(1 - 2 * 16 / 33)
    assert rules["gains"]["lesion"] == pytest.approx(2 / 3 - 1)


def test_mean_over_cases_decides_and_empty_cases_do_not_count() -> None:
    truth = np.zeros((6, 6), int)
    truth[0, :2] = truth[5, :2] = 1  # two true parts: the rule costs here
    stray = np.zeros((6, 6), int)
    stray[2, :3] = 1
    predicted = stray.copy()
    predicted[5, 5] = 1
    empty = np.zeros((6, 6), int)
    rules = choose_rules([truth, predicted, empty], [truth, stray, empty], SCHEMA)
    assert rules["keep_largest"] == []
    assert rules["gains"] == {"organ": pytest.approx(((2 / 3 - 1) + (1 - 6 / 7)) / 2)}


def test_equal_scores_do_not_count_as_a_gain() -> None:
    truth = np.ones((3, 3), int)
    assert choose_rules([truth], [truth], SCHEMA)["keep_largest"] == []


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(GeometryError):
        choose_rules([np.zeros((2, 2))], [np.zeros((2, 3))], SCHEMA)
