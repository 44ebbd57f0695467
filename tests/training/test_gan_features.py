"""S0's system from slices to figures: clusters, feature maps, presence of a tumour."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from delineate.core import model_file
from delineate.phantoms.generate import generate
from delineate.tasks.evaluate import evaluate
from delineate.tasks.predict import predict
from delineate.tasks.train import train

TINY = (
    "target: presence\nmethod: gan_features\nwidth: 4\npatch: [16, 16]\nbatch: 4\n"
    "derived: [clusters]\nvalidation: 0\nholdout: 0\n"
)


def test_from_slices_to_figures(tmp_path: Path) -> None:
    scans = generate(
        tmp_path / "scans", 2, 6.0, seed=3, anatomy="ellipsoid", controls=0.0, layout="kaggle"
    )
    config, run = tmp_path / "tiny.yaml", tmp_path / "run"
    config.write_text(TINY)
    train(scans, steps=4, config=config, out=run, network="feature_cnn", audit=False)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert ["loss_l1" in line for line in lines] == [True, True, False, False]
    assert ["train_accuracy" in line for line in lines] == [False, False, True, True]
    document = model_file.load(run / "model.safetensors").document
    assert document["input"]["channels"][-3:] == ["cluster:1", "cluster:2", "cluster:3"]
    assert document["network"]["config"]["features"] == 1

    only = [sorted(p.name for p in scans.iterdir() if p.is_dir())[0]]
    answers = tmp_path / "answers"
    predict(run / "model.safetensors", scans, answers, only=only, device="cpu")
    with (answers / "classes.csv").open(newline="") as file:
        assert {row["class"] for row in csv.DictReader(file)} <= {"absent", "present"}
    summary = evaluate(answers, scans, tmp_path / "figures")
    assert summary["figures"]["n_samples"] > 4
