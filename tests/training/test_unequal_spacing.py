"""Cohorts whose scans have slices of unequal distance, from training to the figures."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delineate.core import model_file
from delineate.core.config import load
from delineate.core.errors import InputError
from delineate.core.image import Grid, Image
from delineate.data.readers import write
from delineate.settings import RunConfig
from delineate.tasks.predict import predict
from delineate.tasks.train import train

SHAPES = [((24, 24, 20), 1.0)] * 9 + [((24, 24, 10), 2.0)] * 3


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of volumes with a bright ball each, of class "large" or "small"."""
    folder = tmp_path_factory.mktemp("unequal")
    lines = ["id,image,label,class,split"]
    for n, (shape, thick) in enumerate(SHAPES):
        rng = np.random.default_rng(n)
        grid = Grid(shape, np.diag([1.0, 1.0, thick, 1.0]))
        at = np.indices(shape).T * [1, 1, thick] - [12, 12, 10]
        ball = (np.linalg.norm(at, axis=-1) < (7 if n % 2 else 4)).T
        array = (200 + 300 * ball + rng.normal(0, 20, shape)).astype(np.float32)
        write(folder / f"v{n}.nii.gz", Image(array[None], grid))
        write(folder / f"v{n}_mask.nii.gz", Image(ball[None].astype(np.uint8), grid))
        part = "test" if n in (0, 1, 10, 11) else "train"
        size = "large" if n % 2 else "small"
        lines.append(f"v{n},v{n}.nii.gz,v{n}_mask.nii.gz,{size},{part}")
    (folder / "cases.csv").write_text("\n".join(lines) + "\n")
    return folder / "cases.csv"


def trained(volumes: Path, out: Path, **settings: Any) -> Path:
    """A run of a few steps."""
    config = out.parent / f"{out.name}.yaml"
    config.write_text("".join(f"{key}: {value}\n" for key, value in settings.items()))
    train(volumes, steps=3, config=config, out=out, audit=False, device="cpu")
    assert (out / "report.html").is_file()
    return out


@pytest.mark.parametrize("target", ["class", "presence"])
def test_slices_are_classified_and_scored_once_each(
    volumes: Path, tmp_path: Path, target: str
) -> None:
    small = {"network": "cnn", "width": 4, "patch": [24, 24], "batch": 4}
    run = trained(volumes, tmp_path / "run", target=target, **small)
    index = json.loads((run / "validation" / "predictions" / "predictions.json").read_text())
    thickness = {f"v{n}": shape[2] for n, (shape, _) in enumerate(SHAPES)}
    assert sorted(case["id"] for case in index["cases"]) == ["v0", "v1", "v10", "v11"]
    for case in index["cases"]:
        numbers = [one["slice"] for one in case["facts"]["slices"]]
        assert numbers == list(range(thickness[case["id"]]))
    table = "cases.csv" if target == "presence" else "slices.csv"
    with (run / "validation" / table).open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 2 * 20 + 2 * 10


def test_outlines_are_learned_and_brought_home(volumes: Path, tmp_path: Path) -> None:
    small = {"network": "unet", "width": 4, "patch": [16, 16, 16], "batch": 1}
    run = trained(volumes, tmp_path / "run", target="outline", **small)
    summary = json.loads((run / "validation" / "summary.json").read_text())
    assert summary["n_cases"] == 4
    assert summary["failures"] == []
    range_ = model_file.load(run / "model.safetensors").document["provenance"]["training_range"]
    (intensity,) = range_["intensity"]
    assert (intensity["scans"], intensity["hounsfield"]) == (8, 0)
    assert 100 < intensity["p50"][0] <= intensity["p50"][1] < 300
    hounsfield = Image(np.zeros((1, 24, 24, 20), np.float32) - 1000, Grid((24, 24, 20), np.eye(4)))
    hounsfield.array[:, 6:18] = 40
    hounsfield.array[:, 11:13] = 500
    write(tmp_path / "ct.nii.gz", hounsfield)
    with pytest.raises(InputError, match="look like Hounsfield units"):
        predict(run / "model.safetensors", tmp_path / "ct.nii.gz", tmp_path / "out")
    index = predict(
        run / "model.safetensors", tmp_path / "ct.nii.gz", tmp_path / "out",
        force=True, overwrite=True,
    )  # fmt: skip
    assert index["settings"]["force"]
    assert "look like Hounsfield units" in index["cases"][0]["facts"]["warnings"][0]


@pytest.mark.slow
def test_thick_slices_are_halved_less_often_and_the_settings_say_so(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    lines = ["id,image,label,split"]
    for n in range(4):
        rng = np.random.default_rng(n)
        array = rng.normal(0, 20, (32, 32, 16)).astype(np.float32)
        ball = np.linalg.norm(np.indices(array.shape).T * [1, 1, 3] - [16, 16, 24], axis=-1).T < 8
        grid = Grid(array.shape, np.diag([1.0, 1.0, 3.0, 1.0]))
        write(data / f"v{n}.nii.gz", Image((array + 300 * ball)[None], grid))
        write(data / f"m{n}.nii.gz", Image(ball[None].astype(np.uint8), grid))
        lines.append(f"v{n},v{n}.nii.gz,m{n}.nii.gz,{'test' if n == 0 else 'train'}")
    (data / "cases.csv").write_text("\n".join(lines) + "\n")
    run = trained(data / "cases.csv", tmp_path / "run", width=4, batch=2)
    resolved = load(run / "config.yaml", RunConfig)
    assert resolved.patch == (32, 32, 16)
    network = resolved.network_settings
    assert network["levels"] == 4
    assert network["strides"] == [[2, 2, 1], [2, 2, 2], [2, 2, 2]]
    assert network["kernels"] == [[3, 3, 1], [3, 3, 3], [3, 3, 3], [3, 3, 3]]
    model = model_file.load(run / "model.safetensors")
    assert model.document["network"]["config"]["strides"] == network["strides"]
    predict(run / "model.safetensors", data / "v0.nii.gz", tmp_path / "out")
    train(
        data / "cases.csv", config=run / "config.yaml", out=tmp_path / "again", audit=False
    )  # as written
    again = model_file.load(tmp_path / "again" / "model.safetensors")
    assert again.tensors.keys() == model.tensors.keys()
    assert all(np.array_equal(again.tensors[name], model.tensors[name]) for name in model.tensors)
