"""Where the time of a run goes: what it may spend, what it says of it, and how it is stopped."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from delineate.core import model_file
from delineate.core.case import Case
from delineate.core.errors import ConfigError
from delineate.core.schema import Label, Schema
from delineate.core.stopping import Stop, Tick, TimeUpError
from delineate.data.cohort import Cohort
from delineate.data.opening import Opening
from delineate.engine.allowance import Clock, Costs
from delineate.engine.budget import Candidate
from delineate.inference import sliding_window
from delineate.networks import _precision
from delineate.phantoms.generate import generate
from delineate.targets import _sizes
from delineate.tasks.predict import predict
from delineate.tasks.train import train
from delineate.training import devices, held_out, preflight, status
from delineate.training.choosing import Chooser
from delineate.training.preflight import Estimate

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


class Seen:
    """A progress that keeps the names of its bars and the figures they showed."""

    def __init__(self) -> None:
        self.bars: list[str] = []
        self.figures: set[str] = set()

    @contextmanager
    def task(self, total: float | None, description: str) -> Iterator[Seen]:
        self.bars.append(description)
        yield self

    def track(self, iterable: Any, description: str, total: float | None = None) -> Iterator[Any]:
        self.bars.append(description)
        yield from iterable

    def advance(self, n: float = 1, **live: float) -> None:
        self.figures |= live.keys()


# ------------------------------------------------------------------------------- too small a budget


def test_too_small_a_budget_is_refused_at_once_with_the_least(
    brains: Path, config: Path, tmp_path: Path
) -> None:
    seen = Seen()
    (tmp_path / ".trial-killed").mkdir()
    (tmp_path / ".trial-killed/image.npy").write_bytes(b"left by a process that was killed")
    with pytest.raises(ConfigError, match="at least") as caught:
        train(brains, budget="5s", config=config, out=tmp_path, progress=seen)
    assert not list(tmp_path.glob(".trial-*"))
    assert "--budget" in (caught.value.fix or "")
    assert "audit" not in seen.bars, "refused before all cases are read"


def test_the_least_budget_is_what_its_phases_take_and_ten_times_the_measuring() -> None:
    quick = Estimate(
        start=5.0, audit=4.0, preparation=10.0, step=0.1, measuring=0.4,
        costs=Costs(network=1.0, reading=1.0, scoring=1.0), held_out=6,
    )  # fmt: skip
    # 5 + 4 + 10 + 0.4 + 20 steps of 0.1 s + one case of 3 s + 8 for the report = 32.4, a fifth
    # more is 38.9 s, and budgets are named in fives
    assert quick.least == 40
    quick.require(40)
    with pytest.raises(ConfigError, match=r"at least 40 s .* got 39 s .*preparation 10\.0 s"):
        quick.require(39)
    slow = Estimate(1.0, 0.0, 0.0, step=3.0, measuring=12.0, costs=Costs(), held_out=0)
    assert slow.least == 120  # a tenth of it is enough to measure in


class FakeBench:
    """Candidates whose steps take as long as they are large, by a clock of the test's own."""

    def __init__(self, seconds: float, settings: Any) -> None:
        self.seconds, self.chosen, self.now = seconds, settings, 0.0
        self.device = torch.device("cpu")

    def candidates(self, cases: Any) -> list[Candidate]:
        return _sizes.candidates((960, 999), 2)

    def smaller(self, first: Candidate, cases: Any) -> list[Candidate]:
        return _sizes.smaller(first, (960, 999), 2)

    def fitting(self, candidate: Candidate) -> Candidate:
        return candidate

    def measure(self, candidate: Candidate, cases: Any, limit: float) -> float:
        cost = self.seconds * candidate.work / (8 * 8 * 128**2)
        self.now += min(4 * cost, max(2 * cost, limit))
        return cost

    def network_seconds(self, candidate: Candidate, cases: Any) -> float:
        return self.seconds * 5

    def windows(self, candidate: Candidate, cases: Any) -> float:
        return 100.0

    def gmac(self, candidate: Candidate) -> float:
        return 5.7 * candidate.work / (8 * 8 * 128**2)


