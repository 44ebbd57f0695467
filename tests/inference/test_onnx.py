"""Exported models predict as PyTorch does, and without it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.inference.test_session import SCHEMA, scan, write_model

import delineate
from delineate.conformance import networks
from delineate.conformance._rules import Subject
from delineate.core import catalog, config, model_file
from delineate.core.errors import ConfigError, ModelFileError, OutputError, ResourceError
from delineate.inference.ensemble import open_models
from delineate.inference.outlines import outline
from delineate.inference.session import Session

pytest.importorskip("onnxruntime", reason="of the extra onnx")
pytest.importorskip("onnxscript", reason="of the extra onnx")

#: What ONNX's exporter cannot express, by network and dimensions: said to the user in these words.
CANNOT = {
    ("film_unet", 3): "adaptive_avg_pool3d",
}
#: Where the least patch leaves a norm two voxels, rounding is amplified in PyTorch as well.
LARGER = {("mobilenet_unet", 2): 64, ("sam_automed", 2): 64}
SEGMENTERS = [
    pytest.param(subject, id=f"{name}-{subject.form}")
    for name in catalog.members("networks")
    if catalog.load("networks", name).KIND == "segmenter"
    for subject in networks.subjects(catalog.load("networks", name), name)
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small U-Net's model file, and beside it what was made of it."""
    path = write_model(tmp_path_factory.mktemp("onnx") / "m.safetensors")
    delineate.export(path)
    return path.with_suffix(".onnx")


@pytest.mark.slow
@pytest.mark.parametrize("subject", SEGMENTERS)
def test_every_segmenter_agrees_with_torch_or_says_why_it_cannot(
    subject: Subject, tmp_path: Path
) -> None:
    chosen, network = networks.make(subject)
    key = (subject.name, subject.ndim)
    patch = [LARGER[key]] * subject.ndim if key in LARGER else networks.size(subject.module, chosen)
    document = {
        "network": {"name": subject.name, "config": config.to_dict(chosen)},
        "channels": ["a", "b"], "schema": SCHEMA.to_dict(), "preparation": {},
        "input": {"patch": list(patch)},
    }  # fmt: skip
    path = tmp_path / "m.safetensors"
    model_file.save(path, network.state_dict(), document)
    onnx, torches = (catalog.load("inference.runtimes", name) for name in ("onnx", "torch"))
    if key in CANNOT:
        with pytest.raises(ModelFileError, match=CANNOT[key]) as caught:
            onnx.load(path)
        assert caught.value.code == "export"
        return
    exported, model = onnx.load(path, "cpu"), torches.load(path, "cpu")
    rng = np.random.default_rng(1)
    for count in (1, 3):  # whatever the number of windows in the export was
        windows = rng.normal(size=(count, 2, *patch)).astype(np.float32)
        found = exported.infer(windows)["probabilities"]
        assert np.abs(found - model.infer(windows)["probabilities"]).max() < 1e-4


@pytest.mark.slow
def test_an_exported_file_predicts_as_its_model_does(exported: Path) -> None:
    image = scan((19, 17, 12))
    model, onnx = (Session.open(exported.with_suffix(s), "cpu") for s in (".safetensors", ".onnx"))
    assert onnx.hash == model.hash
    assert onnx.document == model.document
    for options in ({}, {"mirror": True}, {"crf": True}):
        one, other = (outline(s, image, probabilities=True, **options) for s in (model, onnx))
        assert other.probabilities == pytest.approx(one.probabilities, abs=1e-4)
        assert (one.labels != other.labels).mean() < 1e-3


