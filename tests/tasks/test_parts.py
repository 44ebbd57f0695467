"""A critic from training to a map, through the model file alone."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from delineate.core import model_file
from delineate.core.errors import ConfigError
from delineate.phantoms.generate import generate
from delineate.tasks.predict import predict
from delineate.tasks.train import train

TINY = "width: 4\npatch: [16, 16, 16]\nbatch: 2\nvalidation: 0\nholdout: 0\n"


@pytest.fixture(scope="module")
def brains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "scans"
    return generate(folder, 2, 6.0, seed=3, anatomy="ellipsoid", controls=0.0)


def run(brains: Path, out: Path, more: str) -> Path:
    config = out.with_suffix(".yaml")
    config.write_text(TINY + more)
    train(brains, steps=3, config=config, out=out, audit=False)
    return out / "model.safetensors"


@pytest.fixture(scope="module")
def model(brains: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "adversarial"
    return run(brains, out, "method: adversarial\nmethod_settings: {critic_width: 4}\n")


def test_a_run_leaves_its_critic_in_the_model_file(model: Path) -> None:
    file = model_file.load(model)
    assert set(file.parts) == {"critic"}
    described = file.document["parts"]["critic"]
    assert described["network"]["name"] == "patch_critic"
    assert described["network"]["config"]["width"] == 4
    assert (described["channels"], described["outputs"]) == (4 + 4, 1)  # sequences, and the mask
    assert described["sees"] == {"sees": "joined", "activation": "softmax"}


def test_who_starts_from_such_a_model_starts_from_its_predictor(
    model: Path, brains: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    config = tmp_path / "tiny.yaml"
    config.write_text(TINY)
    train(
        brains, steps=1, config=config, out=tmp_path / "run", weights=model, audit=False,
        say=said.append,
    )  # fmt: skip
    count = len(model_file.load(model).tensors)
    assert any(f"{count} of {count} tensors" in line for line in said), said


def test_the_critic_s_map_lies_on_the_scan(model: Path, brains: Path, tmp_path: Path) -> None:
    scan = next(p for p in sorted(brains.iterdir()) if p.is_dir())
    index = predict(
        model, brains, tmp_path / "out", only=[scan.name], maps=["critic"], device="cpu"
    )
    (case,) = index["cases"]
    assert case["files"]["critic"] == f"{scan.name}_critic.nii.gz"
    found = nibabel.load(tmp_path / "out" / case["files"]["critic"])
    mask = nibabel.load(tmp_path / "out" / case["files"]["labels"][0])
    assert found.shape == mask.shape
    assert np.array_equal(found.affine, mask.affine)
    scores = np.asarray(found.dataobj)
    head = np.asarray(nibabel.load(scan / "flair.nii.gz").dataobj) > 0
    assert len(np.unique(scores[head])) > 1000


def test_a_map_that_there_is_not_is_refused_before_any_work(
    model: Path, brains: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="critic"):
        predict(model, brains, tmp_path / "out", maps=["critc"], device="cpu")
    assert not (tmp_path / "out").exists()
