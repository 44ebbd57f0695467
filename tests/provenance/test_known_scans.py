"""What scores owe to predictions.json: whose scans taught the model, and which image it was."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.tasks.test_predict import threshold_network, write_model  # noqa: F401  a fixture

from delineate.core import model_file
from delineate.core.errors import InputError, PartialError
from delineate.core.image import Grid, Image
from delineate.data import readers
from delineate.data.cohort import Cohort
from delineate.data.site_key import find
from delineate.provenance import known_scans, lineage
from delineate.tasks.evaluate import evaluate
from delineate.tasks.predict import predict

GRID = Grid((8, 9, 10), np.eye(4))


@pytest.fixture(autouse=True)
def plain_page(monkeypatch: Any) -> None:
    """Drawing takes a second a page: notes are enough."""
    monkeypatch.setattr(
        "delineate.reports.evaluation.write",
        lambda path, summary, rows, overlays: path.write_text("\n".join(summary["notes"])),
    )


def save(folder: Path, name: str, seed: int) -> None:
    array = np.random.default_rng(seed).random((1, 8, 9, 10)).astype(np.float32)
    readers.write(folder / "images" / f"{name}.nii.gz", Image(array, GRID))
    readers.write(
        folder / "labels" / f"{name}.nii.gz", Image((200 * (array > 0.5)).astype(np.uint8), GRID)
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for part in ("images", "labels"):
        (tmp_path / "data" / part).mkdir(parents=True)
    for n in range(4):
        save(tmp_path / "data", f"case{n}", n)
    return tmp_path / "data"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "m.safetensors", crop=False)


def teach(model: Path, data: Path, *names: str, part: str = "train") -> None:
    """Note in the model file that it learnt from some cases."""
    file = model_file.load(model)
    parts = {part: Cohort.open(data).subset(names).cases}
    subjects = lineage.subjects(None, lineage.marks(parts, find(data)))
    document = {**file.document, "provenance": subjects}
    model_file.save(model, file.tensors, document)


@pytest.mark.parametrize("part", ["train", "unlabelled"])
def test_scores_of_cases_that_taught_the_model_say_so(
    tmp_path: Path, data: Path, model: Path, part: str
) -> None:
    teach(model, data, "case0", "case2", part=part)
    index = predict(model, data, tmp_path / "masks")
    assert [case["part"] for case in index["cases"]] == [part, None, part, None]
    said: list[str] = []
    summary = evaluate(tmp_path / "masks", data, tmp_path / "scores", say=said.append)
    assert summary["taught"] == ["case0", "case2"]
    assert summary["notes"][0].startswith("WARNING: 2 of 4 scored cases taught this model")
    assert summary["notes"][0] in said
    assert "WARNING" in (tmp_path / "scores" / "report.html").read_text()
    predict(model, data, tmp_path / "new", only=["case1", "case3"])
    summary = evaluate(tmp_path / "new", data, tmp_path / "honest", say=said.append)
    assert summary["taught"] == []
    # Of the cases that nobody asked for, nothing is said.
    assert not [note for note in summary["notes"] if "labelled" in note or "scored" in note]


def test_with_another_key_nobody_can_tell_who_taught_the_model_and_that_is_said(
    tmp_path: Path, data: Path, model: Path
) -> None:
    teach(model, data, "case0")
    other = tmp_path / "other.key"
    find(data, other)
    index = predict(model, data, tmp_path / "masks", site_key=other)
    assert {case["part"] for case in index["cases"]} == {"untold"}
    summary = evaluate(tmp_path / "masks", data, tmp_path / "scores")
    assert "cannot be told" in summary["notes"][0]
    assert "--site-key" in summary["notes"][0]
    assert summary["taught"] == []


def test_scores_of_cases_that_were_left_out_without_being_asked_say_so(
    tmp_path: Path, data: Path, model: Path
) -> None:
    predict(model, data, tmp_path / "masks")
    save(data, "case9", 9)  # came later
    summary = evaluate(tmp_path / "masks", data, tmp_path / "scores")
    assert any("1 of 5 labelled cases were not among the" in note for note in summary["notes"])


def test_a_prediction_that_was_cut_off_owes_what_was_asked_for(
    tmp_path: Path, data: Path, model: Path
) -> None:
    index = predict(model, data, tmp_path / "masks", only=["case0", "case1"])
    index |= {"finished": False, "cases": index["cases"][:1]}
    (tmp_path / "masks" / "predictions.json").write_text(json.dumps(index))
    with pytest.raises(PartialError, match="1 of 2 cases could not be scored; case1"):
        evaluate(tmp_path / "masks", data, tmp_path / "scores")


def test_another_image_behind_the_same_name_is_found(
    tmp_path: Path, data: Path, model: Path
) -> None:
    predict(model, data, tmp_path / "masks")
    save(data, "case1", 77)
    path = data / "images" / "case2.nii.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 1))  # stored anew
    with pytest.raises(PartialError, match="1 of 4 cases could not be scored; case1"):
        evaluate(tmp_path / "masks", data, tmp_path / "scores")
    summary = json.loads((tmp_path / "scores" / "summary.json").read_text())
    (failure,) = summary["failures"]
    assert (failure["case"], failure["code"]) == ("case1", "image-other")
    assert summary["n_cases"] == 3


def test_labels_without_images_are_scored_as_ever(tmp_path: Path, data: Path, model: Path) -> None:
    predict(model, data, tmp_path / "masks")
    summary = evaluate(tmp_path / "masks", data / "labels", tmp_path / "scores")
    assert summary["n_cases"] == 4
    assert summary["mean_dice"]["mean"] == 1


def test_a_fault_that_nobody_foresaw_costs_its_case_alone(
    tmp_path: Path, data: Path, model: Path, monkeypatch: Any
) -> None:
    predict(model, data, tmp_path / "masks")
    from delineate.metrics import case

    score = case.score_case
    calls = []

    def fail(*given: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise ZeroDivisionError("of all things")
        return score(*given, **more)

    monkeypatch.setattr(case, "score_case", fail)
    with pytest.raises(PartialError, match="1 of 4 cases"):
        evaluate(tmp_path / "masks", data, tmp_path / "scores")
    assert "of all things" in (tmp_path / "scores" / "failures.log").read_text()


def test_what_is_no_list_of_images_is_not_compared(data: Path) -> None:
    case = Cohort.open(data).cases[0]
    from delineate.data.content import Hashes

    for images in (None, [], {"files": 3}, {"files": {}, "voxels": []}):
        known_scans.require_same(case, {"images": images}, ["image"], Hashes())
    other = {"files": {"image": "0"}, "voxels": {"image": "0"}}
    with pytest.raises(InputError):
        known_scans.require_same(case, {"images": other}, ["image"], Hashes())
