"""From files to prepared cases, and what is refused on the way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from tests.preprocess.referee import home

from delineate.core.case import Case
from delineate.core.errors import InputError, PartialError
from delineate.core.schema import Label, Schema
from delineate.data.cohort import Cohort
from delineate.training.preparing import plan_preparation, prepare_cohort, recipe_key

SCHEMA = Schema(labels=(Label("organ", 1), Label("lesion", 7)))


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    generator = np.random.default_rng(0)
    found = []
    for i in range(3):
        affine = np.diag([-1.0, 1.0, 1.0 + i / 4, 1.0])
        image = generator.normal(100, 10, (10, 12, 14)).astype(np.float32)
        label = np.zeros(image.shape, np.uint8)
        label[2:5, 3:6, 4:9] = 1
        label[3, 4, 5] = 7
        found.append(
            Case(
                f"c{i}",
                f"s{i}",
                {"t1": save(tmp_path / f"{i}.nii.gz", image, affine)},
                save(tmp_path / f"{i}_seg.nii.gz", label, affine),
                class_name="ill",
            )
        )
    return Cohort(tmp_path, "test", tuple(found), SCHEMA, modalities={"t1": "MR"})


def change(cohort: Cohort, index: int, **fields: object) -> Cohort:
    cases = list(cohort.cases)
    cases[index] = dataclasses.replace(cases[index], **fields)  # type: ignore[arg-type]
    return cohort.with_cases(cases)


def failure(cohort: Cohort, tmp_path: Path) -> str:
    plan = plan_preparation(cohort)
    with pytest.raises(PartialError) as caught:
        prepare_cohort(cohort, plan, tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("*/case.json"))) == len(cohort) - 1
    return str(caught.value)


def test_prepared_labels_come_home_to_the_file(cohort: Cohort, tmp_path: Path) -> None:
    plan = plan_preparation(cohort)
    assert plan.ndim == 3
    assert plan.spacing_mm == pytest.approx((1, 1, 1.25))
    prepared = prepare_cohort(cohort, plan, tmp_path / "cache")
    middle = prepared[1]
    assert middle.label is not None
    back = home(np.array(middle.label)[None], middle.history)[0]
    truth = nib.load(cohort.cases[1].label).get_fdata()
    np.testing.assert_array_equal(SCHEMA.to_values(back), truth)
    assert middle.meta["voxels"] == {"organ": 44, "lesion": 1}
    assert middle.class_name == "ill"
    assert prepared[0].shape[1:] == (10, 12, 11)


def test_a_label_on_another_grid_is_named(cohort: Cohort, tmp_path: Path) -> None:
    moved = np.diag([-1.0, 1.0, 1.25, 1.0])
    moved[0, 3] = 0.01
    other = save(tmp_path / "moved.nii.gz", np.zeros((10, 12, 14), np.uint8), moved)
    text = failure(change(cohort, 1, label=other), tmp_path)
    assert "c1: [label-grid]" in text
    assert "0.01 mm" in text


def test_an_undeclared_label_value_is_named(cohort: Cohort, tmp_path: Path) -> None:
    array = np.full((10, 12, 14), 9, np.uint8)
    other = save(tmp_path / "nine.nii.gz", array, np.diag([-1.0, 1.0, 1.25, 1.0]))
    text = failure(change(cohort, 1, label=other), tmp_path)
    assert "c1: [label-unknown]" in text
    assert "nine.nii.gz" in text


def test_nan_voxels_are_refused(cohort: Cohort, tmp_path: Path) -> None:
    array = np.ones((10, 12, 14), np.float32)
    array[1, 2, 3] = np.nan
    other = save(tmp_path / "nan.nii.gz", array, np.diag([-1.0, 1.0, 1.25, 1.0]))
    assert "c1: [voxels-not-finite]" in failure(change(cohort, 1, images={"t1": other}), tmp_path)


def test_unlabelled_cases_are_prepared_too(cohort: Cohort, tmp_path: Path) -> None:
    bare = change(cohort, 1, label=None)
    prepared = prepare_cohort(bare, plan_preparation(bare), tmp_path / "cache")
    assert [case.label is None for case in prepared] == [False, True, False]


def test_cases_with_other_channels_are_named(cohort: Cohort) -> None:
    case = cohort.cases[2]
    odd = change(cohort, 2, images={"t2": case.images["t1"]})
    with pytest.raises(InputError, match="expected the channels t1 as most cases have, got t2"):
        plan_preparation(odd)


def test_channels_on_other_grids_are_refused(cohort: Cohort, tmp_path: Path) -> None:
    cases = [
        dataclasses.replace(c, images={"t1": c.images["t1"], "t2": c.images["t1"]})
        for c in cohort.cases
    ]
    cases[0] = dataclasses.replace(
        cases[0], images={"t1": cases[0].images["t1"], "t2": cases[1].images["t1"]}
    )
    text = failure(cohort.with_cases(cases), tmp_path)
    assert "c0: [channels-grid] expected channel 't2' on the grid of channel 't1'" in text


def test_the_recipe_leaves_out_the_reasons(cohort: Cohort) -> None:
    plan = plan_preparation(cohort)
    assert recipe_key(plan, SCHEMA) == recipe_key(dataclasses.replace(plan, reasons=()), SCHEMA)
    other = dataclasses.replace(plan, crop=False)
    assert recipe_key(plan, SCHEMA) != recipe_key(other, SCHEMA)


def test_ct_is_measured_inside_the_labels(cohort: Cohort) -> None:
    ct = dataclasses.replace(cohort, modalities={"t1": "CT"})
    rule = plan_preparation(ct).channels[0]
    assert rule.rule == "window"
    assert 70 < rule.parameters["low"] < 100 < rule.parameters["high"] < 130


def test_hippocampus(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    cohort = Cohort.open(real_data("msd-task04-hippocampus"))
    few = cohort.with_cases(cohort.cases[:6])
    plan = plan_preparation(few)
    assert (plan.ndim, plan.spacing_mm) == (3, (1, 1, 1))
    for case, given in zip(prepare_cohort(few, plan, tmp_path), few, strict=True):
        assert case.label is not None
        truth = nib.load(given.label).get_fdata()
        back = home(np.array(case.label)[None], case.history)[0]
        np.testing.assert_array_equal(back, truth)
        assert set(case.samples) == {1, 2}


def test_glioma_stacks_hold_0_and_255(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    cohort = Cohort.open(real_data("lgg-mri-segmentation"))
    one = cohort.with_cases(cohort.cases[:1])
    plan = plan_preparation(one)
    assert (plan.ndim, plan.slice_axis, len(plan.channels)) == (2, 2, 3)
    case = prepare_cohort(one, plan, tmp_path)[0]
    assert case.shape == (3, 256, 256, 20)
    assert case.label is not None
    assert set(np.unique(case.label)) == {0, 1}
    stack = one.cases[0].images["rgb"]
    assert isinstance(stack, tuple)
    # One scale for the whole stack, measured inside the brain: every slice shows the same one.
    for channel, facts in enumerate(case.history[-1]["channels"]):
        assert 0.3 < facts["tissue_share"] < 0.6
        for k in (0, 9, 19):
            values = tifffile.imread(stack[k])[..., channel].astype(np.float64)
            clipped = np.clip(values, facts["floor"], facts["ceiling"])
            expected = (clipped - facts["mean"]) / facts["std"]
            np.testing.assert_allclose(case.image[channel, ..., k], expected, atol=1e-4)
