"""Flat images stored as volumes of one slice: a flat network, and masks on their own grids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from delineate.core import model_file
from delineate.core.errors import InputError
from delineate.core.image import Grid, Image, flat_grid
from delineate.data import readers
from delineate.tasks.predict import predict
from delineate.tasks.train import train

AFFINE = np.array([[-0.8, 0, 0, 12], [0, 0.8, 0, -7], [0, 0, 5, 3], [0, 0, 0, 1]])


def cohort(root: Path, suffix: str, *shapes: tuple[int, ...]) -> Path:
    """Discs and balls in noise, one a subject."""
    for number, shape in enumerate(shapes):
        generator = np.random.default_rng(number)
        centre = [generator.uniform(0.3, 0.7) * (n - 1) for n in shape]
        away = np.indices(shape) - np.array(centre).reshape(3, 1, 1, 1)
        inside = np.linalg.norm(away, axis=0) < 7
        array = inside * 100 + generator.normal(0, 10, shape)
        grid = flat_grid(shape) if suffix == ".tif" else Grid(shape, AFFINE)
        for folder, image in (("images", array.astype(np.float32)), ("masks", inside)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            readers.write(root / folder / f"p{number}{suffix}", Image(image[None], grid))
    return root


@pytest.mark.parametrize(
    ("suffix", "shapes", "ndim", "axis"),
    [
        (".nii.gz", [(32, 30, 1)] * 6, 2, 2),
        pytest.param(".nii.gz", [(1, 32, 30)] * 6, 2, 0, marks=pytest.mark.slow),
        (".nrrd", [(32, 1, 30)] * 6, 2, 1),
        pytest.param(
            ".nii.gz", [(32, 30, 1)] * 4 + [(32, 30, 9)] * 2, 2, 2, marks=pytest.mark.slow
        ),
        (".nii.gz", [(24, 24, 24)] * 4 + [(24, 24, 1)] * 2, 3, None),
    ],
)
def test_volumes_of_one_slice_train_and_come_home(
    tmp_path: Path, suffix: str, shapes: list[tuple[int, ...]], ndim: int, axis: int | None
) -> None:
    data = cohort(tmp_path / "set", suffix, *shapes)
    (tmp_path / "tiny.yaml").write_text(
        f"width: 4\npatch: {[16] * ndim}\nbatch: 2\nholdout: 0\naugment: true\n"
    )
    run, masks = tmp_path / "run", tmp_path / "masks"
    train(data, steps=3, config=tmp_path / "tiny.yaml", out=run, audit=False)
    document = model_file.load(run / "model.safetensors").document
    assert document["network"]["config"]["ndim"] == ndim
    assert document["input"]["slice_axis"] == axis
    assert document["input"]["neighbours"] == 0
    predict(run / "model.safetensors", data / "images", masks)
    if suffix == ".nrrd":  # coronal
        across = cohort(tmp_path / "across", suffix, (32, 30, 1)) / "images"
        with pytest.raises(InputError, match=r"expected coronal slices.*got a single axial slice"):
            predict(run / "model.safetensors", across, tmp_path / "none")
    for number, shape in enumerate(shapes):
        mask = readers.read_label(masks / f"p{number}{suffix}")
        assert mask.array.shape == (1, *shape)
        assert mask.grid.same_as(Grid(shape, AFFINE))
