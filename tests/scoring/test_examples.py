"""The cases that a report shows, and the sequence in which it shows them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from delineate.core.image import Grid, Image
from delineate.data import readers
from delineate.scoring.examples import contrast
from delineate.tasks.evaluate import evaluate

BALL = np.sum((np.indices((20, 20, 14)) - np.reshape((10, 10, 7), (3, 1, 1, 1))) ** 2, axis=0)


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    readers.write(path, Image(np.asarray(array)[None], Grid(array.shape, np.eye(4))))


def test_contrast_is_measured_against_the_ring_around_a_structure() -> None:
    mask = BALL < 16
    image = np.where(np.indices(BALL.shape).sum(axis=0) % 2, 1.0, -1.0)  # mean 0, sd 1
    before = contrast(image, mask)
    assert before is not None
    assert before < 0.3
    image[mask] += 3
    image[BALL > 100] = 1000  # far away: no part of the ring
    assert contrast(image, mask) == pytest.approx(3, abs=0.3)
    assert contrast(image, np.zeros_like(mask)) is None
    assert contrast(image, np.ones_like(mask)) is None
    assert contrast(mask.astype(float), mask) == np.inf


def test_a_picture_shows_the_sequence_in_which_the_structure_stands_out_and_names_it(
    tmp_path: Path,
) -> None:
    root = tmp_path / "data"
    noise = np.random.default_rng(0).normal(size=(3, 2, *BALL.shape)).astype(np.float32)
    for i, (t1, flair) in enumerate(noise):
        save(root / "imagesTr" / f"p{i}_0000.nii.gz", t1 + 0.2 * (BALL < 25))
        save(root / "imagesTr" / f"p{i}_0001.nii.gz", flair + 4 * (BALL < 25))
        save(root / "labelsTr" / f"p{i}.nii.gz", (BALL < 25).astype(np.uint8))
        save(tmp_path / "masks" / f"p{i}.nii.gz", (5 * i + BALL < 25).astype(np.uint8))
    document = {
        "channel_names": {"0": "T1", "1": "FLAIR"}, "labels": {"background": 0, "tumour": 1},
        "numTraining": 3, "file_ending": ".nii.gz",
    }  # fmt: skip
    (root / "dataset.json").write_text(json.dumps(document))
    evaluate(tmp_path / "masks", root, tmp_path / "out", resamples=100)
    pictures = json.loads((tmp_path / "out" / "overlays" / "overlays.json").read_text())
    assert [one["title"].split(":")[0] for one in pictures] == ["Worst", "Median", "Best"]
    assert [one["caption"].split(",")[0].upper() for one in pictures] == ["FLAIR"] * 3


@pytest.mark.parametrize(
    ("names", "pattern", "chosen"),
    [
        # From the worst to the best; the two best are of one subject.
        (["a_1", "b_1", "c_1", "c_2"], "^(.)_", ["a_1", "b_1", "c_2"]),
        (["a_1", "c_1", "c_2"], "^(.)_", ["a_1", "c_2"]),
        (["a_1", "a_2"], "^(.)_", ["a_1"]),
        # Two eyes of a child are one person, whatever the layout says.
        (["01L", "01R", "02L", "02R"], None, ["01L", "02R"]),
    ],
)
def test_no_person_is_shown_twice(
    tmp_path: Path, names: list[str], pattern: str | None, chosen: list[str]
) -> None:
    for place, name in enumerate(names):
        save(tmp_path / "labels" / f"{name}.nii.gz", (BALL < 36).astype(np.uint8))
        prediction = (BALL - 7 * place < 12).astype(np.uint8)
        save(tmp_path / "masks" / f"{name}.nii.gz", prediction)
    evaluate(
        tmp_path / "masks", tmp_path / "labels", tmp_path / "out",
        subject_pattern=pattern, resamples=100,
    )  # fmt: skip
    pictures = json.loads((tmp_path / "out" / "overlays" / "overlays.json").read_text())
    assert [one["title"].split(": ")[1].split(",")[0] for one in pictures] == chosen
