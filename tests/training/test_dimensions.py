"""Whether a network sees volumes or slices: by the data or as asked, up to the model file."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from tests.training.test_single_slices import cohort

from delineate.core import model_file
from delineate.core.case import Case
from delineate.core.config import load
from delineate.core.errors import ConfigError, PartialError
from delineate.core.image import Grid, Image
from delineate.core.schema import Label, Schema
from delineate.data.cohort import Cohort
from delineate.data.readers import write
from delineate.settings import RunConfig
from delineate.tasks.predict import predict
from delineate.tasks.train import train
from delineate.training.preparing import plan_preparation, prepare_cohort

SCHEMA = Schema(labels=(Label("ball", 1),))
SMALL = "width: 4\nbatch: 2\nholdout: 0\nvalidation: 0\n"


@pytest.mark.parametrize(
    ("suffix", "dimensions", "neighbours"), [(".nii.gz", 2, 1), (".nii.gz", 3, 0), (".tif", 3, 0)]
)
def test_dimensions_that_are_asked_for_reach_the_model(
    tmp_path: Path, suffix: str, dimensions: int, neighbours: int
) -> None:
    data = cohort(tmp_path / "set", suffix, *[(20, 20, 9)] * 4)
    config, run = tmp_path / "a.yaml", tmp_path / "run"
    config.write_text(SMALL + f"patch: {[16, 16, 8][:dimensions]}\ndimensions: {dimensions}\n")
    train(data, steps=2, config=config, out=run, audit=False)
    document = model_file.load(run / "model.safetensors").document
    assert document["network"]["config"]["ndim"] == dimensions
    assert document["input"]["neighbours"] == neighbours
    predict(run / "model.safetensors", data / "images", tmp_path / "masks")
    written = load(run / "config.yaml", RunConfig)
    assert (written.dimensions, written.neighbours) == (dimensions, neighbours)


def test_pictures_are_refused_where_volumes_are_asked_for(tmp_path: Path) -> None:
    data = cohort(tmp_path / "set", ".nii.gz", *[(20, 20, 1)] * 4)
    (tmp_path / "a.yaml").write_text(SMALL + "dimensions: 3\n")
    with pytest.raises(ConfigError, match=r"dimensions is 3, got single slices in 4 of 4 cases"):
        train(data, steps=2, config=tmp_path / "a.yaml", out=tmp_path / "run", audit=False)


def test_neighbours_of_slices_mean_nothing_in_volumes() -> None:
    assert RunConfig(dimensions=3, neighbours=0).dimensions == 3
    with pytest.raises(ConfigError, match="neighbours of slices alone, got 1"):
        RunConfig(dimensions=3, neighbours=1)


def balls(folder: Path, thickness: int, mm: float, *, count: int = 5, axis: int = 2) -> Cohort:
    """Balls of radius 10 to 14 pixels in slices as thick as so many, which say that they are mm."""
    cases = []
    for n in range(count):
        shape, step = [32, 32, 32], [1, 1, 1]
        shape[axis], step[axis] = math.ceil(32 / thickness), thickness
        away = np.indices(shape).T * step - 16
        drawn = (np.linalg.norm(away, axis=-1) < 10 + n).T.astype(np.uint8)
        spacing = np.ones(4)
        spacing[axis] = mm
        grid = Grid(tuple(shape), np.diag(spacing))
        image, label = folder / f"{n}.nii.gz", folder / f"{n}_seg.nii.gz"
        write(image, Image(drawn[None] * 100.0 + np.random.default_rng(n).normal(size=shape), grid))
        write(label, Image(drawn[None], grid))
        cases.append(Case(f"c{n}", f"s{n}", {"t1": image}, label))
    return Cohort(folder, "test", tuple(cases), SCHEMA, modalities={"t1": "MR"})


@pytest.mark.parametrize(
    ("thickness", "mm", "axis", "slice_axis"),
    [(1, 1.0, 2, None), (2, 6.0, 2, None), (4, 1.0, 2, 2), (5, 5.0, 1, 1)],
)
def test_labels_say_whether_volumes_are_seen_slice_by_slice(
    tmp_path: Path, thickness: int, mm: float, axis: int, slice_axis: int | None
) -> None:
    cohort = balls(tmp_path, thickness, mm, axis=axis)
    plan = plan_preparation(cohort)
    assert plan.slice_axis == slice_axis
    assert "by the overlap of labels in 5 cases" in plan.reasons[0]
    assert plan_preparation(cohort) == plan
    bare = cohort.with_cases(dataclasses.replace(case, label=None) for case in cohort.cases)
    assert "labels" not in plan_preparation(bare).reasons[0]


def test_those_who_judge_a_model_do_not_decide(tmp_path: Path) -> None:
    (tmp_path / "thick").mkdir()
    even, thick = balls(tmp_path, 1, 1.0), balls(tmp_path / "thick", 5, 5.0)
    assert plan_preparation(even, judged=thick) == plan_preparation(even)


def test_a_damaged_label_is_told_with_its_case_not_while_thickness_is_measured(
    tmp_path: Path,
) -> None:
    cohort = balls(tmp_path, 4, 4.0)
    (tmp_path / "3_seg.nii.gz").write_bytes(b"no longer a label")
    plan = plan_preparation(cohort)
    assert "in 4 cases" in plan.reasons[0]
    with pytest.raises(PartialError, match="c3"):
        prepare_cohort(cohort, plan, tmp_path / "cache")
