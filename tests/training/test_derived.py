"""Derived channels from the settings of a run to the model file and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from delineate.core import model_file
from delineate.core.errors import ConfigError
from delineate.inference.session import Session
from delineate.phantoms.generate import generate
from delineate.tasks.predict import predict
from delineate.tasks.train import train

TINY = """
width: 4
patch: [16, 16, 16]
batch: 2
derived: [equalised, clusters]
clusters: 4
holdout: 0
"""


def test_a_run_sees_derived_channels_and_its_model_file_needs_none(tmp_path: Path) -> None:
    scans = generate(tmp_path / "scans", 6, 6.0, seed=3, anatomy="ellipsoid", controls=0.0)
    config = tmp_path / "tiny.yaml"
    config.write_text(TINY)
    out = tmp_path / "run"
    train(scans, steps=3, config=config, out=out, audit=False)

    document = model_file.load(out / "model.safetensors").document
    own = document["channels"]
    assert document["input"]["channels"] == [
        *own, *(f"equalised:{name}" for name in own), *(f"cluster:{i}" for i in (1, 2, 3, 4)),
    ]  # fmt: skip
    assert document["preparation"]["derived"] == ["equalised", "clusters"]
    session = Session.open(out / "model.safetensors", "cpu")
    weights = model_file.load(out / "model.safetensors").tensors
    assert 2 * len(own) + 4 in {w.shape[1] for w in weights.values() if w.ndim == 5}
    assert session.channels == tuple(own)

    scan = next(p for p in sorted(scans.iterdir()) if p.is_dir())
    predict(out / "model.safetensors", scans, tmp_path / "out", only=[scan.name], device="cpu")
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 1
    record = json.loads((out / "run.json").read_text())
    assert any("derived" in reason for reason in record["preparation"]["reasons"])


def test_what_cannot_be_derived_is_named(tmp_path: Path) -> None:
    config = tmp_path / "wrong.yaml"
    config.write_text("derived: [equalized]\n")
    with pytest.raises(ConfigError, match="equalized"):
        train(tmp_path, config=config, out=tmp_path / "run")
