"""A sequence that is to be given is prepared beside the inputs, not among them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from delineate.core.case import Case
from delineate.core.schema import Label, Schema
from delineate.data.cohort import Cohort
from delineate.training.preparing import plan_preparation, prepare_cohort, recipe_key

SCHEMA = Schema(labels=(Label("organ", 1),))


def cohort(folder: Path, **sequences: np.ndarray) -> Cohort:
    def save(name: str, array: np.ndarray) -> Path:
        path = folder / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(array, np.diag([-1.0, 1.0, 1.0, 1.0])), path)
        return path

    images = {name: save(name, array) for name, array in sequences.items()}
    broken = folder / "label.nii.gz"  # nobody reads it
    broken.write_bytes(b"no NIfTI")
    case = Case("c0", "s0", images, broken)
    return Cohort(folder, "test", (case,), SCHEMA, modalities=dict.fromkeys(images, "MR"))


def test_a_model_sees_the_others_and_learns_from_the_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    t1, t2 = (rng.normal(100, 10, (10, 12, 14)).astype(np.float32) for _ in range(2))
    found = cohort(tmp_path, t1=t1, t1c=2 * t1, t2=t2)
    plan = plan_preparation(found, target="t1c")
    (case,) = prepare_cohort(found, plan, tmp_path / "cache")
    assert plan.outputs == ("t1", "t2")
    assert case.shape == (2, 10, 12, 14)
    assert not case.label.any()  # nothing outlined is read
    assert case.target is not None
    np.testing.assert_allclose(case.target[0], 2 * t1[::-1], rtol=1e-6)
    assert abs(case.meta["target"]["mean"] - 200) < 5
    assert len(case.meta["intensity"]) == 2
    (again,) = prepare_cohort(found, plan, tmp_path / "cache", verify=True)
    assert again.targets == 1
    assert again.nbytes == (3 * 4 + 1) * t1.size


def test_a_channel_of_a_file_of_many_can_be_the_one(tmp_path: Path) -> None:
    many = np.random.default_rng(0).normal(100, 10, (6, 7, 8, 3)).astype(np.float32)
    found = cohort(tmp_path, image=many)
    (case,) = found.cases
    object.__setattr__(case, "meta", {"channels": ["flair", "t1", "t1c"]})
    plan = plan_preparation(found, target="t1")
    (prepared,) = prepare_cohort(found, plan, tmp_path / "cache")
    assert plan.outputs == ("flair", "t1c")
    assert prepared.target is not None
    np.testing.assert_allclose(prepared.target[0], many[::-1, ..., 1], rtol=1e-6)


def test_what_is_prepared_with_a_target_is_not_taken_for_what_is_not(tmp_path: Path) -> None:
    t1 = np.random.default_rng(0).normal(100, 10, (6, 7, 8)).astype(np.float32)
    found = cohort(tmp_path, t1=t1, t1c=t1)
    keys = {recipe_key(plan_preparation(found, target=name), SCHEMA) for name in (None, "t1c")}
    assert len(keys) == 2
