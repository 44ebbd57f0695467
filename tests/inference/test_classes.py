from __future__ import annotations

import numpy as np
import pytest
import torch

from delineate.core.errors import ResourceError
from delineate.core.image import Grid, Image
from delineate.inference.classes import (
    any_slice,
    mean_of_slices,
    overlap,
    probabilities,
    shown_slices,
)
from delineate.inference.runtimes.torch import classifier
from delineate.preprocess.presets import Channel, Preparation, apply

AS_IS = {"low": -1e6, "high": 1e6, "mean": 0.0, "std": 1.0}


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


def classify(document: dict, network: torch.nn.Module, image: Image, original: Grid, **options):
    infer = classifier(network, "cpu", attention=True)
    pool = any_slice if document["classes"]["target"] == "presence" else mean_of_slices
    return probabilities(document, infer, image, original, pool, **options)


def volume(levels: list[float]) -> Image:
    rng = np.random.default_rng(0)
    array = np.stack([level + 0.01 * rng.normal(size=(4, 4)) for level in levels], -1)
    return Image(array[None].astype(np.float32), Grid((4, 4, len(levels)), np.eye(4)))


def sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-x))


def test_a_case_is_the_mean_of_its_slices_and_presence_the_most():
    image = volume([-2.0, 0.0, 2.0])
    case, facts = classify(document("class", 2), Brightness(), image, image.grid)
    each = [one["probabilities"]["yes"] for one in facts["slices"]]
    assert each == pytest.approx([sigmoid(-2), 0.5, sigmoid(2)], abs=0.01)
    assert case["yes"] == pytest.approx(np.mean(each))
    assert case["no"] + case["yes"] == pytest.approx(1)
    assert facts["slice_axis"] == 2
    assert [one["slice"] for one in facts["slices"]] == [0, 1, 2]
    assert "attention" not in facts
    case, _ = classify(document("presence", 2), Brightness(), image, image.grid)
    assert case["yes"] == pytest.approx(max(each))


def test_the_temperature_softens_without_changing_the_answer():
    image = volume([3.0])
    sharp, _ = classify(document("class", 2), Brightness(), image, image.grid)
    soft, _ = classify(document("class", 2, 3.0), Brightness(), image, image.grid)
    assert sharp["yes"] == pytest.approx(sigmoid(3), abs=0.01)
    assert soft["yes"] == pytest.approx(sigmoid(1), abs=0.01)


def test_slices_are_counted_on_the_original_array():
    # the file runs downwards along its first axis, and the preparation cut off two slices below
    original = Grid(
        (5, 4, 4), np.array([[0, 0, 1, 0], [0, 1, 0, 0], [-2, 0, 0, 8], [0, 0, 0, 1.0]])
    )
    prepared = Grid((4, 4, 3), np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 2, 4], [0, 0, 0, 1.0]]))
    along, shares = shown_slices(prepared, original, 2)
    assert along == 0
    assert shares == pytest.approx(np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0], [0] * 3, [0] * 3]))


@pytest.mark.parametrize(("thick", "prepared"), [(2.0, 1.0), (1.0, 2.0), (1.5, 1.0), (5.0, 1.2)])
@pytest.mark.parametrize("turn", [1, -1])
def test_every_slice_of_the_file_is_told_once_whatever_the_distance_of_slices(
    thick: float, prepared: float, turn: int
):
    levels = np.array([-3.0, -1.0, 0.5, 2.0, 3.0, -2.0, 1.0, 0.0])
    original = Grid((4, 4, 8), np.diag([1, 1, turn * thick, 1]).astype(float))
    rng = np.random.default_rng(0)
    array = levels + 0.01 * rng.normal(size=(1, 4, 4, 8))
    image = Image(array.astype(np.float32), original)
    plan = Preparation((Channel("mr", "MR", "window", AS_IS),), 3, (None, None, prepared))
    done = apply(plan, image)
    assert done.array.shape[-1] != 8
    case, facts = classify(document("class", 2), Brightness(), done, original)
    assert [one["slice"] for one in facts["slices"]] == list(range(8))
    found = np.array([one["probabilities"]["yes"] for one in facts["slices"]])
    assert case["yes"] == pytest.approx(found.mean())
    if prepared < thick:  # no slice is taken for its mirror image
        assert np.corrcoef(found, sigmoid(levels))[0, 1] > 0.85


