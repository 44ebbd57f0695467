from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from delineate.core.errors import GeometryError
from delineate.core.image import Grid
from delineate.core.schema import Label, Schema
from delineate.inference.postprocess import TOGETHER, keep_largest_components
from delineate.targets._cleanup import SPECK, choose_rules, harmless, least_volumes

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


@dataclass
class Case:
    """A prepared case, as far as volumes are concerned."""

    label: np.ndarray
    spacing_known: bool = True

    @property
    def grid(self) -> Grid:
        affine = np.diag([2.0, 2.0, 3.0, 1.0])
        return Grid(self.label.shape, affine, spacing_known=self.spacing_known)

    @property
    def samples(self) -> dict[int, np.ndarray]:
        return {i: np.argwhere(self.label == i) for i in (1, 2) if (self.label == i).any()}


def case(organ: int, lesion: int) -> Case:
    label = np.zeros(200, np.uint8)
    label[:organ], label[organ : organ + lesion] = 1, 2
    return Case(label.reshape(10, 10, 2))


def test_a_speck_is_far_smaller_than_any_that_taught() -> None:
    cases: list[Any] = [case(100, 20), case(50, 30), case(80, 0), case(60, 25), case(90, 40)]
    # 50 voxels of 12 mm3 are the smallest organ; four lesions are too few to say
    assert least_volumes(cases, SCHEMA) == {"organ": SPECK * 50 * 12}
    assert least_volumes([*cases, case(70, 15)], SCHEMA)["lesion"] == SPECK * 15 * 12
    cases[0].spacing_known = False
    assert least_volumes(cases, SCHEMA) == {}


def test_specks_stay_where_taking_them_away_costs_dice_or_nobody_can_tell() -> None:
    least = {"organ": 40.0, "lesion": 40.0}
    healthy, sick = case(0, 0), case(100, 3)
    alarm = healthy.label.copy()
    alarm[0, 0, 0] = 1  # 12 mm3 of an organ that is not there
    predictions = [alarm, sick.label]  # 36 mm3 of a lesion that is
    cases: list[Any] = [healthy, sick]
    assert harmless(least, predictions, cases, SCHEMA, ()) == {"organ": 40.0}
    assert harmless(least, [], [], SCHEMA, ()) == {}
