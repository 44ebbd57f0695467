"""What ends a run before its end, what it then says of itself, and how it goes on."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delineate.core import model_file, run
from delineate.core.errors import ConfigError, OutputError, PartialError
from delineate.core.progress import Quiet
from delineate.phantoms.generate import generate
from delineate.tasks.train import train

STEPS = 12
#: What a closed terminal sends, where there is such a thing.
CLOSED = getattr(signal, "SIGHUP", signal.SIGTERM)


@pytest.fixture(scope="module")
def brains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "scans"
    return generate(folder, 6, 6.0, seed=3, anatomy="ellipsoid", controls=0.0, twins=0.0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text("width: 4\npatch: [16, 16, 16]\nbatch: 2\nholdout: 0.4\nvalidation: 0.0\n")
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, brains: Path, tiny: Path) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    train(brains, config=tiny, steps=STEPS, out=out, audit=False)
    return out


class Kicks(Quiet):
    """Sends a signal to its own process when a bar is opened, or has come so far."""

    def __init__(self, bar: str, ticks: int = 0, number: int = signal.SIGINT) -> None:
        self.bar, self.ticks, self.number, self.seen = bar, ticks, number, set[str]()

    @contextmanager
    def task(self, total: float | None, description: str) -> Iterator[Any]:
        self.seen.add(description)
        if self.bar in description and self.ticks == 0:
            self.ticks = -1
            signal.raise_signal(self.number)
        yield self if self.bar in description else _Still()

    def advance(self, n: float = 1, **live: float) -> None:
        self.ticks -= 1
        if self.ticks == 0:
            signal.raise_signal(self.number)

    def track(self, iterable: Any, description: str, total: float | None = None) -> Any:
        with self.task(total, description) as bar:
            for item in iterable:
                yield item
                bar.advance()


class _Still:
    def advance(self, n: float = 1, **live: float) -> None:
        pass


def record(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "run.json").read_text())
    return found


def weights(out: Path) -> dict[str, Any]:
    return model_file.load(out / "model.safetensors").tensors


def same(a: Path, b: Path) -> bool:
    ours, theirs = weights(a), weights(b)
    return all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_stopped_in_training_it_keeps_a_model_and_goes_on_to_the_same_end(
    brains: Path, tiny: Path, whole: Path, tmp_path: Path
) -> None:
    command: dict[str, Any] = {"config": tiny, "steps": STEPS, "out": tmp_path, "audit": False}
    said: list[str] = []
    kick = Kicks("training", 5, signal.SIGTERM)
    stopped = train(brains, **command, progress=kick, say=said.append)
    assert stopped["status"] == record(tmp_path)["status"] == "interrupted"
    assert 3 <= record(tmp_path)["trained"]["steps"] < STEPS
    assert not record(tmp_path)["trained"]["complete"]
    share = round(100 * record(tmp_path)["trained"]["share"])
    assert any(f"{share} % of the plan" in line and "--finish" in line for line in said)
    assert not same(tmp_path, whole)
    said.clear()
    done = train(brains, **command, say=said.append)
    assert done["status"] == record(tmp_path)["status"] == "finished"
    assert any("going on from step" in line and "% of the plan" in line for line in said)
    assert same(tmp_path, whole)
    assert done["scores"]
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, STEPS + 1))


def test_finish_ends_it_with_the_model_that_it_has(
    brains: Path, tiny: Path, whole: Path, tmp_path: Path
) -> None:
    command: dict[str, Any] = {"config": tiny, "steps": STEPS, "out": tmp_path, "audit": False}
    with pytest.raises(ConfigError, match="expected a run that was stopped here"):
        train(brains, **command, finish=True)
    with pytest.raises(KeyboardInterrupt):
        train(brains, **command, progress=Kicks("measuring", 1))
    with pytest.raises(ConfigError, match="expected a run that was stopped here"):
        train(brains, **command, finish=True)
    train(brains, **command, progress=Kicks("training", 5))
    before, steps = weights(tmp_path), record(tmp_path)["trained"]["steps"]
    done = train(brains, **command, finish=True)
    assert done["status"] == "finished"
    assert done["steps"] == steps < STEPS
    assert done["scores"]
    assert all(np.array_equal(before[name], tensor) for name, tensor in weights(tmp_path).items())
    document = model_file.load(tmp_path / "model.safetensors").document
    assert "model" not in document["provenance"]["hashes"], "of another model than this one"
    assert "stopped early" in done["trained"]["sentence"] or done["trained"]["hardly"]
    with pytest.raises(OutputError, match="finished"):
        train(brains, **command)


def test_finish_takes_the_last_checkpoint_of_a_run_that_was_killed(
    brains: Path, tiny: Path, tmp_path: Path
) -> None:
    command: dict[str, Any] = {"config": tiny, "steps": STEPS, "out": tmp_path, "audit": False}
    train(brains, **command, progress=Kicks("training", 5))
    (tmp_path / "model.safetensors").unlink()
    left = {k: v for k, v in record(tmp_path).items() if k not in ("trained", "steps", "events")}
    (tmp_path / "run.json").write_text(json.dumps({**left, "status": "running"}))
    done = train(brains, **command, finish=True)
    assert done["status"] == "finished"
    assert 3 <= done["steps"] < STEPS
    assert done["scores"]


def test_stopped_before_training_the_record_says_so_and_the_same_command_does_all(
    brains: Path, tiny: Path, whole: Path, tmp_path: Path
) -> None:
    command: dict[str, Any] = {"config": tiny, "steps": STEPS, "out": tmp_path, "audit": False}
    kick = Kicks("prepar", 1, CLOSED)
    with pytest.raises(KeyboardInterrupt):
        train(brains, **command, progress=kick)
    assert record(tmp_path)["status"] == "interrupted"
    assert not (tmp_path / "model.safetensors").exists()
    train(brains, **command)
    assert same(tmp_path, whole)


def test_stopped_before_its_first_step_it_hands_over_no_model(
    brains: Path, tiny: Path, whole: Path, tmp_path: Path
) -> None:
    command: dict[str, Any] = {"config": tiny, "steps": STEPS, "out": tmp_path, "audit": False}
    with pytest.raises(KeyboardInterrupt):
        train(brains, **command, progress=Kicks("training"))
    assert record(tmp_path)["status"] == "interrupted"
    assert not (tmp_path / "model.safetensors").exists()
    train(brains, **command)
    assert same(tmp_path, whole)


def test_stopped_in_scoring_only_the_figures_are_made_anew(
    brains: Path, tiny: Path, whole: Path, tmp_path: Path
) -> None:
    command: dict[str, Any] = {"config": tiny, "steps": STEPS, "out": tmp_path, "audit": False}
    said: list[str] = []
    kick = Kicks("predict", 1, signal.SIGINT)
    stopped = train(brains, **command, progress=kick, say=said.append)
    assert stopped["status"] == record(tmp_path)["status"] == "interrupted"
    assert same(tmp_path, whole)
    assert any("12 steps, all of the plan; the same command goes on" in line for line in said)
    before = (tmp_path / "log.jsonl").read_bytes()
    run.write_json(tmp_path / "run.json", {**record(tmp_path), "seconds": 1000.0})
    said.clear()
    again = Kicks("nothing")
    done = train(brains, **command, progress=again, say=said.append)
    assert done["status"] == "finished"
    assert done["scores"]
    assert done["seconds"] > 1000, "what was spent before counts too"
    assert any("12 steps, all of the plan: going on with the figures" in line for line in said)
    assert "training" not in again.seen
    assert (tmp_path / "log.jsonl").read_bytes() == before


@pytest.mark.parametrize("left", [None, "{"], ids=["missing", "damaged"])
def test_weights_of_a_run_without_its_record_are_not_gone_on_with(
    left: str | None, brains: Path, tiny: Path, whole: Path, tmp_path: Path
) -> None:
    """They may have seen the subjects that a new split holds out."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    (out / "run.json").unlink()
    if left is not None:
        (out / "run.json").write_text(left)
    before = weights(out)
    with pytest.raises(OutputError, match=r"without a run\.json"):
        train(brains, config=tiny, steps=STEPS, seed=1, out=out, audit=False)
    assert all(np.array_equal(weights(out)[name], each) for name, each in before.items())


