from __future__ import annotations

import numpy as np
import pytest

from delineate.core.errors import GeometryError
from delineate.core.schema import Label, Schema
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
    assert rules["gains"] == {"organ": pytest.approx(((2 / 3 - 1) + (1 - 6 / 7)) / 2)}


def test_equal_scores_do_not_count_as_a_gain() -> None:
    truth = np.ones((3, 3), int)
    assert choose_rules([truth], [truth], SCHEMA)["keep_largest"] == []


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(GeometryError):
        choose_rules([np.zeros((2, 2))], [np.zeros((2, 3))], SCHEMA)
