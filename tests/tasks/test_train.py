"""The training task from folder to report, on a phantom so small that a run takes seconds."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from delineate.core import model_file
from delineate.core.errors import ConfigError, DelineateError, InputError, OutputError
from delineate.phantoms.generate import generate
from delineate.tasks.predict import predict
from delineate.tasks.train import train

TINY = "width: 4\npatch: [16, 16, 16]\nbatch: 2\n"


@pytest.fixture(scope="module")
def brains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "scans"
    return generate(folder, 10, 6.0, seed=3, anatomy="ellipsoid", controls=0.0, twins=0.2)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, brains: Path, config: Path) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    train(brains, steps=12, config=config, out=out)
    return out


def test_a_run_leaves_everything_that_is_needed_to_judge_and_repeat_it(finished: Path) -> None:
    record = json.loads((finished / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["steps"] == 12
    assert set(record["hashes"]) == {"config", "cohort", "split", "model"}
    assert record["versions"]["torch"].startswith("2.")
    assert "width: 4" in (finished / "config.yaml").read_text()
    lines = [json.loads(x) for x in (finished / "log.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines] == list(range(1, 13))
    assert any("val_dice" in x for x in lines)
    assert list((finished / "tensorboard").iterdir())
    assert (finished / "audit.json").exists()
    assert "<html" in (finished / "report.html").read_text()


def test_subjects_are_never_in_two_parts_and_only_held_out_ones_are_scored(finished: Path) -> None:
    split = json.loads((finished / "split.json").read_text())
    cohort = json.loads((finished / "cohort.json").read_text())
    subject = {case["id"]: case["subject"] for case in cohort["cases"]}
    parts = [{subject[c] for c in ids} for ids in split["parts"].values()]
    assert len(parts) == 3
    assert sum(map(len, parts)) == len(set().union(*parts))
    assert len(set(subject.values())) < len(subject), "the phantom has twins to keep together"
    with (finished / "validation" / "cases.csv").open() as stream:
        scored = {row["case"] for row in csv.DictReader(stream)}
    assert scored == set(split["parts"]["test"])


def test_the_model_file_alone_predicts_on_the_original_grid(
    finished: Path, brains: Path, tmp_path: Path
) -> None:
    import nibabel

    scan = next(p for p in sorted(brains.iterdir()) if p.is_dir())
    predict(finished / "model.safetensors", brains, tmp_path / "out", only=[scan.name])
    mask = nibabel.load(next((tmp_path / "out").glob("*.nii.gz")))
    image = nibabel.load(scan / "flair.nii.gz")
    assert mask.shape == image.shape
    assert np.abs(mask.affine - image.affine).max() < 1e-3
    assert set(np.unique(np.asarray(mask.dataobj))) <= {0, 1, 2, 4}
    document = model_file.load(finished / "model.safetensors").document
    assert document["provenance"]["hashes"]["split"]
    assert str(brains) not in json.dumps(document), "a model file names no folder of its maker"


def test_the_same_seed_gives_the_same_model(
    finished: Path, brains: Path, config: Path, tmp_path: Path
) -> None:
    train(brains, steps=12, config=config, out=tmp_path / "again")
    ours = model_file.load(finished / "model.safetensors").tensors
    again = model_file.load(tmp_path / "again" / "model.safetensors").tensors
    assert all(np.array_equal(ours[name], again[name]) for name in ours)


COMMAND = """
import sys
from pathlib import Path
from delineate.tasks.train import train
train(Path(sys.argv[1]), steps=int(sys.argv[4]), config=Path(sys.argv[2]), out=Path(sys.argv[3]),
      audit=False, say=lambda text: print(text, flush=True))
