from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from skimage.measure import label as components

from delineate.inference.postprocess import (
    keep_largest,
    keep_largest_components,
    without_specks,
)
from delineate.preprocess.inverse import estimate_bytes


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


@pytest.mark.parametrize("step", [1, 2])
def test_cleaning_takes_no_more_memory_than_was_asked_for(step: int) -> None:
    labels = np.zeros((96, 96, 96), np.uint8)
    labels[::step, ::step, ::step] = 1  # one part, or an eighth of all voxels each a part
    labels[:, :, 48:50] = 0
    labels[:10, :10, :10] = 1
    tracemalloc.start()
    cleaned = keep_largest_components(labels, [1])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0 < cleaned.sum() < labels.sum()
    assert labels.nbytes + peak <= estimate_bytes(labels.shape, 2, keep=False)


def test_a_speck_becomes_what_touches_it_most_and_is_named() -> None:
    labels = np.zeros((9, 9), np.uint8)
    labels[1:6, 1:6] = 1
    labels[3, 3] = labels[8, 8] = 2  # one in the core, one far out
    before = labels.copy()
    cleaned, removed = without_specks(labels, {2: 9.0}, voxel_volume=4.0)
    assert cleaned[3, 3] == 1
    assert cleaned[8, 8] == 0
    assert removed == {2: 8.0}
    assert np.array_equal(labels, before)  # a copy was changed
    # of 8 or more it is no speck, and what is not there is none either
    kept, removed = without_specks(labels, {2: 8.0, 3: 8.0}, voxel_volume=4.0)
    assert kept is labels
    assert removed == {}


def test_two_specks_in_each_other_both_go() -> None:
    labels = np.zeros((5, 5, 5), np.uint8)
    labels[1:4, 1:4, 1:4] = 2
    labels[2, 2, 2] = 3
    cleaned, removed = without_specks(labels, {2: 100.0, 3: 100.0}, 1.0)
    assert not cleaned[labels == 2].any()
    assert set(removed) == {2, 3}