def test_a_failure_after_training_leaves_the_model_and_is_taken_up_there(
    brains: Path, tiny: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command: dict[str, Any] = {"config": tiny, "steps": STEPS, "out": tmp_path, "audit": False}

    def broken(*args: Any, **named: Any) -> Any:
        raise ZeroDivisionError("a fault in scoring")

    with monkeypatch.context() as patch:
        patch.setattr("delineate.training.held_out.score_predictions", broken)
        with pytest.raises(ZeroDivisionError):
            train(brains, **command)
    assert record(tmp_path)["status"] == "failed"
    assert "a fault in scoring" in record(tmp_path)["failure"]
    assert same(tmp_path, whole), "the model is whole"
    assert (tmp_path / "report.html").exists()
    again = Kicks("nothing")
    done = train(brains, **command, progress=again)
    assert done["status"] == "finished"
    assert done["scores"]
    assert "failure" not in record(tmp_path)
    assert "training" not in again.seen


def test_a_held_out_case_that_cannot_be_read_does_not_cost_the_figures_of_the_others(
    brains: Path, tiny: Path, whole: Path, tmp_path: Path
) -> None:
    broken, *others = json.loads((whole / "split.json").read_text())["parts"]["test"]
    assert others
    scans = shutil.copytree(brains, tmp_path / "scans")
    image = next((scans / broken).glob("t1.nii*"))
    image.write_bytes(image.read_bytes()[:-200])
    with pytest.raises(PartialError):
        train(scans, config=tiny, steps=STEPS, out=tmp_path / "run", audit=False)
    found = record(tmp_path / "run")
    assert found["status"] == "failed"
    assert found["scored"]["cases"] == len(others)
    assert (tmp_path / "run" / "validation" / "summary.json").exists()
    assert (tmp_path / "run" / "report.html").exists()
    assert same(tmp_path / "run", whole)


def test_a_failure_in_training_is_recorded(
    brains: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **named: Any) -> Any:
        raise OSError("the disk is gone")

    monkeypatch.setattr("delineate.engine.loop.Loop._step", broken)
    with pytest.raises(OSError, match="gone"):
        train(brains, config=tiny, steps=STEPS, out=tmp_path, audit=False)
    assert record(tmp_path)["status"] == "failed"
    assert record(tmp_path)["failure"] == "OSError: the disk is gone"
