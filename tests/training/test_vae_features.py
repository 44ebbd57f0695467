"""DL-VAE-CNN from folder to figures, on slices of the phantom laid out as ``kaggle_3m``."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from delineate.core import model_file
from delineate.core.errors import ConfigError
from delineate.phantoms.generate import generate
from delineate.tasks.evaluate import evaluate
from delineate.tasks.predict import predict
from delineate.tasks.train import train

SMALL = """
method: vae_features
width: 4
patch: [32, 32]
batch: 4
validation: 0.0
threads: 1
"""
CODES = "network_settings: {common: 8, unique: 4, grid: 2, first: [0], second: [1]}\n"


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "kaggle_3m"
    return generate(
        folder, subjects=6, spacing_mm=6.0, layout="kaggle", anatomy="ellipsoid", controls=0.0
    )


def test_presence_by_the_features_of_two_auto_encoders(slices: Path, tmp_path: Path) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(SMALL + CODES + "target: presence\nnetwork: vae_cnn\n")
    train(slices, steps=4, config=config, out=tmp_path / "run", audit=False, holdout=0.0)
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert {"kl", "active_units", "cosine_common"} <= json.loads(lines[-1]).keys()
    model = model_file.load(tmp_path / "run" / "model.safetensors")
    assert model.document["network"]["name"] == "vae_cnn"
    assert model.document["classes"]["names"] == ["absent", "present"]
    assert not any("decod" in name for name in model.tensors)
    predict(tmp_path / "run" / "model.safetensors", slices, tmp_path / "answers")
    with (tmp_path / "answers" / "classes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["class"] for row in rows} <= {"absent", "present"}
    assert len(rows) == 6
    summary = evaluate(tmp_path / "answers", slices, tmp_path / "scores")
    assert summary["unit"] == "slice"
    assert 0 <= summary["figures"]["roc_auc"]["value"] <= 1


def test_outlines_under_a_code(slices: Path, tmp_path: Path) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(SMALL + CODES + "neighbours: 0\nnetwork: film_unet\n")
    train(slices, steps=4, config=config, out=tmp_path / "run", audit=False, holdout=0.0)
    only = [path.name for path in sorted(slices.glob("TCGA*"))[:1]]
    predict(tmp_path / "run" / "model.safetensors", slices, tmp_path / "masks", only=only)
    summary = evaluate(tmp_path / "masks", slices, tmp_path / "scores")
    assert summary["n_cases"] == 1


def test_a_network_without_encoders_is_refused(slices: Path, tmp_path: Path) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(SMALL + "target: presence\nnetwork: lenet\n")
    with pytest.raises(ConfigError) as caught:
        train(slices, steps=4, config=config, out=tmp_path / "run", audit=False)
    assert caught.value.code == "method-network"
    assert "vae_cnn" in (caught.value.fix or "")
