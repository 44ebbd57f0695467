from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from delineate.core.image import Grid, Image
from delineate.inference.classes import attention, classify, original_slices, overlap


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
    case, facts = classify(document("class", 2), Brightness(), cpu, image, image.grid)
    each = [one["probabilities"]["yes"] for one in facts["slices"]]
    assert each == pytest.approx([sigmoid(-2), 0.5, sigmoid(2)], abs=0.01)
    assert case["yes"] == pytest.approx(np.mean(each))
    assert case["no"] + case["yes"] == pytest.approx(1)
    assert facts["slice_axis"] == 2
    assert [one["slice"] for one in facts["slices"]] == [0, 1, 2]
    assert "attention" not in facts
    case, _ = classify(document("presence", 2), Brightness(), cpu, image, image.grid)
    assert case["yes"] == pytest.approx(max(each))


def test_the_temperature_softens_without_changing_the_answer():
    image = volume([3.0])
    cpu = torch.device("cpu")
    sharp, _ = classify(document("class", 2), Brightness(), cpu, image, image.grid)
    soft, _ = classify(document("class", 2, 3.0), Brightness(), cpu, image, image.grid)
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


def test_slices_share_what_is_shown_of_them():
    assert overlap(4, 2).tolist() == [[0.5, 0], [0.5, 0], [0, 0.5], [0, 0.5]]
    assert overlap(2, 4).tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]
    assert overlap(3, 2) == pytest.approx(np.array([[2, 0], [1, 1], [0, 2]]) / 3)
    for count, shown in ((155, 32), (5, 5), (7, 32)):
        assert overlap(count, shown).sum(0) == pytest.approx(np.ones(shown))


class Looking(torch.nn.Module):
    """Looks at the slices of its axis by how bright they are."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(axis=axis)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(x), 2)

    def slice_weights(self, x: torch.Tensor) -> torch.Tensor:
        bright = x.mean([d for d in (1, 2, 3, 4) if d != self.config.axis + 2])
        return bright / bright.sum(1, keepdim=True)


def test_attention_is_told_for_the_slices_of_the_file():
    # along the file's first axis, backwards; two slices were cut off, and two are averaged in one
    original = Grid(
        (6, 4, 4), np.array([[0, 0, 1, 0], [0, 1, 0, 0], [-2, 0, 0, 10], [0, 0, 0, 1.0]])
    )
    grid = Grid((4, 4, 4), np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 2, 4], [0, 0, 0, 1.0]]))
    array = np.zeros((1, 4, 4, 4), np.float32)
    array[..., 2:] = 3.0
    array[..., :2] = 1.0
    facts = attention(Looking(2), Image(array, grid), original, (4, 4, 2), torch.device("cpu"))
    assert facts["slice_axis"] == 0
    shown = {one["slice"]: one["weight"] for one in facts["attention"]}
    assert shown == pytest.approx({0: 0.375, 1: 0.375, 2: 0.125, 3: 0.125})


def test_a_network_that_sees_the_volume_whole_answers_for_the_case_alone():
    image = volume([1.0, 2.0, 5.0])
    shape = {**document("class", None), "input": {"slice_axis": None, "patch": [4, 4, 3]}}
    case, facts = classify(shape, Looking(2), torch.device("cpu"), image, image.grid)
    assert case == {"no": 0.5, "yes": 0.5}
    assert [one["slice"] for one in facts["slices"]] == [None]
    assert [one["slice"] for one in facts["attention"]] == [0, 1, 2]
    assert facts["attention"][2]["weight"] == pytest.approx(5 / 8, abs=0.01)
    assert facts["slice_axis"] == 2
