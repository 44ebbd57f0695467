"""Channels that a preparation computes from the others."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from tests.preprocess.referee import home

from delineate.core.errors import ConfigError
from delineate.core.image import Grid, Image, flat_grid
from delineate.preprocess import presets


def head(spacing: float = 1.0) -> Image:
    """T1 and FLAIR of three tissues without their surroundings."""
    generator = np.random.default_rng(0)
    shape = (30, 32, 28)
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    truth = generator.integers(0, 3, (15, 16, 14)).repeat(2, 0).repeat(2, 1).repeat(2, 2)
    means = np.array([[300.0, 200.0, 100.0], [80.0, 160.0, 320.0]])[:, truth]
    inside = sum(x**2 for x in axes) < 0.7
    values = np.where(inside, means + generator.normal(0, 8, (2, *shape)), 0).astype(np.float32)
    return Image(values, Grid(shape, np.diag([spacing, 1.0, 1.0, 1.0])))


def planned(image: Image, *others: Grid, **options: Any) -> presets.Preparation:
    return presets.plan(
        [image.grid, *others], ["MR", "MR"], names=["t1", "flair"], **options
    )  # fmt: skip


@pytest.mark.parametrize("spacing", [1.0, 2.0])
def test_derived_channels_come_after_the_files_own(spacing: float) -> None:
    image = head(spacing)
    finer = Grid((30, 32, 28), np.eye(4))
    plan = planned(image, finer, finer, derived=["clusters", "equalised"])
    assert plan.outputs == (
        "t1", "flair", "equalised:t1", "equalised:flair", "cluster:1", "cluster:2", "cluster:3",
    )  # fmt: skip
    assert plan.sources == (0, 1, 0, 1, None, None, None)
    done = presets.apply(plan, image)
    assert done.array.shape[0] == 7
    assert done.array.dtype == np.float32
    own = presets.apply(planned(image, finer, finer), image)
    np.testing.assert_array_equal(done.array[:2], own.array)
    assert done.grid.same_as(own.grid)
    step = done.history[-1]
    assert step["step"] == "derive"
    assert step["clusters"]["ordered_by"] == "flair"
    assert json.loads(json.dumps(step)) == step
    np.testing.assert_array_equal(presets.apply(plan, image).array, done.array)


def test_they_are_scaled_like_their_neighbours_and_0_in_the_background() -> None:
    image = head()
    done = presets.apply(planned(image, derived=["equalised", "clusters"]), image)
    inside = done.array[4:].sum(0)
    assert set(np.unique(inside)) == {0, 1}
    tissue = inside == 1
    assert not done.array[:, ~tissue].any()
    for channel in done.array[2:4]:
        assert abs(float(channel[tissue].mean())) < 0.05
        assert float(channel[tissue].std()) == pytest.approx(1, abs=0.03)
    flair = [float(done.array[1][done.array[4 + i] == 1].mean()) for i in range(3)]
    assert flair == sorted(flair)


def test_labels_still_come_home() -> None:
    image = head(2.0)
    plan = planned(image, Grid((60, 32, 28), np.eye(4)), Grid((60, 32, 28), np.eye(4)),
                   derived=["clusters"])  # fmt: skip
    prepared = presets.apply(plan, image)
    assert [s["step"] for s in prepared.history][-2:] == ["resample", "derive"]
    label = Image((image.array[1:] > 240).astype(np.uint8), image.grid)
    moved = presets.apply_label(label, prepared)
    back = home(moved[None].astype(np.float32), prepared.history)
    assert ((back[0] > 0.5) == label.array[0]).mean() > 0.99


def test_pictures_and_single_channels() -> None:
    generator = np.random.default_rng(0)
    picture = Image(generator.integers(0, 256, (3, 40, 44)).astype(np.float32), flat_grid((40, 44)))
    plan = presets.plan([picture.grid], ["RGB"] * 3, names=["r", "g", "b"],
                        derived=["equalised", "clusters"], clusters=5)  # fmt: skip
    done = presets.apply(plan, picture)
    assert done.array.shape[0] == 3 + 3 + 5
    np.testing.assert_array_equal(done.array[6:].sum(0), 1)
    one = presets.plan([picture.grid], ["XR"], derived=["clusters"])
    assert presets.apply(one, Image(picture.array[:1], picture.grid)).array.shape[0] == 4


def test_a_channel_without_anything_derives_nothing_and_stops_nobody() -> None:
    image = head()
    array = image.array.copy()
    array[0] = 5
    plan = planned(image, derived=["equalised", "clusters"])
    done = presets.apply(plan, Image(array, image.grid))
    assert not done.array[2].any()
    assert np.isfinite(done.array).all()
    binary = Image((image.array > 0).astype(np.float32), image.grid)
    assert presets.apply(plan, binary).array.shape[0] == 7


def test_plans_survive_json_and_those_of_old_files_derive_nothing() -> None:
    plan = planned(head(), derived=["equalised"], clusters=4)
    data = json.loads(json.dumps(plan.to_dict()))
    assert presets.Preparation.from_dict(data) == plan
    del data["derived"], data["clusters"]
    old = presets.Preparation.from_dict(data)
    assert (old.derived, old.outputs) == ((), ("t1", "flair"))


@pytest.mark.parametrize("wrong", [["equalized"], ["clusters", "clusters"]])
def test_what_cannot_be_derived_is_refused(wrong: list[str]) -> None:
    with pytest.raises(ConfigError, match="at most once of equalised, clahe, clusters"):
        planned(head(), derived=wrong)
    with pytest.raises(ConfigError, match="got 1"):
        planned(head(), clusters=1)