@pytest.mark.parametrize("seconds", [0.01, 0.3, 1.2, 4.1])
def test_measuring_takes_a_tenth_of_the_budget_at_most(seconds: float) -> None:
    from delineate.core.progress import QUIET
    from delineate.settings import RunConfig

    bench = FakeBench(seconds, RunConfig(budget="60s"))
    clock = Clock(60.0, 0.0, lambda: bench.now)
    chooser = Chooser(bench, clock, Costs(), [], validation=2, held_out=6)  # type: ignore[arg-type]
    choice, compiled = chooser.choose(QUIET)
    assert bench.now <= 6.0
    assert not compiled
    assert choice.steps >= 20
    shares = chooser.shares(choice)
    spoken_for = shares.training + shares.figures + shares.settling
    assert spoken_for <= 60.0 - bench.now


def test_given_steps_are_of_a_size_for_the_machine_and_the_same_each_time() -> None:
    options = _sizes.candidates((960, 999), 2)
    gmac = FakeBench(1.0, None).gmac
    assert _sizes.sized(options, gmac, None) == _sizes.default(options)
    assert _sizes.sized(options, gmac, 64) == _sizes.default(options)
    two = _sizes.sized(options, gmac, 2)
    assert two.work < _sizes.default(options).work
    assert gmac(two) <= 24
    assert _sizes.sized(options, lambda _: 1e9, 2) == options[0]


def test_the_machine_is_the_cores_that_the_process_was_granted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from delineate.core.progress import QUIET
    from delineate.settings import RunConfig

    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 4}, raising=False)
    bench = FakeBench(0.01, RunConfig(steps=10, compile="off"))
    clock = Clock(None, 0.0, lambda: bench.now)
    chooser = Chooser(bench, clock, Costs(), [], validation=0, held_out=0)  # type: ignore[arg-type]
    assert bench.gmac(chooser.choose(QUIET)[0].candidate) <= 24


def test_smaller_candidates_keep_what_the_user_fixed() -> None:
    first = _sizes.candidates((960, 999), 2)[0]
    small = _sizes.smaller(first, (960, 999), 2)
    assert [c.work for c in small] == sorted(c.work for c in small)
    assert small[-1].work < first.work
    assert small[0].work * 16 == first.work
    fixed = _sizes.candidates((40, 40, 40), 3, patch=(16, 16, 16), batch=2)[0]
    assert _sizes.smaller(fixed, (40, 40, 40), 3, patch=(16, 16, 16), batch=2) == []


def test_fewer_threads_are_taken_where_they_are_clearly_faster() -> None:
    busy = {8: 2.0, 4: 1.0, 1: 0.3}
    assert devices.fastest([8, 4, 1], busy.__getitem__) == 1
    idle = {8: 0.1, 4: 0.2, 1: 0.7}
    assert devices.fastest([8, 4, 1], idle.__getitem__) == 8
    alike = {2: 0.10, 1: 0.09}
    assert devices.fastest([2, 1, 1], alike.__getitem__) == 2, "repeated runs do not waver"


def test_sixteen_bits_are_taken_on_a_processor_only_where_they_are_clearly_faster() -> None:
    tried: list[torch.dtype] = []

    def processor(half: float) -> Callable[[torch.dtype], float]:
        def seconds(dtype: torch.dtype) -> float:
            tried.append(dtype)
            return 1.0 if dtype == torch.float32 else half

        return seconds

    assert _precision.faster_in_half(processor(0.2))
    assert not _precision.faster_in_half(processor(0.9)), "repeated runs do not waver"
    tried.clear()
    assert not _precision.faster_in_half(processor(1000.0))
    assert tried.count(torch.bfloat16) == 1, "emulation is not waited for twice"


# --------------------------------------------------------------------------------- held-out cases


def test_a_subject_that_is_begun_is_finished_and_no_other_is_begun_when_time_is_up() -> None:
    now, left = [0.0], [100.0]
    enough = held_out.Enough(
        [["a"], ["b1", "b2"], ["c"]], lambda: left[0] - now[0], Costs(1.0, 1.0, 2.0), lambda: now[0]
    )
    assert not enough(0.0)  # a: the first is always begun
    now[0] = 20.0
    assert not enough(0.0)  # b1: two cases of 20 s, and three scored in 1.5 x 2 s each: 49 of 80 s
    now[0] = 40.0
    assert not enough(0.0)  # b2 belongs to b1
    now[0] = 60.0
    assert not enough(0.0)  # c: 20 s and 12 s of 40
    left[0] = 91.0
    assert enough.asked == 4
    again = held_out.Enough([["a"], ["c"]], lambda: 91.0 - now[0], Costs(), lambda: now[0])
    now[0] = 60.0
    assert not again(0.0)
    now[0] = 80.0
    assert again(0.0)  # 20 s a case, 11 left
    assert not again(0.5)
    now[0] = 92.0
    assert again(0.5), "a case is given up when nothing is left"


