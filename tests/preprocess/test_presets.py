"""Plans, and the intensities that come out of them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from delineate.core.errors import ConfigError, GeometryError, InputError
from delineate.core.image import Grid, Image, flat_grid
from delineate.preprocess import normalise, presets


def grid(shape: tuple[int, ...], spacing: tuple[float, ...]) -> Grid:
    return Grid(shape, np.diag([*spacing, 1.0]))


def test_equal_voxels_are_kept_and_other_scans_are_brought_to_them() -> None:
    plan = presets.plan([grid((35, 50, 36), (1, 1, 1)), grid((34, 52, 35), (1, 1, 1.005))], ["MR"])
    assert (plan.ndim, plan.spacing_mm, plan.slice_axis) == (3, (1, 1, 1.002), None)
    values = np.random.default_rng(0).normal(size=(1, 9, 9, 9)).astype(np.float32)
    alike = presets.apply(plan, Image(values, grid((9, 9, 9), (1, 1.005, 0.995))))
    assert [step["step"] for step in alike.history] == ["normalise"]
    coarse = presets.apply(plan, Image(values, grid((9, 9, 9), (1, 1, 2))))
    assert coarse.grid.shape == (9, 9, 18)


def test_unequal_voxels_go_to_the_median() -> None:
    grids = [grid((60, 60, 60), (s, s, 1.0)) for s in (0.8, 1.0, 1.4)]
    assert presets.plan(grids, ["MR"]).spacing_mm == (1.0, 1.0, 1.0)


def test_spacings_are_compared_after_orientation() -> None:
    turned = Grid((30, 60, 60), np.array([[0, 0, 1, 0], [0, 1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1]]))
    plan = presets.plan([grid((60, 60, 30), (1, 1, 2)), turned], ["MR"])
    assert plan.spacing_mm == (1, 1, 2)
    assert any("every case has 1 × 1 × 2 mm" in reason for reason in plan.reasons)


def test_thick_slices_go_to_the_finer_tenth() -> None:
    grids = [grid((256, 256, 30), (0.5, 0.5, s)) for s in (3.0, 5.0, 5.0, 5.0, 6.0)]
    plan = presets.plan(grids, ["MR"])
    assert plan.ndim == 3
    assert plan.spacing_mm == pytest.approx((0.5, 0.5, 3.8))


def test_few_thick_slices_are_treated_slice_by_slice() -> None:
    grids = [grid((256, 10, 256), (s, 6.0, s)) for s in (0.5, 0.5, 0.7)]
    plan = presets.plan(grids, ["MR"])
    assert (plan.ndim, plan.slice_axis, plan.spacing_mm) == (2, 1, (0.5, None, 0.5))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("thickness", [1.0, 5.0, 999.0])
def test_volumes_of_one_slice_are_flat_whichever_way_they_are_cut(
    axis: int, thickness: float
) -> None:
    shape, spacing = [96, 80], [0.5, 0.5]
    shape.insert(axis, 1)
    spacing.insert(axis, thickness)
    plan = presets.plan([grid(tuple(shape), tuple(spacing))] * 3, ["US"])  # type: ignore[arg-type]
    wanted: list[float | None] = [0.5, 0.5]
    wanted.insert(axis, None)
    assert (plan.ndim, plan.slice_axis, plan.single_slices) == (2, axis, True)
    assert plan.spacing_mm == tuple(wanted)
    unknown = presets.plan([flat_grid(tuple(shape))], ["US"])
    assert (unknown.ndim, unknown.slice_axis, unknown.spacing_mm) == (2, axis, None)
    assert presets.Preparation.from_dict(plan.to_dict()) == plan


def test_single_slices_among_volumes_go_with_the_most() -> None:
    slice_, volume = grid((64, 64, 1), (1, 1, 3)), grid((64, 64, 60), (1, 1, 1))
    most = presets.plan([slice_, slice_, volume], ["MR"])
    assert (most.ndim, most.slice_axis, most.single_slices) == (2, 2, True)
    few = presets.plan([slice_, volume, volume], ["MR"])
    assert (few.ndim, few.slice_axis, few.single_slices) == (3, None, False)
    with pytest.raises(GeometryError, match="1 across axis 0, 2 across axis 2") as caught:
        presets.plan([slice_, slice_, grid((1, 64, 64), (3, 1, 1))], ["MR"])
    assert caught.value.code == "slices-mixed"


def test_stacks_and_flat_images_of_unknown_size_are_2d_and_never_resampled() -> None:
    stack = presets.plan([flat_grid((256, 256, 20))], ["MR"] * 3)
    assert (stack.ndim, stack.slice_axis, stack.spacing_mm, stack.orient) == (2, 2, None, False)
    flat = presets.plan([flat_grid((28, 28)), flat_grid((30, 20))], ["XR"])
    assert (flat.ndim, flat.slice_axis, flat.spacing_mm) == (2, None, None)


def test_dimensions_that_are_asked_for_win() -> None:
    thick, even = [grid((256, 10, 256), (0.5, 6.0, 0.5))], [grid((60, 60, 60), (1, 1, 1))]
    unknown = [flat_grid((256, 256, 20))]
    for grids, spacing in ((thick, (0.5, 6, 0.5)), (even, (1, 1, 1)), (unknown, None)):
        plan = presets.plan(grids, ["MR"], dimensions=3)
        assert (plan.ndim, plan.slice_axis, plan.spacing_mm) == (3, None, spacing)
    for grids, axis, kept in ((thick, 1, (0.5, None, 0.5)), (even, 2, (1, 1, None))):
        plan = presets.plan(grids, ["MR"], dimensions=2)
        assert (plan.ndim, plan.slice_axis, plan.spacing_mm) == (2, axis, kept)
        assert plan.reasons[0] == "2D, slice by slice, as was asked for"
    assert presets.plan(unknown, ["MR"], dimensions=2).slice_axis == 2
    assert presets.plan([flat_grid((28, 28))], ["XR"], dimensions=2).ndim == 2


@pytest.mark.parametrize(
    ("grids", "found"),
    [
        ([flat_grid((28, 28))], "flat images"),
        ([grid((64, 64, 1), (1, 1, 3))] * 2 + [grid((64, 64, 9), (1, 1, 3))], "in 2 of 3 cases"),
    ],
)
def test_pictures_are_never_3d(grids: list[Grid], found: str) -> None:
    with pytest.raises(ConfigError, match=f"volumes where dimensions is 3, got .*{found}") as at:
        presets.plan(grids, ["MR"], dimensions=3)
    assert (at.value.code, at.value.where) == ("dimensions", "dimensions")


def test_mixed_and_empty_cohorts_are_refused() -> None:
    with pytest.raises(GeometryError, match="got both"):
        presets.plan([flat_grid((28, 28)), flat_grid((28, 28, 9))], ["XR"])
    with pytest.raises(GeometryError, match="no case at all"):
        presets.plan([], ["XR"])


def test_plan_survives_json_and_refuses_unknown_keys() -> None:
    plan = presets.plan([grid((60, 60, 60), (s, 1, 1)) for s in (1, 2, 3)], ["CT", "PET"])
    data = json.loads(json.dumps(plan.to_dict()))
    assert presets.Preparation.from_dict(data) == plan
    with pytest.raises(ConfigError, match="colour"):
        presets.Preparation.from_dict({**data, "colour": 1})
    with pytest.raises(ConfigError, match="missing"):
        presets.Preparation.from_dict({k: v for k, v in data.items() if k != "crop"})
    data["channels"][0]["rule"] = "zscroe"
    with pytest.raises(ConfigError, match="zscroe"):
        presets.Preparation.from_dict(data)


def test_ct_window_comes_from_the_outlined_structures() -> None:
    statistics = {0: {"p00_5": -40, "p99_5": 160, "mean": 60, "std": 50, "maximum": 3000}}
    plan = presets.plan([flat_grid((9, 9))], ["CT"], statistics=statistics)
    values = np.array([-1000, -40, 60, 160, 3000], np.float32).reshape(1, 1, 5)
    done = presets.apply(plan, Image(values, flat_grid((1, 5))))
    np.testing.assert_allclose(done.array.ravel(), [-2, -2, 0, 2, 2])


def test_pet_that_is_not_in_suv_is_scaled_scan_by_scan() -> None:
    statistics = {"mean": 1e3, "std": 9.0, "p00_5": 0.0, "maximum": 3e4}
    for top, rule in ((12.0, "suv"), (20_000.0, "zscore")):
        plan = presets.plan(
            [flat_grid((9, 9))], ["PET"], statistics={0: {**statistics, "p99_5": top}}
        )
        assert plan.channels[0].rule == rule


def test_suv_keeps_its_meaning() -> None:
    out, _ = normalise.suv(np.array([0.0, 1.0, np.e - 1, 60.0]))
    np.testing.assert_allclose(out, [0, np.log(2), 1, np.log(51)])


@pytest.mark.parametrize(("maximum", "full"), [(255.0, 255.0), (40_000.0, 65535.0), (1.0, 1.0)])
def test_colour_is_scaled_alike_for_every_picture(maximum: float, full: float) -> None:
    found = {"maximum": maximum, "mean": 0, "std": 1, "p00_5": 0, "p99_5": 1}
    rule = presets.plan([flat_grid((9, 9))], ["RGB"], statistics={0: found}).channels[0]
    out, _ = normalise.window(np.array([0, full / 2, full]), **rule.parameters)
    np.testing.assert_allclose(out, [-2, 0, 2])


def test_skull_stripped_mr_is_scaled_inside_the_brain_and_0_outside() -> None:
    generator = np.random.default_rng(0)
    array = np.zeros((1, 20, 20, 20), np.float32)
    array[0, 5:15, 5:15, 5:15] = generator.normal(300, 40, (10, 10, 10))
    brain = array[0] != 0
    out, facts = normalise.zscore(array[0], 0.0, low=0, high=100)
    inside = array[0][brain].astype(np.float64)
    np.testing.assert_allclose(out[brain], (inside - inside.mean()) / inside.std(), atol=1e-5)
    assert not out[~brain].any()
    assert facts["tissue_share"] == pytest.approx(1 / 8)


def test_a_hot_voxel_does_not_decide_the_scale() -> None:
    values = np.random.default_rng(0).normal(300, 40, (40, 40, 40)).astype(np.float32)
    calm, _ = normalise.zscore(values)
    hot = values.copy()
    hot[3, 3, 3] = 1e7
    shaken, _ = normalise.zscore(hot)
    assert np.abs(shaken - calm)[hot == values].max() < 0.05


def test_air_noise_does_not_decide_the_scale() -> None:
    generator = np.random.default_rng(0)
    head = generator.normal(300, 40, (20, 20, 20)).astype(np.float32)
    field = np.abs(generator.normal(0, 4, (40, 40, 40))).astype(np.float32)
    field[10:30, 10:30, 10:30] = head
    alone, _ = normalise.zscore(head, low=0, high=100, whole=True)
    within, _ = normalise.zscore(field, low=0, high=100)
    np.testing.assert_allclose(within[10:30, 10:30, 10:30], alone, atol=1e-4)


def test_stacks_are_scaled_over_the_volume_not_slice_by_slice() -> None:
    values = np.random.default_rng(0).normal(100, 10, (1, 8, 8, 3)).astype(np.float32)
    values[..., 2] *= 2
    plan = presets.plan([flat_grid((8, 8, 3))], ["MR"])
    done = presets.apply(plan, Image(values, flat_grid((8, 8, 3)))).array
    assert done[..., 2].mean() > done[..., 0].mean() + 1


def test_steps_are_recorded_with_all_parameters() -> None:
    plan = presets.plan([flat_grid((8, 8))], ["XR"])
    image = Image(np.random.default_rng(0).normal(size=(1, 8, 8)), flat_grid((8, 8)))
    step = presets.apply(plan, image).history[-1]
    assert step["step"] == "normalise"
    assert {"rule", "low", "high", "whole", "mean", "std"} <= set(step["channels"][0])
    assert json.loads(json.dumps(step)) == step


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_numbers_are_refused(bad: float) -> None:
    values = np.ones((1, 4, 4), np.float32)
    values[0, 0, 0], values[0, 1, 1] = 2, bad
    with pytest.raises(InputError, match="got 1 voxels") as caught:
        presets.apply(presets.plan([flat_grid((4, 4))], ["MR"]), Image(values, flat_grid((4, 4))))
    assert caught.value.code == "voxels-not-finite"


def test_constant_images_are_refused_and_a_constant_channel_becomes_0() -> None:
    plan = presets.plan([flat_grid((4, 4))], ["MR", "MR"])
    with pytest.raises(InputError) as caught:
        presets.apply(plan, Image(np.full((2, 4, 4), 3.0, np.float32), flat_grid((4, 4))))
    assert caught.value.code == "image-constant"
    values = np.stack([np.arange(16.0).reshape(4, 4), np.full((4, 4), 3.0)]).astype(np.float32)
    done = presets.apply(plan, Image(values, flat_grid((4, 4))))
    assert not done.array[1].any()


def test_one_slice_of_a_stack_is_taken_for_a_stack_of_one() -> None:
    plan = presets.plan([grid((64, 10, 64), (s, 6.0, 1.0)) for s in (0.5, 0.5, 0.7)], ["MR"])
    assert (plan.slice_axis, plan.spacing_mm) == (1, (0.5, None, 1.0))
    values = np.random.default_rng(0).normal(size=(1, 10, 10)).astype(np.float32)
    flat = Image(values, flat_grid((10, 10), (1.0, 1.0)))
    assert presets.apply(plan, flat).grid.shape == (20, 10)


def test_other_channels_or_dimensions_than_planned_are_refused() -> None:
    plan = presets.plan([grid((9, 9, 9), (s, 1, 1)) for s in (1, 2, 3)], ["MR"])
    with pytest.raises(InputError, match=r"1 channels \(0\), got 2"):
        presets.apply(plan, Image(np.zeros((2, 9, 9, 9), np.float32), grid((9, 9, 9), (1, 1, 1))))
    flat = Image(np.arange(9.0).reshape(1, 3, 3), flat_grid((3, 3)))
    with pytest.raises(GeometryError, match="expected volumes, got an image of 2 axes"):
        presets.apply(plan, flat)
    unknown = Image(np.arange(27.0).reshape(1, 3, 3, 3), flat_grid((3, 3, 3)))
    with pytest.raises(GeometryError, match="does not state it"):
        presets.apply(plan, unknown)
