"""A run and its data: what it goes on with, what it was told to leave out."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from delineate.core.errors import OutputError
from delineate.tasks.train import train
from delineate.training.job import Job


def scans(root: Path, count: int = 4) -> Path:
    """Volumes with noise and a cube outlined, 12 voxels a side."""
    rng = np.random.default_rng(0)
    for n in range(count):
        image = rng.normal(size=(12, 12, 12)).astype(np.float32)
        label = np.zeros((12, 12, 12), np.uint8)
        label[3:8, 3:8, 3:8] = 1
        for folder, array in (("images", image), ("masks", label)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), root / folder / f"s{n}.nii")
    return root


def test_a_run_does_not_go_on_with_labels_that_were_edited_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = scans(tmp_path / "data"), tmp_path / "run"

    def begun(job: Job, cache: Path, finish: bool = False) -> dict[str, str]:
        (out / "checkpoints").mkdir(exist_ok=True)
        return {}

    monkeypatch.setattr(Job, "run", begun)
    train(data, steps=1, out=out, audit=False)
    train(data, steps=1, out=out, audit=False)  # the same: goes on
    label = data / "masks/s1.nii"
    facts = label.stat()
    with label.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\1")
    os.utime(label, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    with pytest.raises(OutputError, match="other images, labels or case names") as caught:
        train(data, steps=1, out=out, audit=False)
    assert caught.value.code == "run-differs"