def test_subjects_are_drawn_by_the_seed_and_whole(brains: Path) -> None:
    cohort = Opening().cohort(brains)
    ids = [case.id for case in cohort.cases]
    groups = held_out.subjects(cohort, ids, seed=0)
    assert sorted(name for group in groups for name in group) == sorted(ids)
    assert max(map(len, groups)) == 2, "the phantom has twins, who are one subject"
    assert groups == held_out.subjects(cohort, ids[::-1], seed=0)
    assert groups != held_out.subjects(cohort, ids, seed=1)
    costs = Costs(1.0, 1.0, 1.0)
    assert held_out.affordable(groups, 1e9, costs) == len(groups)
    assert held_out.affordable(groups, 0.0, costs) == 1
    assert held_out.affordable([["a"], ["b", "c"], ["d"]], 9.0, costs) == 2


def test_what_was_not_scored_for_want_of_time_is_counted_and_can_be_made_up_for(
    brains: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_out, "affordable", lambda groups, seconds, costs: 1)
    said: list[str] = []
    out = tmp_path / "run"
    record = train(brains, steps=2, holdout=0.4, config=config, out=out, say=said.append)
    scored = record["scored"]
    assert 1 <= scored["cases"] < scored["of"]
    assert record["scores"]["n_subjects"] == 1
    words = f"{scored['cases']} of {scored['of']} held-out cases"
    assert any(words in line for line in said)
    assert words in (out / "report.html").read_text()
    command = next(line for line in said if "delineate predict" in line)
    test = json.loads((out / "split.json").read_text())["parts"]["test"]
    assert command.split(" --only ")[1].split() == list(test)


