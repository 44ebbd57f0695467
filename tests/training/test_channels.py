"""The channels of a case are read by one rule, in training and in prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delineate.core.case import Case
from delineate.core.errors import GeometryError, InputError, PartialError
from delineate.core.image import Grid, Image, flat_grid
from delineate.core.schema import Label, Schema
from delineate.data import readers
from delineate.data.channels import read_channels
from delineate.data.cohort import Cohort
from delineate.training.preparing import plan_preparation, prepare_cohort


def case_of(tmp_path: Path, **arrays: Any) -> Case:
    images: dict[str, Any] = {}
    for name, array in arrays.items():
        path = tmp_path / f"{name}.nii.gz"
        readers.write(path, Image(np.asarray(array, np.float32), flat_grid(array.shape[1:])))
        images[name] = path
    return Case("a", "a", images)


def test_channels_come_in_the_order_of_the_model(tmp_path: Path) -> None:
    case = case_of(
        tmp_path,
        t1=np.full((1, 4, 4, 4), 1.0),
        flair=np.full((1, 4, 4, 4), 2.0),
        rgb=np.arange(3.0)[:, None, None, None] + np.full((3, 4, 4, 4), 10),
    )
    found = read_channels(case, ["rgb.2", "flair", "rgb.0"])
    assert found.array[:, 0, 0, 0].tolist() == [12, 2, 10]
    assert read_channels(case, ["t1"]).array[:, 0, 0, 0].tolist() == [1]


def test_lone_source_needs_no_name_but_the_right_number_of_channels(tmp_path: Path) -> None:
    case = case_of(tmp_path, image=np.stack([np.full((4, 4, 4), float(i)) for i in range(2)]))
    assert read_channels(case, ["flair", "t1c"]).array[:, 0, 0, 0].tolist() == [0, 1]
    with pytest.raises(InputError, match="expected the channels flair, t1c, t2"):
        read_channels(case, ["flair", "t1c", "t2"])


def test_missing_channel_is_named(tmp_path: Path) -> None:
    case = case_of(tmp_path, t1=np.ones((1, 4, 4, 4)), t2=np.ones((1, 4, 4, 4)))
    with pytest.raises(InputError) as caught:
        read_channels(case, ["t1", "flair"])
    assert "flair" in (caught.value.fix or "")


def test_channels_on_different_grids_are_refused(tmp_path: Path) -> None:
    case = case_of(tmp_path, t1=np.ones((1, 4, 4, 4)), t2=np.ones((1, 4, 4, 5)))
    with pytest.raises(GeometryError):
        read_channels(case, ["t1", "t2"])


def test_training_takes_channels_by_name_not_by_place(tmp_path: Path) -> None:
    """A case that lists the same channels in another order is prepared like the others."""
    grid = Grid((6, 6, 6), np.eye(4))
    rng = np.random.default_rng(0)
    values = {"t1": rng.random((6, 6, 6)) + 1, "t2": rng.random((6, 6, 6)) ** 3 + 1}
    cases = []
    for name, order in (("a", ("t1", "t2")), ("b", ("t2", "t1"))):
        images = {}
        for channel in order:
            images[channel] = tmp_path / f"{name}_{channel}.nii.gz"
            array = values[channel][None].astype(np.float32)
            readers.write(images[channel], Image(array, grid))
        cases.append(Case(name, name, images))
    cohort = Cohort(tmp_path, "table", tuple(cases), Schema(labels=(Label("x", 1),)),
                    modalities={"t1": "MR", "t2": "MR"})  # fmt: skip
    plan = plan_preparation(cohort)
    one, other = prepare_cohort(cohort, plan, tmp_path / "cache")
    assert np.array_equal(one.image, other.image)


def test_a_fault_that_nobody_foresaw_names_its_case(tmp_path: Path, monkeypatch: Any) -> None:
    from delineate.training import preparing

    array = np.random.default_rng(0).random((1, 6, 6, 6)).astype(np.float32)
    readers.write(tmp_path / "a.nii.gz", Image(array, Grid((6, 6, 6), np.eye(4))))
    case = Case("a", "a", {"image": tmp_path / "a.nii.gz"})
    cohort = Cohort(tmp_path, "table", (case,), Schema(labels=(Label("x", 1),)))
    plan = plan_preparation(cohort)
    monkeypatch.setattr(preparing, "prepare_case", lambda *_: 1 / 0)
    with pytest.raises(PartialError, match=r"a: .*ZeroDivisionError"):
        prepare_cohort(cohort, plan, tmp_path / "cache")
