"""Weights that come along: which networks take them, what is said of it, and who does not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
import yaml

from delineate.comparing import planning, suites
from delineate.core import catalog, model_file
from delineate.core import config as settings
from delineate.networks import unet
from delineate.settings import WEIGHTS_AUTO, RunConfig
from delineate.tasks.train import train
from delineate.training import initial_weights, warm_start

CHANNELS = ("t1", "t1gd", "t2", "flair")
SHAPE = unet.Config(ndim=3, width=4, levels=4, deep_supervision=1)


@pytest.fixture
def brain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of random weights that comes along."""
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setattr(initial_weights, "FOLDER", folder)
    torch.manual_seed(5)
    tensors = {n: t.half() for n, t in unet.build(SHAPE, 4, 4).state_dict().items()}
    names = ["background", "necrosis", "oedema", "enhancing"]
    document = {
        "network": {"name": "unet", "config": settings.to_dict(SHAPE)},
        "channels": list(CHANNELS),
        "schema": {"labels": []},
        "preparation": {},
        "input": {"patch": [32, 32, 32], "channels": list(CHANNELS)},
        "output": {"map": "probabilities", "names": names},
    }
    model_file.save(folder / "brain.safetensors", tensors, document)
    return folder / "brain.safetensors"


def cohort(folder: Path) -> Path:
    """Two subjects of two sequences in nnU-Net's layout."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    ball = (np.linalg.norm(np.indices((16, 16, 16)) - 7.5, axis=0) < 5).astype(np.uint8)
    for subject in range(2):
        nibabel.save(nibabel.Nifti1Image(ball, np.eye(4)), folder / f"labelsTr/s{subject}.nii.gz")
        for n in range(2):
            noise = np.random.default_rng((subject, n)).normal(size=ball.shape)
            image = nibabel.Nifti1Image((ball + noise).astype(np.float32), np.eye(4))
            nibabel.save(image, folder / f"imagesTr/s{subject}_000{n}.nii.gz")
    document = {
        "channel_names": {"0": "t1", "1": "flair"},
        "labels": {"background": 0, "tumour": 1},
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(document))
    return folder


def chosen(**more: Any) -> RunConfig:
    return RunConfig(target="outline", method="supervised", network="unet", **more)


@pytest.mark.parametrize(
    ("channels", "ndim", "more", "taken"),
    [
        (CHANNELS, 3, {}, True),
        (("flair", "t1", "adc"), 3, {}, True),
        (("FLAIR", "T1w"), 3, {}, True),
        (("pre", "post"), 3, {}, True),
        (("flair",), 3, {}, False),  # one name alone says too little
        (("a", "b"), 3, {}, False),
        (CHANNELS, 2, {}, False),
        (CHANNELS, 3, {"weights": None}, False),
        (CHANNELS, 3, {"weights": Path("mine.safetensors")}, False),
    ],
)
def test_sequences_and_dimensions_decide(
    brain: Path, channels: tuple[str, ...], ndim: int, more: dict[str, Any], taken: bool
) -> None:
    assert (warm_start.suiting(chosen(**more), channels, ndim) is not None) == taken
    other = dataclasses.replace(chosen(**more), network="vnet")
    assert warm_start.suiting(other, channels, ndim) is None


def test_a_network_becomes_as_deep_as_the_weights_if_it_is_as_wide(brain: Path) -> None:
    start = initial_weights.read(Path("brain"))
    derived = {"width": 4, "levels": 3, "strides": ()}
    assert warm_start.depth(start, derived, {}) == {"levels": 4, "deep_supervision": 1}
    assert warm_start.depth(start, derived | {"levels": 5}, {}) == {}
    assert warm_start.depth(start, derived | {"width": 8}, {}) == {}
    assert warm_start.depth(start, derived | {"strides": ((2, 2, 1),)}, {}) == {}
    assert warm_start.depth(start, derived, {"levels": 3}) == {}  # somebody wants it so
    assert warm_start.fits(start, SHAPE)
    assert warm_start.fits(start, dataclasses.replace(SHAPE, dropout=0.2))
    assert warm_start.fits(start, dataclasses.replace(SHAPE, levels=5))  # the first four start warm
    for change in ({"width": 8}, {"levels": 3}, {"residual": True}, {"norm": "batch"}):
        assert not warm_start.fits(start, dataclasses.replace(SHAPE, **change))


@pytest.mark.slow
def test_a_run_says_where_it_started_and_its_settings_repeat_it(
    brain: Path, tmp_path: Path
) -> None:
    data = cohort(tmp_path / "data")
    given = {"width": 4, "batch": 1, "precision": "32-true", "holdout": 0.0, "validation": 0.0}
    (tmp_path / "a.yaml").write_text(json.dumps(given))
    lines: list[str] = []
    record = train(
        data, steps=1, config=tmp_path / "a.yaml", out=tmp_path / "a", audit=False,
        say=lines.append,
    )  # fmt: skip
    transfer = record["transfer"]
    assert transfer["file"] == "brain"
    assert transfer["sha256"] == initial_weights.read(brain).sha256
    assert len(transfer["loaded"]) > 20
    assert list(transfer["resized"]) == ["encoder.0.0.0.weight"]  # two of four
    assert f"weights: {warm_start.NOTE}" in lines
    assert yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())["weights"] == "brain"
    train(data, config=tmp_path / "a" / "config.yaml", out=tmp_path / "b", audit=False)
    first, again = (model_file.load(tmp_path / run / "model.safetensors") for run in "ab")
    assert all(np.array_equal(first.tensors[n], again.tensors[n]) for n in first.tensors)
    cold = train(
        data, steps=1, config=tmp_path / "a.yaml", out=tmp_path / "c", audit=False,
        weights=Path("none"),
    )  # fmt: skip
    assert "transfer" not in cold
    assert yaml.safe_load((tmp_path / "c" / "config.yaml").read_text())["weights"] is None


def test_arms_of_a_benchmark_start_alike() -> None:
    for name in suites.names():
        suite = suites.load(name)
        for arm in suite.arms:
            assert planning._run_config(suite, arm, {"steps": 1}).weights is None


def test_what_comes_along_is_small_and_belongs_to_nobody() -> None:
    files = sorted(initial_weights.FOLDER.glob("*.safetensors"))
    assert files
    assert sum(path.stat().st_size for path in files) <= 5_000_000
    for path in files:
        model = model_file.load(path)
        assert {array.dtype for array in model.tensors.values()} == {np.dtype(np.float16)}
        assert "subjects" not in model.document["provenance"]
        entry = model.document["network"]
        module = catalog.load("networks", entry["name"])
        config = settings.from_dict(entry["config"], module.Config, path.stem)
        network = module.build(config, len(model.document["channels"]), 4)
        network.load_state_dict({n: torch.from_numpy(a) for n, a in model.tensors.items()})
        assert RunConfig().weights == WEIGHTS_AUTO
