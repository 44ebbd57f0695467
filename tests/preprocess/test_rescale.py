"""The image that a model is to give: how its values are scaled, and come home in units."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from delineate.core.errors import InputError
from delineate.core.image import Grid, Image
from delineate.preprocess import presets, rescale
from delineate.preprocess.presets import Channel
from delineate.preprocess.rescale import Scale

MR, CT = Channel("t1c", "MR", "zscore"), Channel("ct", "CT", "window")


def head(gain: float) -> np.ndarray:
    """A head in air of 0: tissue of mean 100 and standard deviation 10, times the gain."""
    values = np.zeros((20, 20, 20), np.float32)
    tissue = np.random.default_rng(0).normal(size=(10, 10, 10))
    values[5:15, 5:15, 5:15] = gain * (100 + 10 * (tissue - tissue.mean()) / tissue.std())
    return values


def prepared(values: np.ndarray, channel: Channel = MR) -> tuple[np.ndarray, rescale.Facts]:
    grid = Grid(values.shape, np.diag([1.0, 1.0, 1.0, 1.0]))
    plan = presets.plan([grid], ["MR"], names=["t1"])
    like = presets.apply(plan, Image(head(3.0)[None], grid))
    return rescale.prepare(values, channel, head(3.0)[None], like)


def test_a_target_keeps_its_values_and_is_cut_as_its_inputs_are() -> None:
    target, facts = prepared(head(2.0) - 7)
    assert target.shape == (1, 10, 10, 10)
    np.testing.assert_allclose(target[0], head(2.0)[5:15, 5:15, 5:15] - 7, rtol=1e-6)
    assert facts["outside"] == -7
    assert facts["mean"] == pytest.approx(193, abs=0.1)
    assert facts["std"] == pytest.approx(20, abs=0.1)


def test_nothing_is_known_where_the_inputs_have_their_background() -> None:
    grid = Grid((20, 20, 20), np.eye(4))
    plan = presets.plan([grid], ["MR"], names=["t1"])
    inputs = head(3.0)[None].copy()
    inputs[:, 12:] = 0
    like = presets.apply(dataclasses.replace(plan, crop=False), Image(inputs, grid))
    target, facts = rescale.prepare(head(1.0) + 5, MR, inputs, like)
    assert np.isnan(target[0, :5]).all()
    assert np.isnan(target[0, 12:]).all()
    np.testing.assert_allclose(target[0, 5:12, 5:15, 5:15], head(1.0)[5:12, 5:15, 5:15] + 5)
    assert facts["outside"] == 5


def test_mr_is_scaled_scan_by_scan_and_comes_home_as_a_typical_scan() -> None:
    scans = [prepared(head(gain)) for gain in (1.0, 2.0, 9.0)]
    scale = Scale.of(MR, [facts for _, facts in scans])
    assert scale.units == "typical"
    given = [scale.apply(values, facts) for values, facts in scans]
    np.testing.assert_allclose(given[0], given[2], atol=1e-4)
    assert (given[0].mean(), given[0].std()) == pytest.approx((0, 1), abs=1e-3)
    np.testing.assert_allclose(scale.undo(given[2]), scans[1][0], rtol=1e-4)


def test_hounsfield_units_come_home_exactly() -> None:
    scans = [prepared(head(gain), CT) for gain in (1.0, 2.0, 9.0)]
    scale = Scale.of(CT, [facts for _, facts in scans])
    assert scale.units == "scan"
    for values, facts in scans:
        np.testing.assert_allclose(scale.undo(scale.apply(values, facts)), values, atol=1e-3)


def test_a_scale_is_written_and_read() -> None:
    scale = Scale("t1c", "typical", 3.0, 2.0, 0.0)
    assert Scale.from_dict(scale.to_dict()) == scale
    assert "no unit" in scale.to_dict()["meaning"]


@pytest.mark.parametrize(("value", "what"), [(0.0, "one single value"), (np.nan, "NaN")])
def test_what_cannot_be_learned_from_is_refused(value: float, what: str) -> None:
    values: Any = np.zeros((20, 20, 20), np.float32)
    values[3] = value
    with pytest.raises(InputError, match=what):
        prepared(values)


def test_a_plan_takes_the_target_out_of_its_channels_and_says_why() -> None:
    grid = Grid((20, 20, 20), np.eye(4))
    plan = presets.plan([grid], ["MR", "MR", "CT"], names=["t1", "t1c", "ct"], target="t1c")
    assert [channel.name for channel in plan.channels] == ["t1", "ct"]
    assert plan.target is not None
    assert plan.target.name == "t1c"
    assert any("target t1c: every scan is scaled alone" in why for why in plan.reasons)
    assert presets.Preparation.from_dict(plan.to_dict()) == plan
    without = presets.plan([grid], ["MR"], names=["t1"])
    assert "target" not in without.to_dict()
