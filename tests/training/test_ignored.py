"""Voxels that nobody has annotated: out of audit, samples, training and scores."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from delineate.core.errors import DelineateError
from delineate.core.schema import IGNORED, Label, Schema
from delineate.data import cache, sampling
from delineate.data.labels import presence
from delineate.data.opening import Opening
from delineate.findings.examine import examine
from delineate.metrics.case import score_case
from delineate.targets import _outline_learning
from delineate.targets._cleanup import choose_rules
from delineate.targets._outline_feed import mean_dice
from delineate.tasks.evaluate import evaluate
from delineate.tasks.train import train
from delineate.training.preparing import plan_preparation, prepare_cohort

SHAPE = (12, 14, 10)
SCHEMA = Schema((Label("a", 1), Label("b", 2)), ignore=3)


def truth() -> np.ndarray:
    """Two blocks, and three slices that nobody has looked at, in the middle of the second."""
    found = np.zeros(SHAPE, np.uint8)
    found[2:5, 2:6, 2:9] = 1
    found[6:10, 7:12, 2:9] = 2
    return found


def annotated(ignore: int = 3) -> np.ndarray:
    found = truth()
    found[..., 4:7] = ignore
    return found


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([1.0, 1.5, 2.0, 1.0])), path)
    return path


def nnunet(root: Path, count: int = 4, ignore: object = 3) -> Path:
    """Raw data of nnU-Net v2 with an ignore label."""
    rng = np.random.default_rng(0)
    for i in range(count):
        picture = rng.normal(100, 8, SHAPE) + 60 * truth()
        save(root / f"imagesTr/c{i}_0000.nii.gz", picture.astype(np.float32))
        save(root / f"labelsTr/c{i}.nii.gz", annotated())
    labels = {"background": 0, "a": 1, "b": 2, "ignore": ignore}
    document = {"channel_names": {"0": "MRI"}, "labels": labels, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(document))
    return root


def test_the_declared_ignore_label_is_no_structure_and_no_fault(tmp_path: Path) -> None:
    cohort = Opening().cohort(nnunet(tmp_path))
    assert cohort.schema == SCHEMA
    result = examine(cohort)
    found = {finding["code"]: finding for finding in result["findings"]}
    assert "label-unknown" not in found
    assert found["label-ignored"]["severity"] == "note"
    assert "30.0%" in found["label-ignored"]["message"]
    share = {row["label"]: row["share_of_voxels"] for row in result["facts"]["labels"]}
    assert share["a"] == pytest.approx(
        (truth() == 1)[..., [2, 3, 7, 8]].sum() / (12 * 14 * 7), abs=1e-4
    )


@pytest.mark.parametrize("ignore", [0, 2, [3, 4], []])
def test_an_ignore_label_that_is_something_else_is_refused(tmp_path: Path, ignore: object) -> None:
    with pytest.raises(DelineateError) as caught:
        Opening().cohort(nnunet(tmp_path, 1, ignore))
    assert caught.value.code == "nnunet-json"


def test_patches_are_centred_on_what_is_annotated(tmp_path: Path) -> None:
    cohort = Opening().cohort(nnunet(tmp_path / "data", 1))
    preparation = plan_preparation(cohort)
    [case] = prepare_cohort(cohort, preparation, tmp_path / "cache")
    label = np.asarray(case.label)
    assert (label == IGNORED).sum() == 12 * 14 * 3
    assert case.meta["voxels"] == {"a": 12 * 4, "b": 20 * 4}
    assert IGNORED not in case.samples
    for step in range(100):
        for drawn in sampling.draw([case], 4, seed=1, step=step):
            assert label[drawn.centre] != IGNORED


def test_samples_of_a_case_without_ignored_voxels_are_what_they_were() -> None:
    assert sorted(cache.foreground_samples(truth(), seed=1)) == [1, 2]


def test_ignored_voxels_are_out_of_both_masks() -> None:
    """The same figures as where the ignored slices are cut off."""
    given = SCHEMA.to_index(annotated())
    guess = np.roll(truth(), 1, axis=0)
    rows = score_case(guess, given, SCHEMA, (1.0, 1.5, 2.0))
    wild = guess.copy()
    wild[..., 4:7] = np.random.default_rng(0).integers(0, 3, (12, 14, 3))
    assert score_case(wild, given, SCHEMA, (1.0, 1.5, 2.0)) == rows
    kept = [0, 1, 2, 3, 7, 8, 9]
    cut = score_case(guess[..., kept], given[..., kept], SCHEMA, (1.0, 1.5, 2.0))
    for row, other in zip(rows, cut, strict=True):
        for name in ("dice", "iou", "precision", "recall", "specificity", "accuracy",
                     "volume_ml_truth", "volume_ml_prediction"):  # fmt: skip
            assert row[name] == pytest.approx(other[name]), name
    assert mean_dice(wild, given, SCHEMA) == pytest.approx(np.mean([r["dice"] for r in rows]))


def test_the_clean_up_is_judged_where_there_is_a_truth() -> None:
    """A second part of the guess that lies in ignored slices alone is no reason to keep one."""
    given = SCHEMA.to_index(annotated())
    guess = truth()
    guess[..., 6:] = 0
    guess[0, 0, 5] = 1
    assert choose_rules([guess], [given], SCHEMA)["gains"]["a"] == 0


def test_validation_cases_without_annotation_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_outline_learning, "outline", lambda *_: truth())
    target: Any = SimpleNamespace(schema=SCHEMA, outputs=["background", "a", "b"])
    blank, whole = (SimpleNamespace(label=a) for a in (np.full(SHAPE, IGNORED), truth()))
    validate = _outline_learning.LearningOutlines.validate
    assert validate(target, None, [blank], None, "cpu") == {}
    assert validate(target, None, [blank, whole], None, "cpu") == {"val_dice": 1.0}


def test_presence_is_known_where_it_was_looked_for() -> None:
    assert presence(np.array([0, IGNORED, 1])) == 1
    assert presence(np.array([0, 0])) == 0
    assert presence(np.array([0, IGNORED])) is None


def test_scores_leave_out_what_the_reference_does_not_annotate(tmp_path: Path) -> None:
    nnunet(tmp_path / "data", 2)
    save(tmp_path / "data/labelsTr/c1.nii.gz", np.full(SHAPE, 3, np.uint8))
    for i in range(2):
        guess = truth()
        guess[..., 4:7] = 0
        save(tmp_path / f"pred/c{i}.nii.gz", guess)
    found = evaluate(tmp_path / "pred", tmp_path / "data", tmp_path / "scores")
    assert found["mean_dice"]["mean"] == 1
    assert found["n_cases"] == 1
    assert any("no annotated voxel" in note and "c1" in note for note in found["notes"])


def test_any_layout_can_be_told_of_an_ignore_label(tmp_path: Path) -> None:
    for i in range(2):
        picture = np.random.default_rng(i).normal(100, 8, SHAPE).astype(np.float32)
        save(tmp_path / f"data/images/c{i}.nii.gz", picture)
        save(tmp_path / f"data/labels/c{i}.nii.gz", annotated(255))
        save(tmp_path / f"pred/c{i}.nii.gz", truth())
    cohort = Opening(ignore_label=255).cohort(tmp_path / "data")
    assert [label.value for label in cohort.schema.labels] == [1, 2]
    for labels in (tmp_path / "data", tmp_path / "data/labels"):
        found = evaluate(tmp_path / "pred", labels, tmp_path / "out", ignore_label=255)
        assert found["mean_dice"]["mean"] == 1
    rows = "".join(f"c{i},images/c{i}.nii.gz,labels/c{i}.nii.gz,255\n" for i in range(2))
    (tmp_path / "data/cohort.csv").write_text("id,image,label,ignore_label\n" + rows)
    assert Opening().cohort(tmp_path / "data").schema.ignore == 255
    (tmp_path / "data/cohort.csv").write_text("id,image,label,ignore_label\n" + rows[:-4] + "4\n")
    with pytest.raises(DelineateError, match="ignore_label"):
        Opening().cohort(tmp_path / "data")


def test_a_cohort_without_one_annotated_voxel_is_not_trained_on(tmp_path: Path) -> None:
    nnunet(tmp_path / "data", 2)
    for i in range(2):
        save(tmp_path / f"data/labelsTr/c{i}.nii.gz", np.full(SHAPE, 3, np.uint8))
    found = examine(Opening().cohort(tmp_path / "data"))["findings"]
    severity = {finding["code"]: finding["severity"] for finding in found}
    assert severity["label-all-ignored"] == "blocking"


def test_trained_and_scored_without_a_word_about_ignored_voxels(tmp_path: Path) -> None:
    """What the ignored slices show changes nothing but the image: labels there are no truth."""
    train(nnunet(tmp_path / "data"), steps=2, out=tmp_path / "run", seed=1, holdout=0.2)
    summary = json.loads((tmp_path / "run/validation/summary.json").read_text())
    assert summary["structures"] == ["a", "b"]
    assert summary["schema"]["ignore"] == 3
    guess = np.asarray(
        nib.load(next((tmp_path / "run/validation/predictions").glob("*.nii.gz"))).dataobj
    )
    assert set(np.unique(guess)) <= {0, 1, 2}
