from __future__ import annotations

import dataclasses

import torch

from delineate.core.case import Batch


def test_a_batch_that_is_told_no_spacing_has_ones() -> None:
    batch = Batch(torch.zeros(2, 1, 8, 8, 8), torch.zeros(2, 8, 8, 8))
    assert batch.spacing_mm == (1.0, 1.0, 1.0)
    told = Batch(torch.zeros(2, 1, 8, 8), torch.zeros(2, 8, 8), (0.5, 2.0))
    moved = dataclasses.replace(told, image=told.image + 1)
    assert moved.spacing_mm == (0.5, 2.0)
