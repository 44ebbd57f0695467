from __future__ import annotations

import numpy as np
import pytest
import torch

from delineate.preprocess import views


def test_a_slice_is_the_slice():
    image = np.random.default_rng(0).normal(size=(2, 5, 6, 7)).astype(np.float32)
    assert torch.equal(views.view(image, 2, 3, (5, 6)), torch.from_numpy(image[..., 3]))
    assert torch.equal(views.view(image, 0, 4, (6, 7)), torch.from_numpy(image[:, 4]))
    assert torch.equal(views.view(image, None, None, (5, 6, 7)), torch.from_numpy(image))


def test_shrinking_averages_and_enlarging_keeps_the_range():
    image = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    assert views.view(image, None, None, (2, 2)).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    grown = views.view(image, None, None, (8, 8))
    assert grown.shape == (1, 8, 8)
    assert grown.min() == 0
    assert grown.max() == 15
    mixed = views.view(image, None, None, (2, 8))
    assert mixed.shape == (1, 2, 8)
    assert mixed.mean() == pytest.approx(image.mean())


def test_a_whole_volume_is_brought_to_size_along_every_axis():
    image = np.random.default_rng(0).normal(size=(2, 8, 6, 3)).astype(np.float32)
    shrunk = views.view(image, None, None, (4, 3, 3))
    assert shrunk.numpy() == pytest.approx(
        image.reshape(2, 4, 2, 3, 2, 3).mean((2, 4)), abs=1e-6
    )  # what is shrunk is averaged; nothing is mixed along the axis that stays
    ramp = np.broadcast_to(np.arange(3, dtype=np.float32), (1, 8, 6, 3))
    mixed = views.view(ramp, None, None, (4, 6, 6))  # fewer rows, more slices
    assert mixed.shape == (1, 4, 6, 6)
    assert mixed[0, 1, 2].tolist() == pytest.approx([0, 0.25, 0.75, 1.25, 1.75, 2])
    label = np.zeros((8, 6, 3), np.uint8)
    label[..., 2] = 7
    assert views.view_label(label, None, None, (4, 6, 6))[..., 4:].unique().tolist() == [7]


def test_labels_stay_labels():
    label = np.zeros((4, 4), np.uint8)
    label[2:, 2:] = 3
    shown = views.view_label(label, None, None, (8, 8))
    assert shown.dtype == torch.uint8
    assert torch.equal(shown, torch.from_numpy(label.repeat(2, 0).repeat(2, 1)))


def test_empty_slices_are_left_out():
    image = np.zeros((1, 10, 10, 6), np.float32)
    image[:, 2:8, 2:8, 1:4] = np.random.default_rng(0).normal(size=(1, 6, 6, 3))
    image[0, 0, 1, 4] = 1.0  # a speck is no content
    assert views.places(image, 2) == [1, 2, 3]
    assert views.places(image, None) == [None]


def test_the_slice_axis_is_the_acquired_one_where_it_is_known():
    assert views.slice_axis((5, 6, 7), 2, None) == 2
    assert views.slice_axis((5, 6, 7), 2, 0) == 0
    assert views.slice_axis((5, 6, 7), 3, None) is None
    assert views.slice_axis((5, 6), 2, None) is None
