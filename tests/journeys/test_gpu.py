"""What only a GPU shows: run by `make gpu` where there is one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from delineate.data import readers
from delineate.tasks.phantom import phantom
from delineate.tasks.predict import predict
from delineate.tasks.train import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


def test_a_model_of_a_gpu_outlines_the_same_on_a_processor(tmp_path: Path) -> None:
    data = phantom(tmp_path / "data", 6, 6.0, 0, missing=0.0)
    run = tmp_path / "run"
    train(data, out=run, steps=20, device="cuda")
    masks = {}
    for device in ("cuda", "cpu"):
        predict(run / "model.safetensors", data, tmp_path / device, device=device)
        index = json.loads((tmp_path / device / "predictions.json").read_text())
        masks[device] = [
            readers.read(tmp_path / device / case["files"]["labels"][0]).array
            for case in index["cases"]
        ]
    pairs = zip(masks["cuda"], masks["cpu"], strict=True)
    assert min(np.mean(a == b) for a, b in pairs) > 0.999


def test_a_short_budget_on_a_gpu_is_spent_on_training(tmp_path: Path) -> None:
    data = phantom(tmp_path / "data", 12, 4.0, 0, missing=0.0)
    train(data, out=tmp_path / "run", budget="60s", device="cuda")
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["seconds"] > 20
