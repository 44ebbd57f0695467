"""Bricks of methods that learn from cases without labels, on numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from delineate.core.case import Batch
from delineate.core.schema import IGNORED
from delineate.methods import _semi


def test_disagreement_is_the_squared_difference_of_the_structures_probabilities() -> None:
    def logits(p: float) -> Tensor:
        return torch.tensor([1 - p, p]).log().view(1, 2, 1, 1)

    teacher = _semi.probabilities(logits(0.6))
    assert _semi.disagreement(logits(0.8), teacher).item() == pytest.approx(0.04)
    assert _semi.disagreement([logits(0.6), logits(0.9)], teacher).item() == 0


def test_disagreement_counts_only_where_it_is_said() -> None:
    student = torch.tensor([[0.8, 0.2], [0.2, 0.8]]).log().view(1, 2, 1, 2)
    teacher = torch.tensor([[0.6, 0.6], [0.4, 0.4]]).view(1, 2, 1, 2)
    left = torch.tensor([[[True, False]]])
    found = [_semi.disagreement(student, teacher, counts).item() for counts in (left, ~left)]
    assert found == pytest.approx([0.04, 0.16])
    assert _semi.disagreement(student, teacher, left & False).item() == 0


def test_its_weight_rises_slowly_and_then_stays() -> None:
    found = [_semi.rampup(progress, 0.4) for progress in (0.0, 0.2, 0.4, 1.0)]
    assert found == pytest.approx([math.exp(-5), math.exp(-1.25), 1, 1])
    assert _semi.rampup(0.0, 0.0) == 1


def test_both_see_noise_of_their_own_that_is_bounded() -> None:
    image = torch.zeros(1, 1, 64, 64)
    torch.manual_seed(0)
    one, other = (_semi.noisy(image, 0.1) for _ in range(2))
    assert not torch.equal(one, other)
    assert one.abs().max() <= 0.2
    assert one.std().item() == pytest.approx(0.1, rel=0.15)


def test_pseudo_labels_are_what_is_likeliest_where_it_is_likely_enough() -> None:
    shares = torch.tensor([[0.9, 0.05, 0.05], [0.1, 0.7, 0.2], [0.0, 0.04, 0.96]])
    logits = shares.log().T.view(1, 3, 3, 1).requires_grad_()
    assert _semi.pseudo_labels(logits).flatten().tolist() == [0, 1, 2]
    label = _semi.pseudo_labels([logits, logits[:, :, :1]], 0.8)
    assert label.flatten().tolist() == [0, IGNORED, 2]
    assert label.dtype == torch.uint8
    assert not label.requires_grad


def test_guesses_of_labelled_samples_teach_nothing() -> None:
    image, label = torch.zeros(2, 1, 1, 2), torch.tensor([[[0, 1]], [[1, 1]]], dtype=torch.uint8)
    batch = Batch(image, label, labelled=torch.tensor([True, False]))
    assert _semi.of_unlabelled(label, batch).tolist() == [[[IGNORED, IGNORED]], [[1, 1]]]


def test_boxes_have_sides_within_their_range_and_a_chance_of_being_there() -> None:
    torch.manual_seed(0)
    image = torch.zeros(20, 2, 10, 20, 10)
    inside = _semi.boxes(image, (0.3, 0.5))
    assert inside.shape == (20, 10, 20, 10)
    for case in inside:
        sides = [int(case.any(-1).any(-1).sum()), int(case.any(-1).any(0).sum())]
        sides.append(int(case.any(0).any(0).sum()))
        assert int(case.sum()) == math.prod(sides), "not a box"
        assert 3 <= sides[0] <= 5
        assert 6 <= sides[1] <= 10
        assert 3 <= sides[2] <= 5
    assert len({tuple(case.flatten().tolist()) for case in inside}) > 10
    assert not _semi.boxes(image, (0.3, 0.5), 0.0).any()


def test_what_is_pasted_comes_from_the_partner_and_only_into_the_box() -> None:
    label = torch.tensor([[1, 1, 1], [2, 2, 2]], dtype=torch.uint8).view(2, 1, 3)
    image = torch.stack([label.float(), -label.float()], 1)
    inside = torch.tensor([[[True, False, False]], [[False, True, True]]])
    partner = torch.tensor([1, 0])
    assert _semi.pasted(label, partner, inside).tolist() == [[[2, 1, 1]], [[2, 1, 1]]]
    expected = torch.tensor([[[[2.0, 1, 1]], [[-2, -1, -1]]]] * 2)
    assert torch.equal(_semi.pasted(image, partner, inside), expected)


def test_a_strong_view_changes_intensities_and_stays_whole_in_16_bits() -> None:
    torch.manual_seed(0)
    image = torch.randn(6, 1, 8, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        changed = _semi.strongly_changed(image)
    assert changed.dtype == torch.float32
    assert torch.isfinite(changed).all()
    assert not any(torch.equal(*pair) for pair in zip(image, changed, strict=True))
