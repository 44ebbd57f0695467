from __future__ import annotations

import itertools

import pytest
import torch

from delineate.losses import adversarial, class_l1


def test_the_distance_of_features_is_a_mean_over_layers_of_means() -> None:
    found = [torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0]])]
    wanted = [torch.tensor([[0.0, 0.0]]), torch.tensor([[-1.0]])]
    # (mean(1, 3) + 3) / 2: a layer with more numbers counts no more
    assert adversarial.feature_distance(found, wanted).item() == pytest.approx(2.5)
    assert adversarial.feature_distance(found, found) == 0


def test_signs_make_r1_the_mean_of_the_scores_own_gradients() -> None:
    """Two scores that both look at the middle voxel; without signs its gradients add up."""
    x = torch.randn(1, 1, 3, requires_grad=True)
    scores = torch.stack([x[..., 0] + x[..., 1], x[..., 1] + x[..., 2]], -1)  # (1, 1, 2)
    assert adversarial.r1(scores, x).item() == pytest.approx((1 + 4 + 1) / 2)
    found = [
        adversarial.r1(scores, x, torch.tensor([[signs]])).item()
        for signs in itertools.product((-1.0, 1.0), repeat=2)
    ]
    assert sum(found) / 4 == pytest.approx(2)  # each score's own squared gradient is 1 + 1


def test_the_absolute_difference_of_a_hand_worked_case() -> None:
    logits = torch.tensor([0.2, 0.5, 0.3]).log().view(1, 3, 1)
    label = torch.tensor([[1]], dtype=torch.uint8)
    assert class_l1.loss(logits, label).item() == pytest.approx((0.2 + 0.5 + 0.3) / 3)
    sure = torch.tensor([-50.0, 50.0, -50.0]).view(1, 3, 1)
    assert class_l1.loss(sure, label).item() == pytest.approx(0, abs=1e-6)