@pytest.mark.slow
def test_models_of_both_runtimes_are_averaged(exported: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other.safetensors", config={"name": "other"})
    image = scan()
    both = open_models([exported, other], "cpu")
    alone = [outline(Session.open(p, "cpu"), image, probabilities=True) for p in (exported, other)]
    mean = np.mean([one.probabilities for one in alone], axis=0)
    assert outline(both, image, probabilities=True).probabilities == pytest.approx(mean, abs=1e-6)


@pytest.mark.slow
def test_a_model_file_may_be_computed_by_onnx_too(exported: Path) -> None:
    path = exported.with_suffix(".safetensors")
    one, other = (Session.open(path, "cpu", name) for name in ("torch", "onnx"))
    found = [outline(s, scan(), probabilities=True).probabilities for s in (one, other)]
    assert found[0] == pytest.approx(found[1], abs=1e-4)


@pytest.mark.slow
def test_an_exported_file_predicts_without_torch(exported: Path, tmp_path: Path) -> None:
    import nibabel as nib

    scans = tmp_path / "scans"
    scans.mkdir()
    nib.save(nib.Nifti1Image(scan((12, 9, 10)).array[0], np.diag([2, 2, 2, 1])), scans / "a.nii.gz")
    code = (
        "import sys; import delineate\n"
        "index = delineate.predict(sys.argv[1], sys.argv[2], sys.argv[3], device='cpu')\n"
        "assert index['cases'][0]['files']['labels'] == ['a.nii.gz']\n"
        "print([m for m in ('torch', 'monai', 'onnx', 'onnxscript') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(exported), str(scans), str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": str(Path(delineate.__file__).parents[1])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_a_classifier_is_exported_with_what_it_looks_at(tmp_path: Path) -> None:
    mil = catalog.load("networks", "mil")
    chosen = mil.Config(width=4, depth=2, axis=2)
    torch.manual_seed(0)
    document = {
        "network": {"name": "mil", "config": config.to_dict(chosen)}, "channels": ["a"],
        "schema": {**SCHEMA.to_dict(), "labels": []}, "preparation": {},
        "classes": {"names": ["no", "yes"], "target": "class", "temperature": 1.0},
        "input": {"patch": [16, 16, 5], "slice_axis": None},
    }  # fmt: skip
    path = tmp_path / "m.safetensors"
    model_file.save(path, mil.build(chosen, 1, 2).state_dict(), document)
    pictures = np.random.default_rng(0).normal(size=(3, 1, 16, 16, 5)).astype(np.float32)
    one, other = (
        catalog.load("inference.runtimes", name).load(path, "cpu").infer(pictures)
        for name in ("torch", "onnx")
    )
    assert one.keys() == other.keys() == {"logits", "attention"}
    for name, values in one.items():
        assert other[name] == pytest.approx(values, abs=1e-4)


@pytest.mark.slow
def test_a_file_that_was_changed_is_refused(exported: Path, tmp_path: Path) -> None:
    data = exported.read_bytes()
    for what, changed in (
        ("match its checksum", data.replace(b"windows", b"windaws")),
        ("document", data.replace(b'\\"organ\\"', b'\\"other\\"').replace(b'"organ"', b'"orgam"')),
    ):
        assert changed != data
        path = tmp_path / "changed.onnx"
        path.write_bytes(changed)
        with pytest.raises(ModelFileError, match=what) as caught:
            Session.open(path, "cpu")
        assert caught.value.code == "model-file-tampered"


@pytest.mark.slow
def test_what_is_there_is_not_replaced_unasked(exported: Path) -> None:
    with pytest.raises(OutputError) as caught:
        delineate.export(exported.with_suffix(".safetensors"))
    assert caught.value.code == "output-exists"


def test_files_and_options_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.onnx"
    path.write_bytes(b"not a graph")
    model = write_model(tmp_path / "m.safetensors")
    refused: list[tuple[type[Exception], str, Any]] = [
        (ModelFileError, "model-file-invalid", (path, "cpu")),
        (ModelFileError, "model-file-missing", (tmp_path / "none.onnx", "cpu")),
        (ResourceError, "device", (path, "mps")),
        (ConfigError, "runtime", (path, "cpu", "torch")),
        (ConfigError, "map-unknown", (path, "cpu", None, ["critic"])),
        (ConfigError, "unknown-name", (model, "cpu", "tvm")),
    ]
    for kind, code, arguments in refused:
        with pytest.raises(kind) as caught:
            Session.open(*arguments)
        assert getattr(caught.value, "code", None) == code
