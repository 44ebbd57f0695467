from __future__ import annotations

import numpy as np
import pytest
import torch

from delineate.core.image import Grid, Image
from delineate.inference.classes import classify, original_slices


class Brightness(torch.nn.Module):
    """Logits (0, mean of the picture)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean((1, 2, 3))
        return torch.stack([torch.zeros_like(mean), mean], 1)


def document(target: str, axis: int | None, temperature: float = 1.0) -> dict:
    return {
        "classes": {"names": ["no", "yes"], "target": target, "temperature": temperature},
        "input": {"slice_axis": axis, "patch": [4, 4]},
    }


def volume(levels: list[float]) -> Image:
    rng = np.random.default_rng(0)
    array = np.stack([level + 0.01 * rng.normal(size=(4, 4)) for level in levels], -1)
    return Image(array[None].astype(np.float32), Grid((4, 4, len(levels)), np.eye(4)))


def sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-x))


def test_a_case_is_the_mean_of_its_slices_and_presence_the_most():
    image = volume([-2.0, 0.0, 2.0])
    cpu = torch.device("cpu")
    case, slices, along = classify(document("class", 2), Brightness(), cpu, image, image.grid)
    each = [one["probabilities"]["yes"] for one in slices]
    assert each == pytest.approx([sigmoid(-2), 0.5, sigmoid(2)], abs=0.01)
    assert case["yes"] == pytest.approx(np.mean(each))
    assert case["no"] + case["yes"] == pytest.approx(1)
    assert along == 2
    assert [one["slice"] for one in slices] == [0, 1, 2]
    case, _, _ = classify(document("presence", 2), Brightness(), cpu, image, image.grid)
    assert case["yes"] == pytest.approx(max(each))


def test_the_temperature_softens_without_changing_the_answer():
    image = volume([3.0])
    cpu = torch.device("cpu")
    sharp, _, _ = classify(document("class", 2), Brightness(), cpu, image, image.grid)
    soft, _, _ = classify(document("class", 2, 3.0), Brightness(), cpu, image, image.grid)
    assert sharp["yes"] == pytest.approx(sigmoid(3), abs=0.01)
    assert soft["yes"] == pytest.approx(sigmoid(1), abs=0.01)


def test_slices_are_counted_on_the_original_array():
    # the file runs downwards along its first axis, and the preparation cut off two slices below
    original = Grid(
        (5, 4, 4), np.array([[0, 0, 1, 0], [0, 1, 0, 0], [-2, 0, 0, 8], [0, 0, 0, 1.0]])
    )
    prepared = Grid((4, 4, 3), np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 2, 4], [0, 0, 0, 1.0]]))
    along, numbers = original_slices(prepared, original, 2, [0, 1, 2])
    assert along == 0
    assert numbers == [2, 1, 0]
    assert original_slices(prepared, original, None, [None]) == (None, [None])
