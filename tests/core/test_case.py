from __future__ import annotations

import dataclasses

import torch

from delineate.core.case import Batch
from delineate.core.schema import IGNORED


def test_a_batch_that_is_told_no_spacing_has_ones() -> None:
    batch = Batch(torch.zeros(2, 1, 8, 8, 8), torch.zeros(2, 8, 8, 8))
    assert batch.spacing_mm == (1.0, 1.0, 1.0)
    told = Batch(torch.zeros(2, 1, 8, 8), torch.zeros(2, 8, 8), (0.5, 2.0))
    moved = dataclasses.replace(told, image=told.image + 1)
    assert moved.spacing_mm == (0.5, 2.0)


def test_of_a_sample_without_labels_only_the_image_is_known() -> None:
    image, label = torch.zeros(3, 1, 8, 8), torch.ones(3, 8, 8, dtype=torch.uint8)
    classes = torch.tensor([0, 1, 2])
    everyone = Batch(image, label, class_index=classes)
    assert everyone.labelled.tolist() == [True, True, True]
    assert everyone.label is label
    some = Batch(image, label, class_index=classes, labelled=torch.tensor([True, False, True]))
    assert [case.unique().tolist() for case in some.label] == [[1], [IGNORED], [1]]
    assert some.class_index is not None
    assert some.class_index.tolist() == [0, IGNORED, 2]
    assert label.max() == 1, "what was given stays as it is"
