from __future__ import annotations

import numpy as np
import pytest

from delineate.core.errors import GeometryError
from delineate.core.schema import Label, Schema
from delineate.inference.postprocess import TOGETHER, keep_largest_components
from delineate.targets._cleanup import choose_rules

SCHEMA = Schema(labels=(Label("organ", 5), Label("lesion", 9)))


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
    gain = pytest.approx(((2 / 3 - 1) + (1 - 6 / 7)) / 2)
    assert rules["gains"] == {"organ": gain, TOGETHER: gain}


def test_an_island_larger_than_the_structure_goes_where_structures_touch() -> None:
    truth = np.zeros((12, 12), int)
    truth[1:6, 1:6] = 1
    truth[2:4, 2:4] = 2  # within the organ
    prediction = truth.copy()
    prediction[9:12, 9:12] = 2
    rules = choose_rules([prediction], [truth], SCHEMA)
    assert rules["keep_largest"] == [TOGETHER]
    assert rules["gains"][TOGETHER] == pytest.approx((0 + 1 - 8 / 17) / 2)
    assert rules["gains"]["lesion"] == 0, "of what is left"
    np.testing.assert_array_equal(keep_largest_components(prediction, (), True), truth)
    alone = keep_largest_components(prediction, (2,))
    assert (alone[2:4, 2:4] == 0).all(), "by itself the rule keeps the island"


def test_equal_scores_do_not_count_as_a_gain() -> None:
    truth = np.ones((3, 3), int)
    assert choose_rules([truth], [truth], SCHEMA)["keep_largest"] == []


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(GeometryError):
        choose_rules([np.zeros((2, 2))], [np.zeros((2, 3))], SCHEMA)
