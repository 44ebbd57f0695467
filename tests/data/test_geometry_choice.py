"""sform or qform: where the headers of a cohort contradict themselves, one word settles it."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from delineate.core.errors import AuditError, InputError
from delineate.data import readers
from delineate.data.cohort import Cohort
from delineate.tasks.audit import audit
from delineate.tasks.evaluate import evaluate
from delineate.training.preparing import plan_preparation, prepare_cohort


@pytest.fixture
def contradictory(tmp_path: Path) -> Path:
    """Four scans whose qform lies 5 mm to the left of their sform; labels alike."""
    root = tmp_path / "set"
    for n in range(4):
        generator = np.random.default_rng(n)
        image = generator.integers(0, 1000, (8, 8, 8)).astype(np.int16)
        label = np.zeros((8, 8, 8), np.uint8)
        label[2:5, 2:5, 2 + n % 3 : 6] = 1
        for folder, array in (("images", image), ("masks", label)):
            made = nib.Nifti1Image(array, np.eye(4))
            shifted = np.eye(4)
            shifted[0, 3] = -5
            made.set_sform(np.eye(4), code=1)
            made.set_qform(shifted, code=1)
            (root / folder).mkdir(parents=True, exist_ok=True)
            nib.save(made, root / folder / f"p{n}.nii.gz")
    return root


def test_the_audit_blocks_and_names_the_option_that_settles_it(
    contradictory: Path, tmp_path: Path
) -> None:
    with pytest.raises(AuditError):
        audit(contradictory, out=tmp_path / "out")
    findings = json.loads((tmp_path / "out/audit.json").read_text())["findings"]
    blocking = [f for f in findings if f["severity"] == "blocking"]
    assert [(f["code"], f["places"]) for f in blocking] == [("nifti-forms", 8)]  # images and labels
    assert "--geometry sform or --geometry qform" in blocking[0]["fix"]
    settled = audit(contradictory, out=tmp_path / "settled", geometry="qform")
    assert settled["blocking"] == 0
    facts = json.loads((tmp_path / "settled/audit.json").read_text())["facts"]
    assert "where NIfTI headers leave a choice, the qform is followed" in facts["remarks"]


def test_the_choice_places_images_and_labels_and_parts_prepared_cases(
    contradictory: Path, tmp_path: Path
) -> None:
    places, folders = {}, {}
    plan = plan_preparation(Cohort.open(contradictory, geometry="sform"))
    for geometry in ("sform", "qform"):
        cohort = Cohort.open(contradictory, geometry=geometry)
        case = cohort["p0"]
        places[geometry] = readers.read(case.images["image"], case.reading).grid.affine[0, 3]
        prepared = prepare_cohort(cohort, plan, tmp_path / "cache")[0]
        folders[geometry] = prepared.folder
        assert prepared.original.affine[0, 3] == places[geometry]
    assert places == {"sform": 0, "qform": -5}
    assert folders["sform"] != folders["qform"]
    undecided, decided = Cohort.open(contradictory), Cohort.open(contradictory, geometry="sform")
    assert undecided.hash() != decided.hash()


def test_evaluation_takes_the_same_choice_and_records_it(
    contradictory: Path, tmp_path: Path
) -> None:
    masks = contradictory / "masks"
    with pytest.raises(InputError, match="nifti-forms"):
        evaluate(masks, contradictory, tmp_path / "refused", resamples=100)
    scores = evaluate(masks, contradictory, tmp_path / "out", geometry="sform", resamples=100)
    assert scores["settings"]["geometry"] == "sform"
    assert scores["n_cases"] == 4
