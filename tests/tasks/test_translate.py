"""One sequence from the others, from folder to figures, on a phantom small enough for seconds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from delineate.core import model_file
from delineate.core.errors import ConfigError
from delineate.phantoms.generate import generate
from delineate.tasks.evaluate import evaluate
from delineate.tasks.export import export
from delineate.tasks.predict import predict
from delineate.tasks.train import train

TINY = "width: 4\npatch: [16, 16, 16]\nbatch: 2\nholdout: 0.4\nvalidation: 0.1\n"


@pytest.fixture(scope="module")
def brains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "scans"
    return generate(folder, 6, 6.0, seed=3, anatomy="ellipsoid", controls=0.0, twins=0.0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, brains: Path) -> Path:
    out = tmp_path_factory.mktemp("run")
    (out / "tiny.yaml").write_text(TINY)
    train(brains, steps=12, translate_to="t1gd", config=out / "tiny.yaml", out=out / "run")
    return out / "run"


@pytest.fixture(scope="module")
def unseen(tmp_path_factory: pytest.TempPathFactory, brains: Path) -> Path:
    """Scans without contrast, and with nothing outlined, in air that nothing was measured in."""
    folder = tmp_path_factory.mktemp("unseen") / "scans"
    for name in ("sub-001", "sub-002"):
        (folder / name).mkdir(parents=True)
        for sequence in ("t1", "t2", "flair"):
            scan = nib.load(brains / name / f"{sequence}.nii.gz")
            wide = np.pad(scan.get_fdata(dtype=np.float32), 4)
            nib.save(nib.Nifti1Image(wide, scan.affine), folder / name / f"{sequence}.nii.gz")
    return folder


def test_a_run_is_judged_by_what_an_image_is_judged_by(finished: Path) -> None:
    record = json.loads((finished / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["scored"] == {"cases": 2, "of": 2}
    document = model_file.load(finished / "model.safetensors").document
    assert document["target"] == {"name": "image", "config": {"translate_to": "t1gd"}}
    assert document["channels"] == ["t1", "t2", "flair"]
    assert document["output"]["names"] == ["t1gd"]
    assert "t1gd has no unit" in document["output"]["scale"]["meaning"]
    lines = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert any("val_psnr_db" in line for line in lines)
    summary = json.loads((finished / "validation" / "summary.json").read_text())
    assert summary["format"] == "delineate-translation"
    assert summary["n_subjects"] == 2
    page = (finished / "report.html").read_text()
    assert "On 2 held-out subjects the predicted t1gd has a PSNR of" in page
    assert "translate_to: t1gd" in (finished / "config.yaml").read_text()


def test_only_the_inputs_are_needed_and_the_image_lies_on_their_grid(
    finished: Path, unseen: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    index = predict(finished / "model.safetensors", unseen, tmp_path / "out", say=said.append)
    assert any("t1gd has no unit" in line for line in said)
    assert index["image"]["channel"] == "t1gd"
    assert index["cases"][0]["files"] == {"image": "sub-001.nii.gz"}
    made = nib.load(tmp_path / "out" / "sub-001.nii.gz")
    scan = nib.load(unseen / "sub-001" / "t1.nii.gz")
    assert made.shape == scan.shape
    np.testing.assert_allclose(made.affine, scan.affine, atol=1e-4)
    assert made.get_data_dtype() == np.float32
    values = made.get_fdata()
    outside = model_file.load(finished / "model.safetensors").document["output"]["scale"]["outside"]
    assert (values[0] == np.float32(outside)).all()  # cut off before the network sees it
    assert len(np.unique(values)) > 1000


def test_a_scan_without_the_background_of_training_is_warned_of(
    finished: Path, unseen: Path, tmp_path: Path
) -> None:
    for sequence in ("t1", "t2", "flair"):
        scan = nib.load(unseen / "sub-001" / f"{sequence}.nii.gz")
        noise = np.random.default_rng(0).normal(50, 10, scan.shape).astype(np.float32)
        name = tmp_path / "scans" / "sub-001" / f"{sequence}.nii.gz"
        name.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(scan.get_fdata(dtype=np.float32) + noise, scan.affine), name)
    index = predict(finished / "model.safetensors", tmp_path / "scans", tmp_path / "out")
    assert "was never learned" in "".join(index["cases"][0]["facts"]["warnings"])


def test_two_models_give_the_mean_of_their_images(
    finished: Path, unseen: Path, brains: Path, tmp_path: Path
) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    train(
        brains, steps=3, seed=1, translate_to="t1gd", config=tmp_path / "tiny.yaml",
        out=tmp_path / "run", audit=False, holdout=0.0,
    )  # fmt: skip
    models = [finished / "model.safetensors", tmp_path / "run" / "model.safetensors"]
    images = []
    for number, one in enumerate([models[:1], models[1:], models]):
        predict(one, unseen, tmp_path / str(number), only=["sub-001"])
        images.append(nib.load(tmp_path / str(number) / "sub-001.nii.gz").get_fdata())
    np.testing.assert_allclose(images[2], (images[0] + images[1]) / 2, rtol=1e-4, atol=1e-2)


def test_predictions_are_known_for_images_and_scored_as_such(
    finished: Path, brains: Path, tmp_path: Path
) -> None:
    predict(finished / "model.safetensors", brains, tmp_path / "out", only=["sub-001", "sub-002"])
    summary = evaluate(tmp_path / "out", brains, tmp_path / "scores", resamples=200)
    assert summary["n_cases"] == 2
    assert summary["figures"]["psnr_db"]["mean"] > 10
    assert len(list((tmp_path / "scores" / "overlays").glob("*.png"))) == 2
    with pytest.raises(ConfigError, match="--tolerance-mm"):
        evaluate(tmp_path / "out", brains, tmp_path / "other", tolerance_mm=2.0)


def test_options_of_outlines_mean_nothing_here(
    finished: Path, unseen: Path, brains: Path, tmp_path: Path
) -> None:
    model = finished / "model.safetensors"
    with pytest.raises(ConfigError, match="--probabilities: an image has none"):
        predict(model, unseen, tmp_path / "out", probabilities=True)
    (tmp_path / "crf.yaml").write_text("crf: true\n")
    with pytest.raises(ConfigError, match="got crf: for outline alone"):
        train(brains, translate_to="t1gd", config=tmp_path / "crf.yaml", out=tmp_path / "run")
    with pytest.raises(ConfigError, match="expected --target image beside --translate-to"):
        train(brains, translate_to="t1gd", target="outline", out=tmp_path / "run")
    with pytest.raises(ConfigError, match="expected a method that trains a translator"):
        train(brains, translate_to="t1gd", method="supervised", out=tmp_path / "run")
    with pytest.raises(ConfigError, match="expected a method that trains a segmenter"):
        train(brains, method="translate", out=tmp_path / "run")


def test_a_run_that_was_cut_off_goes_on_to_the_same_weights(
    finished: Path, brains: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    for name in ("model.safetensors", "report.html"):
        (run / name).unlink()
    record = json.loads((run / "run.json").read_text())
    del record["trained"]
    (run / "run.json").write_text(json.dumps({**record, "status": "running"}))
    config = finished.parent / "tiny.yaml"
    train(brains, steps=12, translate_to="t1gd", config=config, out=run)
    one, two = (model_file.load(path / "model.safetensors").tensors for path in (finished, run))
    assert all(np.array_equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_an_image_is_the_same_without_pytorch(finished: Path, unseen: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="of the extra onnx")
    models = [finished / "model.safetensors", tmp_path / "model.onnx"]
    export(models[0], models[1])
    images = []
    for number, model in enumerate(models):
        predict(model, unseen, tmp_path / str(number), only=["sub-001"])
        images.append(nib.load(tmp_path / str(number) / "sub-001.nii.gz").get_fdata())
    np.testing.assert_allclose(images[1], images[0], rtol=1e-4)
