"""Labels, regions and classes."""

from __future__ import annotations

import numpy as np
import pytest

from delineate.core.errors import LabelError
from delineate.core.schema import IGNORED, Label, Schema, brats_schema


def test_values_become_indices_and_come_back() -> None:
    values = np.array([[0, 1, 2], [4, 4, 0]])
    indices = brats_schema().to_index(values)
    assert indices.tolist() == [[0, 1, 2], [3, 3, 0]]
    assert (brats_schema().to_values(indices) == values).all()


def test_strange_values_are_listed() -> None:
    with pytest.raises(LabelError, match=r"\[0, 1, 2, 4\], got also 3, 7") as caught:
        brats_schema().to_index(np.array([0, 3, 7]), where="a.nii.gz")
    assert caught.value.where == "a.nii.gz"


@pytest.mark.parametrize("value", [0.5, np.nan])
def test_what_is_no_integer_is_no_label(value: float) -> None:
    with pytest.raises(LabelError, match="label values"):
        brats_schema().to_index(np.array([0.0, value]))


def test_an_empty_label_map_is_background() -> None:
    assert brats_schema().to_index(np.zeros((2, 2))).max() == 0


def test_regions_are_unions_of_labels() -> None:
    masks = brats_schema().region_masks(np.array([0, 1, 2, 3]))
    assert {name: mask.tolist() for name, mask in masks.items()} == {
        "WT": [False, True, True, True],
        "TC": [False, True, False, True],
        "ET": [False, False, False, True],
    }


def test_labels_stand_for_themselves_where_no_region_is_named() -> None:
    schema = Schema(labels=(Label("vessel", 255),))
    assert schema.region_masks(np.array([0, 1]))["vessel"].tolist() == [False, True]
    assert schema.to_values(np.array([0, 1])).dtype == np.uint8


def test_values_above_255_are_kept() -> None:
    assert Schema(labels=(Label("a", 300),)).to_values(np.array([1])).tolist() == [300]


@pytest.mark.parametrize("values", [(1, 1), (0, 1)])
def test_values_are_unique_and_not_background(values: tuple[int, int]) -> None:
    with pytest.raises(LabelError, match="unique and not 0"):
        Schema(labels=tuple(Label(str(i), v) for i, v in enumerate(values)))


def test_a_region_names_labels_that_exist() -> None:
    with pytest.raises(LabelError, match="unknown labels"):
        Schema(labels=(Label("a", 1),), regions={"whole": ("a", "b")})


def test_plain_data_come_back() -> None:
    schema = brats_schema(3)
    assert Schema.from_dict(schema.to_dict()) == schema


def test_what_nobody_annotated_has_an_index_of_its_own_and_comes_back() -> None:
    schema = Schema((Label("a", 1), Label("b", 2)), ignore=7)
    values = np.array([0, 1, 2, 7])
    indices = schema.to_index(values)
    assert indices.tolist() == [0, 1, 2, IGNORED]
    assert schema.to_values(indices).tolist() == values.tolist()
    assert not any(mask[3] for mask in schema.region_masks(indices).values())
    assert Schema.from_dict(schema.to_dict()) == schema


def test_a_negative_value_may_be_what_is_ignored() -> None:
    schema = Schema((Label("a", 1), Label("b", 2)), ignore=-1)
    assert schema.to_index(np.array([0, 1, 2, -1], np.int16)).tolist() == [0, 1, 2, IGNORED]
    assert schema.to_index(np.array([0, 1, 2], np.uint8)).tolist() == [0, 1, 2]


def test_a_value_can_be_taken_for_not_annotated_afterwards() -> None:
    schema = Schema((Label("label 1", 1), Label("label 255", 255))).ignoring(255)
    assert schema == Schema((Label("label 1", 1),), ignore=255)
    with pytest.raises(LabelError, match="part of WT"):
        brats_schema().ignoring(4)
    with pytest.raises(LabelError, match="background"):
        brats_schema().ignoring(0)
    with pytest.raises(LabelError, match="apart from 0"):
        Schema((Label("a", 1),), ignore=1)