def test_predictions_say_what_was_left_out_when_somebody_had_enough(
    brains: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(brains, steps=1, holdout=0.0, config=config, out=tmp_path / "run", audit=False)
    model, asked = tmp_path / "run" / "model.safetensors", list[float]()

    def enough(share: float) -> bool:
        asked.append(share)
        return asked.count(0.0) > 1

    index = predict(model, brains, tmp_path / "masks", enough=enough)
    assert len(index["cases"]) == 1
    assert len(index["left_out"]) == 9
    assert index["finished"]
    monkeypatch.setattr(sliding_window, "_BATCH_VOXELS", {"cpu": 1})  # a window at a time
    amid = predict(model, brains, tmp_path / "amid", enough=lambda share: share > 0)
    assert amid["cases"] == []
    assert len(amid["left_out"]) == 10


# --------------------------------------------------------------------------------- hardly trained


@pytest.fixture(scope="module")
def short(
    tmp_path_factory: pytest.TempPathFactory, brains: Path, config: Path
) -> tuple[Path, Seen, list[str]]:
    """A run of ten steps: its folder, what its bars showed and what was said."""
    out, seen, said = tmp_path_factory.mktemp("short"), Seen(), list[str]()
    train(brains, steps=10, config=config, out=out, progress=seen, say=said.append)
    return out, seen, said


def test_a_model_that_has_hardly_trained_is_called_so_everywhere(
    short: tuple[Path, Seen, list[str]],
) -> None:
    out, _, said = short
    words = "This model has hardly trained: 10 steps, where 900 are usual."
    assert words in said
    document = model_file.load(out / "model.safetensors").document
    assert document["card"]["training"] == words
    assert words in (out / "report.html").read_text()


def test_how_much_was_trained_is_told_where_it_matters() -> None:
    assert status.describe(2000, 1.0)["sentence"] == ""
    assert "has hardly trained: 1 step, where" in status.describe(1, 1.0)["sentence"]
    early = status.describe(400, 0.2)
    assert not early["hardly"]
    assert early["sentence"] == (
        "This model's training was stopped early: 400 steps, 20 % of its plan."
    )
    assert "usual, 3 % of its plan." in status.describe(23, 0.03)["sentence"]


# --------------------------------------------------------------------------------- bars and Ctrl-C


def test_every_phase_has_a_bar_and_it_shows_the_targets_own_figure(
    short: tuple[Path, Seen, list[str]], brains: Path, tmp_path: Path
) -> None:
    _, seen, _ = short
    phases = (
        "audit", "prepare", "measuring", "training", "selecting on validation cases", "predicting",
        "scoring", "report",
    )  # fmt: skip
    assert [name for name in phases if name not in seen.bars] == []
    assert "dice" in seen.figures
    seen = Seen()
    classifier = tmp_path / "class.yaml"
    classifier.write_text("width: 4\npatch: [16, 16]\nbatch: 2\n")
    train(
        brains, target="presence", steps=10, config=classifier, out=tmp_path / "b",
        progress=seen, audit=False,
    )  # fmt: skip
    assert "balanced accuracy" in seen.figures
    assert "dice" not in seen.figures


def test_control_c_stops_at_once_but_training_after_its_step() -> None:
    said: list[str] = []
    with Stop(said.append) as stop, stop.gently():
        signal.raise_signal(signal.SIGINT)
        assert stop()
        assert said == ["stopping after this step; once more to stop at once"]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with Stop() as stop, pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert stop()


@pytest.mark.parametrize("phase", ["validate", "select", "predict", "evaluate"])
def test_control_c_in_whatever_comes_after_the_plan_keeps_the_model(
    phase: str, brains: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from delineate.predicting import batch
    from delineate.scoring import outlines
    from delineate.targets._outline_learning import LearningOutlines

    asked: list[int] = []

    def press(*given: Any, **named: Any) -> Any:
        asked.append(1)
        signal.raise_signal(signal.SIGINT)
        return before(*given, **named)

    if phase in ("validate", "select"):
        before = getattr(LearningOutlines, phase)
        where: Any = LearningOutlines

        def pressed(*given: Any, **named: Any) -> Any:
            nothing = phase == "select" and not given[2]
            return before(*given, **named) if nothing else press(*given, **named)

        monkeypatch.setattr(where, phase, pressed)
    elif phase == "predict":
        before = batch._predict_one
        monkeypatch.setattr(batch, "_predict_one", press)
    else:
        before = outlines._score
        monkeypatch.setattr(outlines, "_score", press)
    record = train(brains, steps=10, config=config, out=tmp_path, audit=False)
    assert len(asked) == 1, "nothing of the kind is begun again"
    assert record["status"] == "interrupted"
    assert record["scored"]["cases"] == 0
    model_file.load(tmp_path / "model.safetensors")
    assert (tmp_path / "report.html").exists()
    assert (record["trained"]["share"] < 1) == (phase == "validate")


def test_work_that_takes_too_long_is_given_up_between_windows() -> None:
    shown = Seen()
    over = [False]
    tick = Tick(shown, lambda: over[0])  # type: ignore[arg-type]
    tick(1, 2)
    tick(2, 2)
    over[0] = True
    with pytest.raises(TimeUpError):
        tick(1, 2)


@pytest.mark.slow
def test_the_least_budget_named_gives_a_model_within_what_was_promised(
    brains: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        train(brains, budget="5s", out=tmp_path / "a")
    least = int(str(caught.value).split("at least ")[1].split(" s")[0])
    begun = time.monotonic()
    record = train(brains, budget=f"{least}s", out=tmp_path / "b")
    assert record["status"] == "finished"
    assert record["scored"]["cases"] >= 1
    assert time.monotonic() - begun < least + 10


def test_what_an_audit_costs_once_is_not_counted_for_every_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import delineate.findings.examine as room

    cases = [Case(f"c{n}", f"c{n}", {"image": tmp_path / f"{n}.png"}) for n in range(1000)]
    cohort = Cohort(tmp_path, "folder", tuple(cases), Schema(labels=(Label("a", 1),)))
    begun: list[int] = []

    def examine(some: Cohort) -> None:
        begun.append(len(some))
        time.sleep((0.05 if len(begun) == 1 else 0.02) + 0.0001 * len(some))

    monkeypatch.setattr(room, "examine", examine)
    assert preflight._audit(cohort.with_cases(cases[:2]), cohort) * 1000 < 5
    assert begun == [2, 24]
