"""Predicted images are scored against the scans of a data set, beside what a mix would score."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from delineate.core.case import Case
from delineate.core.errors import LayoutError, PartialError
from delineate.core.progress import QUIET
from delineate.core.schema import Schema
from delineate.data.cohort import Cohort
from delineate.data.opening import Opening
from delineate.data.outputs import INDEX
from delineate.scoring.options import Options
from delineate.scoring.translations import score_images


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array.astype(np.float32), np.diag([-1.0, -1.0, 2.0, 1.0])), path)
    return path


def data(folder: Path, units: str = "typical") -> tuple[Cohort, dict[str, Any]]:
    """Three people; predicted is the truth, a thousand times as bright, with some noise."""
    cases, records = [], []
    for k in range(3):
        rng = np.random.default_rng(k)
        t1, t2 = rng.uniform(50, 100, (2, 16, 16, 8))
        truth = np.abs(t1 - t2) + 10
        head = np.zeros(truth.shape)
        head[3:13, 3:13, 1:7] = 1
        images = {"t1": t1 * head, "t2": t2 * head, "t1c": truth * head}
        sources = {n: save(folder / "data" / f"c{k}_{n}.nii.gz", a) for n, a in images.items()}
        cases.append(Case(f"c{k}", f"s{k}", sources))
        noisy = (truth + rng.normal(0, 1 + k, truth.shape)) * head
        save(folder / "predictions" / f"c{k}.nii.gz", 1000 * noisy if units == "typical" else noisy)
        files = {"image": f"c{k}.nii.gz"}
        records.append({"id": f"c{k}", "subject": f"s{k}", "files": files, "error": None})
    scale = {"channel": "t1c", "units": units, "mean": 0.0, "std": 1.0, "outside": 0.0}
    index = {"image": scale, "channels": ["t1", "t2"], "cases": records, "model": {}}
    return Cohort(folder / "data", "test", tuple(cases), Schema(())), index


class Opened(Opening):
    """A cohort that is listed already."""

    def __init__(self, cohort: Cohort) -> None:
        super().__init__()
        object.__setattr__(self, "listed", cohort)

    def cohort(self, *_: Any) -> Cohort:
        found: Cohort = vars(self)["listed"]
        return found


def score(folder: Path, cohort: Cohort, index: dict[str, Any], said: list[str]) -> dict[str, Any]:
    (folder / "predictions" / INDEX).write_text(json.dumps(index))
    return score_images(
        folder / "predictions", folder / "data", folder / "scores", Opened(cohort),
        Options(resamples=200), said.append, QUIET,
    )  # fmt: skip


def test_without_a_unit_the_gain_is_not_held_against_it(tmp_path: Path) -> None:
    said: list[str] = []
    summary = score(tmp_path, *data(tmp_path), said)
    figures = summary["figures"]
    assert figures["psnr_db"]["mean"] > 25
    assert figures["written_psnr_db"]["mean"] < -20
    assert figures["mae"]["mean"] == pytest.approx(1.6, abs=0.3)  # of noise of 1, 2 and 3
    assert figures["baseline_psnr_db"]["mean"] < figures["psnr_db"]["mean"]
    assert summary["gain_db"]["wins"] == 3
    assert figures["psnr_db"]["ci_low"] < figures["psnr_db"]["mean"]
    assert "better than it in 3 of 3 subjects" in "".join(said)
    rows = list(csv.DictReader((tmp_path / "scores" / "cases.csv").read_text().splitlines()))
    assert [row["case"] for row in rows] == ["c0", "c1", "c2"]
    assert int(rows[0]["voxels"]) == 600  # air does not count
    assert json.loads((tmp_path / "scores" / "summary.json").read_text()) == summary
    page = (tmp_path / "scores" / "report.html").read_text()
    assert "On 3 subjects the predicted t1c has a PSNR of" in page
    assert "the model tells more than any such mix" in page
    assert page.count("data:image/png") == 3


def test_units_are_held_to(tmp_path: Path) -> None:
    summary = score(tmp_path, *data(tmp_path, "scan"), [])
    assert summary["figures"]["psnr_db"] == summary["figures"]["written_psnr_db"]
    assert "matched" not in summary["rules"]


def test_a_case_on_another_grid_is_told_and_the_others_are_scored(tmp_path: Path) -> None:
    cohort, index = data(tmp_path)
    save(tmp_path / "predictions" / "c1.nii.gz", np.ones((16, 16, 9)))
    with pytest.raises(PartialError, match="c1: expected the grid of the true t1c"):
        score(tmp_path, cohort, index, [])
    assert json.loads((tmp_path / "scores" / "summary.json").read_text())["n_cases"] == 2


def test_without_the_true_sequence_there_is_nothing_to_score(tmp_path: Path) -> None:
    cohort, index = data(tmp_path)
    for case in cohort.cases:
        del case.images["t1c"]  # type: ignore[attr-defined]
    with pytest.raises(LayoutError, match="expected t1c of 3 predicted cases"):
        score(tmp_path, cohort, index, [])