def test_uniform_slices_are_pictures_like_any_others():
    array = np.broadcast_to(np.array([1.0, 2.0, 3.0]), (1, 4, 4, 3)).astype(np.float32)
    image = Image(array, Grid((4, 4, 3), np.eye(4)))
    case, facts = classify(document("class", 2), Brightness(), image, image.grid)
    assert [one["slice"] for one in facts["slices"]] == [0, 1, 2]
    assert case["yes"] == pytest.approx(np.mean([sigmoid(x) for x in (1, 2, 3)]))


class Corner(torch.nn.Module):
    """Logits (0, the picture's first value)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = x[:, 0, 0, 0]
        return torch.stack([torch.zeros_like(first), first], 1)


def test_mirrored_passes_are_averaged():
    image = volume([0.0])
    image.array[0, ..., 0] = 0
    image.array[0, 0, 0, 0], image.array[0, -1, 0, 0] = 2, -1
    shape = {
        **document("class", 2),
        "input": {"slice_axis": 2, "patch": [4, 4], "mirror_axes": [0]},
    }
    plain, _ = classify(shape, Corner(), image, image.grid)
    both, _ = classify(shape, Corner(), image, image.grid, mirror=True)
    assert plain["yes"] == pytest.approx(sigmoid(2))
    assert both["yes"] == pytest.approx((sigmoid(2) + sigmoid(-1)) / 2)


def test_attention_of_a_mirrored_volume_is_that_of_the_slices_that_are_there():
    image = volume([1.0, 2.0, 5.0])
    whole = bag((4, 4, 3), mirror_axes=[0, 2])
    _, plain = classify(whole, Looking(2), image, image.grid)
    _, both = classify(whole, Looking(2), image, image.grid, mirror=True)
    for one, other in zip(plain["attention"], both["attention"], strict=True):
        assert one["weight"] == pytest.approx(other["weight"])


def test_too_little_memory_is_said_before_the_network_runs():
    image = volume([1.0])
    with pytest.raises(ResourceError, match="it needs"):
        probabilities(
            document("class", 2),
            lambda _: {},
            image,
            image.grid,
            mean_of_slices,
            memory_bytes=100,
        )


def test_slices_share_what_is_shown_of_them():
    assert overlap(4, 2).tolist() == [[0.5, 0], [0.5, 0], [0, 0.5], [0, 0.5]]
    assert overlap(2, 4).tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]
    assert overlap(3, 2) == pytest.approx(np.array([[2, 0], [1, 1], [0, 2]]) / 3)
    for count, shown in ((155, 32), (5, 5), (7, 32)):
        assert overlap(count, shown).sum(0) == pytest.approx(np.ones(shown))


def bag(patch: tuple[int, ...], **shape) -> dict:
    return {
        **document("class", None),
        "network": {"config": {"axis": 2}},
        "input": {"slice_axis": None, "patch": list(patch), **shape},
    }


class Looking(torch.nn.Module):
    """Looks at the slices of its axis by how bright they are."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(x), 2)

    def slice_weights(self, x: torch.Tensor) -> torch.Tensor:
        bright = x.mean([d for d in (1, 2, 3, 4) if d != self.axis + 2])
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
    _, facts = classify(bag((4, 4, 2)), Looking(2), Image(array, grid), original)
    assert facts["slice_axis"] == 0
    shown = {one["slice"]: one["weight"] for one in facts["attention"]}
    assert shown == pytest.approx({0: 0.375, 1: 0.375, 2: 0.125, 3: 0.125})


def test_a_network_that_sees_the_volume_whole_answers_for_the_case_alone():
    image = volume([1.0, 2.0, 5.0])
    case, facts = classify(bag((4, 4, 3)), Looking(2), image, image.grid)
    assert case == {"no": 0.5, "yes": 0.5}
    assert [one["slice"] for one in facts["slices"]] == [None]
    assert [one["slice"] for one in facts["attention"]] == [0, 1, 2]
    assert facts["attention"][2]["weight"] == pytest.approx(5 / 8, abs=0.01)
    assert facts["slice_axis"] == 2
