"""The model taken home has learnt from everybody, and nobody mistakes whose the figures are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.test_run_life import Kicks
from torch import nn

from delineate.comparing import planning
from delineate.comparing.suites import load
from delineate.core import model_file
from delineate.core.case import Batch
from delineate.core.config import read
from delineate.core.progress import QUIET
from delineate.data import site_key
from delineate.data.cohort import Cohort
from delineate.data.splits import Split
from delineate.engine.allowance import Clock, Costs
from delineate.engine.budget import Candidate, last_steps
from delineate.methods._plan import Plan, Stage
from delineate.phantoms.generate import generate
from delineate.preprocess.presets import Preparation
from delineate.provenance import lineage
from delineate.settings import RunConfig
from delineate.tasks.evaluate import evaluate
from delineate.tasks.predict import predict
from delineate.tasks.train import train
from delineate.training import last_fit
from delineate.training.choosing import Chooser
from delineate.training.model_document import after_last_fit
from delineate.training.preparing import prepare_cohort

TINY = "width: 4\npatch: [16, 16, 16]\nbatch: 2\nholdout: 0.3\nvalidation: 0.2\n"
#: The last half of forty steps.
STEPS, SHARE = 40, 0.5


@pytest.fixture(scope="module")
def brains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "scans"
    return generate(folder, 8, 6.0, seed=3, anatomy="ellipsoid", controls=0.0, twins=0.0)


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(TINY)
    cache = path.parent / "cache"
    return {
        "config": path, "steps": STEPS, "last_fit": SHARE, "audit": False, "cache": cache
    }  # fmt: skip


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory,
    brains: Path,
    command: dict[str, Any],
    said: list[str],
) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    train(brains, **command, out=out, say=said.append)
    return out


def record(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "run.json").read_text())
    return found


def same(a: Path, b: Path) -> bool:
    ours, theirs = model_file.load(a).tensors, model_file.load(b).tensors
    return all(np.array_equal(ours[name], theirs[name]) for name in ours)


def model(out: Path) -> Path:
    return out / "model.safetensors"


def earlier(out: Path) -> Path:
    return out / last_fit.EARLIER


# ------------------------------------------------------------------------- which model is which


def test_figures_are_those_of_a_run_that_ends_before_it(
    brains: Path, command: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    without = {**command, "steps": STEPS // 2, "last_fit": 0.0}
    done = train(brains, **without, out=tmp_path)
    assert same(model(tmp_path), earlier(whole))
    assert "last_fit" not in done
    scores = json.loads((whole / "validation" / "summary.json").read_text())
    assert scores["mean_dice"] == done["scores"]["mean_dice"]
    assert scores["model"]["hash"] == model_file.load(earlier(whole)).hash
    assert scores["model"]["file"] == last_fit.EARLIER
    assert not same(model(whole), earlier(whole))


def test_the_model_taken_home_knows_that_it_has_seen_everybody(brains: Path, whole: Path) -> None:
    cohort = Cohort.open(brains)
    key = site_key.find(cohort.root)
    parts = json.loads((whole / "split.json").read_text())["parts"]
    before, after = (model_file.load(path).document for path in (earlier(whole), model(whole)))
    for name, ids in parts.items():
        for case in cohort.subset(ids).cases:
            assert lineage.part(before, case, key) == name
            assert lineage.part(after, case, key) == "train"
    assert before["provenance"]["training_cases"] == len(parts["train"])
    assert after["provenance"]["training_cases"] == len(cohort)
    assert after["provenance"]["steps"] == record(whole)["steps"] == STEPS
    assert after["postprocess"] == before["postprocess"]
    assert after["provenance"]["last_fit"] == {"from": before["sha256"]["document"]}


def test_scoring_it_on_subjects_of_its_figures_is_told_as_a_leak(
    brains: Path, whole: Path, tmp_path: Path
) -> None:
    held_out = json.loads((whole / "split.json").read_text())["parts"]["test"][:1]
    for path, leaks in ((earlier(whole), False), (model(whole), True)):
        masks = tmp_path / path.stem
        predict(path, brains, masks, only=tuple(held_out))
        told: list[str] = []
        evaluate(masks, brains, tmp_path / f"{path.stem}-scores", say=told.append)
        assert any("taught this model" in line for line in told) == leaks


def test_report_card_and_summary_say_which_model_the_figures_are_of(
    whole: Path, said: list[str]
) -> None:
    words = record(whole)["last_fit"]["sentence"]
    assert "trained on 5 subjects" in words
    assert "judged by 2 that it has not seen" in words
    assert "all 8 subjects" in words
    assert "crossvalidate" in words
    assert words in said
    assert words in (whole / "report.html").read_text()
    assert model_file.load(model(whole)).document["card"]["figures"] == words
    assert "figures" not in model_file.load(earlier(whole)).document["card"]


def test_a_structure_that_its_cases_show_is_no_longer_one_that_the_model_does_not_find(
    brains: Path, command: dict[str, Any], whole: Path
) -> None:
    before = model_file.load(earlier(whole)).document
    cohort, shown = Cohort.open(brains), before["schema"]["labels"][1]["name"]
    before |= {"unlearnt": [shown, "cyst"], "card": {**before["card"], "does_not_find": shown}}
    recipe = Preparation.from_dict(before["preparation"])
    cases = prepare_cohort(cohort, recipe, command["cache"])
    settings: Any = SimpleNamespace(to_dict=dict)
    after = after_last_fit(
        before, settings, cohort, record(whole), cases=cases, unlabelled=[], subjects={},
        figures="", parts={},
    )  # fmt: skip
    assert after["unlearnt"] == ["cyst"]
    assert after["card"]["does_not_find"] == "cyst"


def test_where_the_data_declare_who_tests_it_they_are_never_learnt_from(
    brains: Path, command: dict[str, Any], tmp_path: Path
) -> None:
    cohort, table = Cohort.open(brains), tmp_path / "tables" / "cohort.csv"
    table.parent.mkdir()
    channels = sorted(cohort.cases[0].images)
    rows = [",".join(["id", "subject", "split", "label", *(f"image_{c}" for c in channels)])]
    for n, case in enumerate(cohort.cases):
        files = [str(case.label), *(str(case.images[c]) for c in channels)]
        rows.append(",".join([case.id, case.subject, "test" if n < 2 else "train", *files]))
    table.write_text("\n".join(rows) + "\n")
    done = train(table, **{**command, "cache": None}, out=tmp_path / "run")
    tested = [case.id for case in cohort.cases[:2]]
    assert json.loads((tmp_path / "run" / "split.json").read_text())["parts"]["test"] == tested
    assert done["last_fit"]["cases"] == len(cohort) - 2
    assert done["scores"]["model"]["hash"] == model_file.load(model(tmp_path / "run")).hash
    assert "figures are its own" in done["last_fit"]["sentence"]
    document = model_file.load(model(tmp_path / "run")).document
    assert len(document["provenance"]["subjects"]["test"]) == 2 * len(channels)


# ------------------------------------------------------------------------------- how it goes on


def test_it_is_repeated_from_its_settings(
    brains: Path, command: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    again = {"config": whole / "config.yaml", "audit": False, "cache": command["cache"]}
    train(brains, **again, out=tmp_path / "run")
    assert same(model(tmp_path / "run"), model(whole))
    assert (tmp_path / "run/config.yaml").read_text() == (whole / "config.yaml").read_text()


def test_stopped_in_it_the_judged_model_is_there_and_the_same_command_goes_on(
    brains: Path, command: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    stopped = train(brains, **command, out=tmp_path, progress=Kicks("training", STEPS - 5))
    assert stopped["status"] == "interrupted"
    assert stopped["scores"]
    assert (tmp_path / last_fit.FOLDER / "log.jsonl").read_text()
    assert same(model(tmp_path), earlier(whole))
    ended = shutil.copytree(tmp_path, tmp_path.with_name("ended"))
    again, told = Kicks("nothing"), list[str]()
    done = train(brains, **command, out=tmp_path, progress=again, say=told.append)
    assert done["status"] == "finished"
    assert same(model(tmp_path), model(whole))
    assert same(earlier(tmp_path), earlier(whole))
    assert done["scores"]["mean_dice"] == stopped["scores"]["mean_dice"]
    assert not any("predict" in bar for bar in again.seen), "its figures are there"
    assert any("going on from step" in line for line in told)
    done = train(brains, **command, out=ended, finish=True)
    assert done["status"] == "finished"
    assert same(model(ended), earlier(whole))
    assert "was to end with the model that it had" in done["last_fit"]["sentence"]


def test_killed_when_its_model_was_written_and_nothing_else_the_end_is_the_same(
    brains: Path, command: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(whole, tmp_path / "run")
    left = record(out)
    del left["last_fit"], left["hashes"]["before_last_fit"]
    left |= {"status": "running", "steps": STEPS // 2}
    (out / "run.json").write_text(json.dumps(left))
    done = train(brains, **command, out=out)
    assert done["steps"] == STEPS
    assert same(model(out), model(whole))
    assert same(earlier(out), earlier(whole))


def test_a_model_that_it_spoils_is_not_taken_home(
    brains: Path, command: dict[str, Any], whole: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(last_fit, "RATE", 1e4)
    done = train(brains, **command, out=tmp_path)
    assert done["status"] == "finished"
    assert same(model(tmp_path), earlier(whole))
    assert "No last fit on all subjects: " in done["last_fit"]["sentence"]
    assert done["last_fit"]["sentence"] in (tmp_path / "report.html").read_text()
    again = read(tmp_path / "config.yaml").make(RunConfig)
    assert again.steps == STEPS // 2
    assert last_steps(again.steps, again.last_fit) == 0, "its settings make this model again"


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ({"val_dice": 0.9}, {"val_dice": 0.75}, ""),
        ({"val_dice": 0.9}, {"val_dice": 0.7}, "dice of training cases fell from 0.900 to 0.700"),
        ({"val_dice": 0.9}, {}, "dice of training cases fell from 0.900 to nan"),
        ({"val_loss": 0.1, "val_psnr_db": 30.0}, {"val_loss": 0.4, "val_psnr_db": 31.0}, ""),
        ({}, {}, ""),
    ],
)
def test_what_spoils_a_model_is_a_figure_that_falls_by_a_fifth(
    before: Mapping[str, float], after: Mapping[str, float], words: str
) -> None:
    assert last_fit.fallen(before, after) == words


# ---------------------------------------------------------------------------- where there is none


def test_a_training_too_short_for_it_is_told_so(
    brains: Path, command: dict[str, Any], tmp_path: Path
) -> None:
    told: list[str] = []
    done = train(brains, **{**command, "steps": 10}, out=tmp_path, say=told.append)
    words = "No last fit on all subjects: so short a training leaves none for it."
    assert words in told
    assert words in (tmp_path / "report.html").read_text()
    assert done["steps"] == 10
    assert not earlier(tmp_path).exists()
    assert (last_steps(100, 0.15), last_steps(400, 0.15)) == (0, 60)


def test_folds_and_arms_of_benchmarks_are_for_their_figures_alone(brains: Path) -> None:
    cohort = Cohort.open(brains)
    ids = [case.id for case in cohort.cases]
    split = Split("s", 0, {"train": ids[:5], "validation": ids[5:6], "test": ids[6:]})
    assert last_fit.joining(RunConfig(), cohort, split) == tuple(ids[5:])
    assert last_fit.joining(RunConfig(folds=3), cohort, split) == ()
    assert last_fit.joining(RunConfig(last_fit=0.0), cohort, split) == ()
    suite = load("s1")
    assert planning._run_config(suite, suite.arms[0], {"steps": 900}).last_fit == 0


def test_a_stage_goes_on_at_the_end_of_its_ramps_but_not_one_that_ends_in_a_finding() -> None:
    net = nn.Linear(1, 1)
    steps: list[float] = []

    def step(batch: Any, update: Any) -> dict[str, torch.Tensor]:
        steps.append(update.progress)
        return {}

    optimiser = torch.optim.SGD(net.parameters(), 0.4, momentum=0.9)
    stages = (
        Stage("first", 0.5, {"net": net}, {}, step),
        Stage("second", 0.5, {"net": net}, {"net": optimiser}, step),
    )
    state = {
        "modules": {name: {"net": net.state_dict()} for name in ("first", "second")},
        "optimisers": {"second": {"net": optimiser.state_dict()}},
        "averaged": {name: torch.full_like(t, 3.0) for name, t in net.state_dict().items()},
    }
    plan = last_fit.continued(Plan(stages, net), state, torch.device("cpu"))
    assert [(stage.name, stage.share) for stage in plan.stages] == [("second", 1.0)]
    assert float(net.weight.detach()) == 3.0
    assert optimiser.param_groups[0]["lr"] == pytest.approx(0.4 * last_fit.RATE)

    plan.stages[0].step(Batch(torch.zeros(1), torch.zeros(1)), SimpleNamespace(progress=0.0))
    assert steps == [1.0]
    assert last_fit.obstacle(plan) == ""
    finding = Stage("collect", 1.0, {"net": net}, {}, step, end=lambda say: {})
    assert "'collect'" in last_fit.obstacle(Plan((finding,), net))


# ------------------------------------------------------------------------------------- its time


class FixedBench:
    """A network whose steps take a tenth of a second and whose cases take one."""

    def __init__(self, chosen: RunConfig) -> None:
        self.chosen, self.device = chosen, torch.device("cpu")

    def candidates(self, cases: Any) -> list[Candidate]:
        return [Candidate(8, (16, 16, 16), 2)]

    def fitting(self, candidate: Candidate) -> Candidate:
        return candidate

    def smaller(self, first: Candidate, cases: Any) -> list[Candidate]:
        return []

    def measure(self, candidate: Candidate, cases: Any, limit: float) -> float:
        return 0.1

    def network_seconds(self, candidate: Candidate, cases: Any) -> float:
        return 0.1

    def windows(self, candidate: Candidate, cases: Any) -> float:
        return 1.0

    def gmac(self, candidate: Candidate) -> float:
        return 0.1


def test_a_budget_is_shared_with_it_unless_reading_cases_would_take_its_time() -> None:
    clock = Clock(200.0, 0.0, lambda: 0.0)
    costs = Costs(network=0.1, reading=0.5, scoring=0.4)
    bench: Any = FixedBench(RunConfig(budget="200s"))
    chooser = Chooser(bench, clock, costs, [], validation=0, held_out=10, last_fit=0.15)
    choice = chooser.choose(QUIET)[0]
    shares = chooser.shares(choice)
    # 192 s without the report and 11 s of figures: 181 s, of which 15 % are 27.15
    assert shares.last_fit == pytest.approx(27.15)
    assert shares.training == pytest.approx(181 - 27.15)
    assert (choice.steps, choice.last) == (1810 - 272, 272)
    slow = Chooser(bench, clock, Costs(0.1, 5.0, 0.1), [], 0, held_out=10, last_fit=0.15)
    choice = slow.choose(QUIET)[0]
    assert choice.last == 0
    assert slow.shares(choice).last_fit == 0


def test_of_given_steps_the_last_are_for_it() -> None:
    bench: Any = FixedBench(RunConfig(steps=400))
    chooser = Chooser(bench, Clock(None, 0.0), Costs(), [], 0, held_out=10, last_fit=0.15)
    choice = chooser.choose(QUIET)[0]
    assert (choice.steps, choice.last) == (340, 60)
