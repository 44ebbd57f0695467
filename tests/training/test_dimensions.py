"""Whether a network sees volumes or slices: as was asked for, all the way to the model file."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.training.test_single_slices import cohort

from delineate.core import model_file
from delineate.core.config import load
from delineate.core.errors import ConfigError
from delineate.settings import RunConfig
from delineate.tasks.predict import predict
from delineate.tasks.train import train

SMALL = "width: 4\nbatch: 2\nholdout: 0\nvalidation: 0\n"


@pytest.mark.parametrize(
    ("suffix", "shape", "dimensions", "neighbours"),
    [(".nii.gz", (20, 20, 20), 2, 1), (".nii.gz", (20, 20, 9), 3, 0), (".tif", (20, 20, 9), 3, 0)],
)
def test_dimensions_that_are_asked_for_reach_the_model(
    tmp_path: Path, suffix: str, shape: tuple[int, ...], dimensions: int, neighbours: int
) -> None:
    data = cohort(tmp_path / "set", suffix, *[shape] * 4)
    config, run = tmp_path / "a.yaml", tmp_path / "run"
    config.write_text(SMALL + f"patch: {[16, 16, 8][:dimensions]}\ndimensions: {dimensions}\n")
    train(data, steps=2, config=config, out=run, audit=False)
    document = model_file.load(run / "model.safetensors").document
    assert document["network"]["config"]["ndim"] == dimensions
    assert document["input"]["neighbours"] == neighbours
    predict(run / "model.safetensors", data / "images", tmp_path / "masks")
    written = load(run / "config.yaml", RunConfig)
    assert (written.dimensions, written.neighbours) == (dimensions, neighbours)


def test_pictures_are_refused_where_volumes_are_asked_for(tmp_path: Path) -> None:
    data = cohort(tmp_path / "set", ".nii.gz", *[(20, 20, 1)] * 4)
    (tmp_path / "a.yaml").write_text(SMALL + "dimensions: 3\n")
    with pytest.raises(ConfigError, match=r"dimensions is 3, got single slices in 4 of 4 cases"):
        train(data, steps=2, config=tmp_path / "a.yaml", out=tmp_path / "run", audit=False)


def test_neighbours_of_slices_mean_nothing_in_volumes() -> None:
    assert RunConfig(dimensions=3, neighbours=0).dimensions == 3
    with pytest.raises(ConfigError, match="neighbours of slices alone, got 1"):
        RunConfig(dimensions=3, neighbours=1)
