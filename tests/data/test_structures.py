"""What label files show, by name, and remembered by content."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from delineate.core.case import Case
from delineate.core.schema import Label, Schema
from delineate.data import structures
from delineate.data.cohort import Cohort


def write(path: Path, *values: int) -> Path:
    label = np.zeros((6, 6, 6), np.uint8)
    label.reshape(-1)[: len(values)] = values
    nib.save(nib.Nifti1Image(label, np.eye(4)), path)
    return path


def cohort_of(folder: Path, **values: tuple[int, ...]) -> Cohort:
    cases = []
    for name, each in values.items():
        image = write(folder / f"{name}-image.nii", 1, 2)
        cases.append(Case(name, name, {"t1": image}, write(folder / f"{name}.nii", *each)))
    cases.append(Case("bare", "bare", {"t1": image}))
    schema = Schema(labels=(Label("organ", 1), Label("cyst", 4)), ignore=9)
    return Cohort(folder, "table", tuple(cases), schema)


def test_structures_are_named_and_what_nobody_annotated_is_none(tmp_path: Path) -> None:
    cohort = cohort_of(tmp_path, a=(1, 4), b=(1, 9), c=())
    assert structures.by_case(cohort) == {"a": {"organ", "cyst"}, "b": {"organ"}, "c": frozenset()}


def test_label_files_are_read_once_and_again_when_they_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = cohort_of(tmp_path, a=(1,), b=(4,))
    first = structures.by_case(cohort, tmp_path / "cache")
    read = []
    real = structures.read_indices
    monkeypatch.setattr(structures, "read_indices", lambda c, s: read.append(c.id) or real(c, s))
    assert structures.by_case(cohort, tmp_path / "cache") == first
    assert read == []
    write(tmp_path / "b.nii", 1, 4)  # the same size
    assert structures.by_case(cohort, tmp_path / "cache")["b"] == {"organ", "cyst"}
    assert read == ["b"]


def test_a_label_that_cannot_be_read_is_for_others_to_tell(tmp_path: Path) -> None:
    cohort = cohort_of(tmp_path, a=(1,), b=(4,))
    (tmp_path / "b.nii").write_bytes(b"damaged")
    assert structures.by_case(cohort) == {"a": {"organ"}, "b": frozenset()}
