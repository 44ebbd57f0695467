"""One sequence of a case from its others: which cases teach it, and what it is fed with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from delineate.augment import intensity
from delineate.core.case import Batch, Case, Prediction
from delineate.core.errors import ConfigError, InputError
from delineate.core.image import Grid
from delineate.core.schema import Schema
from delineate.data import readers
from delineate.data.cohort import Cohort
from delineate.engine.budget import Candidate
from delineate.inference.options import Options
from delineate.settings import RunConfig
from delineate.targets import make
from delineate.training.preparing import plan_preparation, prepare_cohort

TO = {"translate_to": "t1c"}


def cohort(
    folder: Path, *, lacking: tuple[int, ...] = (), shape: tuple[int, ...] = (20, 18, 16)
) -> Cohort:
    """Scans in which the wanted sequence is twice the one and minus the other, with a gain."""
    cases = []
    for k in range(3):
        rng = np.random.default_rng(k)
        t1, t2 = rng.normal(100, 10, (2, *shape)).astype(np.float32)
        arrays = {"t1": t1, "t2": t2, "t1c": (10.0**k) * (2 * t1 - t2)}
        images = {}
        for name, array in arrays.items():
            if name != "t1c" or k not in lacking:
                images[name] = folder / f"c{k}_{name}.nii.gz"
                nib.save(nib.Nifti1Image(array, np.eye(4)), images[name])
        cases.append(Case(f"c{k}", f"s{k}", images))
    modalities = {"t1": "MR", "t2": "MR", "t1c": "MR"}
    return Cohort(folder, "test", tuple(cases), Schema(()), modalities=modalities)


def test_cases_without_the_sequence_cannot_teach_it_and_are_told(tmp_path: Path) -> None:
    found = make("image", TO).usable(cohort(tmp_path, lacking=(1,)))
    assert [case.id for case in found.labelled] == ["c0", "c2"]
    assert found.sentences() == ["1 of 3 cases left out for want of a t1c: c1"]


def test_what_is_wanted_has_to_be_said_and_be_there(tmp_path: Path) -> None:
    cases = cohort(tmp_path)
    with pytest.raises(ConfigError, match="t1, t2, t1c") as said:
        make("image").usable(cases)
    assert "--translate-to" in str(said.value.fix)
    with pytest.raises(InputError) as said_near:
        make("image", {"translate_to": "t1cc"}).usable(cases)
    assert "did you mean --translate-to t1c?" in str(said_near.value.fix)
    with pytest.raises(ConfigError, match="translate_too"):
        make("image", {"translate_too": "t1c"})
    alone = [Case("c", "s", {"t1c": cases.cases[0].images["t1c"]})]
    with pytest.raises(InputError, match="to make 't1c' from"):
        make("image", TO).usable(cases.with_cases(alone))


def feed(folder: Path, augment: bool, **how: Any) -> Any:
    cases = cohort(folder, **how)
    plan = plan_preparation(cases, target="t1c")
    chosen = RunConfig(target="image", target_settings=TO, augment=augment, drop_sequence=0.0)
    learning = make("image", TO).learning(chosen, cases, plan)
    assert learning.channels == ("t1", "t2")
    assert list(learning.outputs) == ["t1c"]
    prepared = prepare_cohort(cases, plan, folder / "cache")
    return learning.feed(Candidate(4, (8,) * learning.ndim, 3), prepared)


def likeness(batch: Batch) -> float:
    """Least correlation of a target with what it was made from, where it is known."""
    assert batch.target is not None
    mix = 2 * batch.image[:, :1] - batch.image[:, 1:2]
    pairs = (
        torch.stack([one, other])[:, torch.isfinite(one)]
        for one, other in zip(batch.target, mix, strict=True)
    )
    return min(float(torch.corrcoef(pair)[0, 1]) for pair in pairs)


@pytest.mark.parametrize("shape", [(20, 18, 16), (20, 18, 1)])
def test_the_image_to_be_given_is_of_the_same_place_and_on_one_scale(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    batch = feed(tmp_path, False, shape=shape)(0, 0, 1)
    assert batch.target is not None
    assert batch.target.shape == (3, 1, *(8,) * (batch.image.ndim - 2))
    assert torch.isfinite(batch.target).all()
    assert likeness(batch) > 0.99  # a straight line, whatever the gain
    assert batch.target.std() == pytest.approx(1, abs=0.2)


def test_it_is_moved_as_its_inputs_and_never_repainted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    painted = feed(tmp_path, True)(3, 0, 1)
    monkeypatch.setattr(intensity, "apply", lambda actions, image, generator: image)
    moved = feed(tmp_path, True)(3, 0, 1)
    assert not torch.equal(painted.image, moved.image)
    torch.testing.assert_close(painted.target, moved.target, rtol=0, atol=0, equal_nan=True)
    assert moved.target is not None
    assert 0.5 < torch.isfinite(moved.target).float().mean() < 1
    assert likeness(moved) > 0.99  # interpolated alike, at the same places


def test_where_the_scan_ends_nothing_is_known(tmp_path: Path) -> None:
    batch = feed(tmp_path, False, shape=(20, 18, 4))(0, 0, 1)
    assert batch.target is not None
    unknown = torch.isnan(batch.target).float().mean((0, 1, 2, 3))
    assert unknown.tolist() == [1, 1, 0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("scan", "made"),
    [("a.nrrd", "c.nrrd"), ("a.mhd", "c.mha"), ("a.nii", "c.nii.gz"), ("a.png", "c.nii.gz")],
)
def test_an_image_is_written_in_a_format_that_holds_it(
    tmp_path: Path, scan: str, made: str
) -> None:
    answers = make("image", TO).answers
    case = Case("c", "s", {"t1": tmp_path / scan})
    (outputs,) = answers.outputs([case], tmp_path, Options())
    assert outputs.outputs == (tmp_path / made,)
    grid = Grid((4, 5, 6), np.diag([2.0, 1.0, 1.0, 1.0]))
    values = np.random.default_rng(0).normal(-1000, 1e-3, (1, 4, 5, 6)).astype(np.float32)
    files = answers.write(outputs, Prediction(None, grid, maps={"image": values}), tmp_path)
    assert files == {"files": {"image": made}}
    back = readers.read(tmp_path / made)
    assert back.grid.same_as(grid)
    np.testing.assert_array_equal(back.array, values)


def test_a_stack_of_slices_gives_one_volume(tmp_path: Path) -> None:
    slices = tuple(tmp_path / f"{k}.png" for k in range(3))
    case = Case("c", "s", {"t1": slices})
    (outputs,) = make("image", TO).answers.outputs([case], tmp_path, Options())
    assert outputs.outputs == (tmp_path / "c.nii.gz",)
