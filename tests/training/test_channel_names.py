"""Channels of one file, each by its own name and modality, from the audit to the model file."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from delineate.core import model_file
from delineate.data.channels import read_channels
from delineate.data.cohort import Cohort
from delineate.findings.examine import examine
from delineate.tasks.train import train
from delineate.training.preparing import plan_preparation, prepare_case

SHAPE = (12, 12, 8)


def decathlon(root: Path, modality: dict[str, str], uptake: float = 8.0) -> Path:
    """Sets of one 4D file a case; the first channel is a CT where its name says so."""
    draw = np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for n in range(4):
        label = np.zeros(SHAPE, np.uint8)
        label[3:7, 3 + n : 8 + n, 2:6] = 1
        channels = [draw.normal(40, 15, SHAPE) - 1000 * (label == 0)]
        for _ in range(len(modality) - 1):
            channels.append(draw.uniform(0.5, 2, SHAPE) + uptake * label)
        image = np.stack(channels, axis=-1).astype(np.float32)
        nib.save(nib.Nifti1Image(image, np.eye(4)), root / f"imagesTr/c{n}.nii.gz")
        nib.save(nib.Nifti1Image(label, np.eye(4)), root / f"labelsTr/c{n}.nii.gz")
    pairs = [{"image": f"imagesTr/c{n}.nii.gz", "label": f"labelsTr/c{n}.nii.gz"} for n in range(4)]
    document = {"modality": modality, "labels": {"0": "bg", "1": "lesion"}, "training": pairs}
    (root / "dataset.json").write_text(json.dumps(document))
    return root


def test_ct_and_pet_in_one_file_are_prepared_each_by_its_own_rule(tmp_path: Path) -> None:
    cohort = Cohort.open(decathlon(tmp_path, {"0": "CT", "1": "PET"}))
    plan = plan_preparation(cohort)
    assert [(c.name, c.modality) for c in plan.channels] == [("CT", "CT"), ("PET", "PET")]
    ready = prepare_case(cohort.cases[0], plan, cohort.schema).image
    raw = read_channels(cohort.cases[0], ["PET"]).array[0]
    low = raw[raw < 2]  # below the lesion's uptake, which a CT's rule would clip to one value
    assert len(np.unique(np.round(low, 2))) > 100
    assert len(np.unique(np.round(ready[1], 3))) > 100


@pytest.mark.parametrize(
    ("modality", "kinds", "whole"),
    [
        ({"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}, {"MR"}, "MR"),
        ({"0": "PET", "1": "CT"}, {"PET", "CT"}, "unknown"),
        ({"0": "T2", "1": "contrast"}, {"MR", "unknown"}, "unknown"),
    ],
)
def test_every_channel_has_the_modality_that_its_name_says(
    tmp_path: Path, modality: dict[str, str], kinds: set[str], whole: str
) -> None:
    cohort = Cohort.open(decathlon(tmp_path, modality))
    assert cohort.modalities["image"] == whole
    assert {cohort.modality(name, "image") for name in modality.values()} == kinds
    rows = examine(cohort)["facts"]["intensities"]
    assert [row["channel"] for row in rows] == list(modality.values())
    assert {row["modality"] for row in rows} == kinds


def slices(root: Path) -> Path:
    """Stacks of colour slices as the glioma set of Kaggle has them."""
    draw = np.random.default_rng(1)
    for n in range(6):
        folder = root / f"kaggle_3m/TCGA_CS_{n:04d}_20000101"
        folder.mkdir(parents=True)
        for i in range(1, 5):
            mask = np.zeros((24, 24), np.uint8)
            mask[4 + n : 12 + n, 6:14] = 255
            image = draw.integers(0, 90, (24, 24, 3)) + mask[..., None] // [2, 3, 4]
            Image.fromarray(image.astype(np.uint8)).save(folder / f"{folder.name}_{i}.tif")
            Image.fromarray(mask).save(folder / f"{folder.name}_{i}_mask.tif")
    return root


def test_audit_plan_and_model_file_call_channels_alike(tmp_path: Path) -> None:
    data = slices(tmp_path / "data")
    names = ["pre", "flair", "post"]
    rows = examine(Cohort.open(data))["facts"]["intensities"]
    assert [row["channel"] for row in rows] == names
    (tmp_path / "tiny.yaml").write_text("width: 4\npatch: [16, 16]\nbatch: 2\n")
    said: list[str] = []
    out = tmp_path / "run"
    train(data, steps=2, config=tmp_path / "tiny.yaml", out=out, say=said.append)
    assert model_file.load(out / "model.safetensors").document["channels"] == names
    record = json.loads((out / "run.json").read_text())
    assert [channel["name"] for channel in record["preparation"]["channels"]] == names
    told = "\n".join([*said, (out / "report.html").read_text(), json.dumps(record)])
    assert "rgb.0" not in told


def test_a_table_names_the_channels_of_a_file(tmp_path: Path) -> None:
    decathlon(tmp_path, {"0": "CT", "1": "PET"})
    (tmp_path / "list.csv").write_text(
        "image,label,channels\nimagesTr/c0.nii.gz,labelsTr/c0.nii.gz,CT; PET\n"
    )
    cohort = Cohort.open(tmp_path / "list.csv")
    assert cohort.cases[0].channel_names("image", 2) == ["CT", "PET"]
    assert cohort.modality("PET", "image") == "PET"
    assert read_channels(cohort.cases[0], ["PET"]).channels == 1