"""


def start(brains: Path, config: Path, out: Path, steps: int) -> subprocess.Popen[str]:
    """A run of its own, which is given time to take ten steps."""
    source = Path(__file__).parents[2] / "src"
    child = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(brains), str(config), str(out), str(steps)],
        env={**os.environ, "PYTHONPATH": str(source)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    log = out / "log.jsonl"
    until = time.monotonic() + 120
    while time.monotonic() < until and child.poll() is None:
        if log.exists() and len(log.read_text().splitlines()) > 10:
            break
        time.sleep(0.02)
    return child


def test_kill_nine_then_the_same_command_ends_with_the_same_model(
    brains: Path, tmp_path: Path
) -> None:
    config = tmp_path / "tiny.yaml"
    # processes of their own would measure whether 16 bits are faster
    config.write_text(TINY + "loop: {checkpoint_seconds: 0.1}\nprecision: 32-true\n")
    child = start(brains, config, tmp_path / "killed", 60)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    said: list[str] = []
    train(brains, steps=60, config=config, out=tmp_path / "killed", audit=False, say=said.append)
    assert any("going on from step" in text for text in said)
    train(brains, steps=60, config=config, out=tmp_path / "whole", audit=False)
    whole = model_file.load(tmp_path / "whole" / "model.safetensors").tensors
    killed = model_file.load(tmp_path / "killed" / "model.safetensors").tensors
    # the two runs are different processes with different thread schedules, yet equal to the bit
    assert all(np.array_equal(whole[name], killed[name]) for name in whole)


def test_control_c_ends_with_a_usable_model(brains: Path, config: Path, tmp_path: Path) -> None:
    child = start(brains, config, tmp_path / "run", 100_000)
    child.send_signal(signal.SIGINT)
    output, _ = child.communicate(timeout=120)
    assert child.returncode == 0, output[-3000:]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "interrupted"
    model_file.load(tmp_path / "run" / "model.safetensors")
    assert (tmp_path / "run" / "report.html").exists()


def test_a_budget_is_kept(brains: Path, config: Path, tmp_path: Path) -> None:
    record = train(brains, budget="25s", config=config, out=tmp_path / "run", audit=False)
    assert record["steps"] > 12
    assert record["budget_seconds"] == 25
    assert record["seconds"] < 40  # a busy machine may be late, never twice as long


def test_the_adversary_trains_too_and_everything_it_does_is_logged(
    brains: Path, config: Path, tmp_path: Path
) -> None:
    train(brains, method="adversarial", steps=12, config=config, out=tmp_path / "run")
    last = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert {"d_loss", "d_accuracy", "d_real", "d_fake", "r1", "grad_ratio"} <= last.keys()


def test_stacks_of_slices_train_a_flat_network(tmp_path: Path) -> None:
    scans = generate(
        tmp_path / "slices", 6, 6.0, seed=1, anatomy="ellipsoid", layout="kaggle", controls=0.0
    )
    config = tmp_path / "flat.yaml"
    config.write_text("width: 4\npatch: [32, 32]\nbatch: 4\n")
    out = tmp_path / "run"
    train(scans, steps=8, config=config, out=out, holdout=0.2)
    document = model_file.load(out / "model.safetensors").document
    assert document["network"]["config"]["ndim"] == 2
    assert document["input"]["neighbours"] == 1
    masks = list((out / "validation" / "predictions").glob("*/*.png"))
    split = json.loads((out / "split.json").read_text())
    folders = {mask.parent.name for mask in masks}
    assert folders == set(split["parts"]["test"])


def test_a_finished_run_is_not_written_over(finished: Path, brains: Path, config: Path) -> None:
    with pytest.raises(OutputError, match="finished"):
        train(brains, steps=12, config=config, out=finished)


def test_a_cut_off_run_goes_on_only_with_its_own_settings(
    finished: Path, brains: Path, config: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut"
    (cut / "checkpoints").mkdir(parents=True)
    record = json.loads((finished / "run.json").read_text())
    (cut / "run.json").write_text(json.dumps({**record, "status": "running"}))
    with pytest.raises(OutputError, match="settings"):
        train(brains, steps=13, config=config, out=cut)


def test_a_run_refused_before_its_first_step_can_be_given_again_otherwise(
    brains: Path, config: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="budget"):
        train(brains, budget="3s", config=config, out=tmp_path)
    assert train(brains, steps=2, config=config, out=tmp_path)["status"] == "finished"


def test_bad_requests_are_told_before_any_work(brains: Path, config: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="supervized") as caught:
        train(brains, method="supervized", out=tmp_path / "a")
    assert "supervised" in str(caught.value)
    with pytest.raises(ConfigError, match="expected a segmenter"):
        train(brains, network="patch_critic", steps=3, config=config, out=tmp_path / "b")
    (tmp_path / "wrong.yaml").write_text("seed: 1\nwidht: 8\n")
    with pytest.raises(ConfigError, match="width") as caught:
        train(brains, config=tmp_path / "wrong.yaml", out=tmp_path / "c")
    assert "wrong.yaml:2" in str(caught.value)
    with pytest.raises(OutputError, match="outside the data"):
        train(brains, out=brains / "run")
    with pytest.raises(DelineateError, match="tpu"):
        train(brains, device="tpu", out=tmp_path / "e")
    assert not (tmp_path / "e").exists()
    with pytest.raises(ConfigError, match="budget"):
        train(brains, budget="3s", config=config, out=tmp_path / "d", audit=False)


def test_scans_without_labels_cannot_train(brains: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for scan in sorted(brains.glob("sub-*"))[:3]:
        (bare / f"{scan.name}.nii.gz").write_bytes((scan / "flair.nii.gz").read_bytes())
    with pytest.raises(InputError, match="label"):
        train(bare, steps=2, out=tmp_path / "run", audit=False)
