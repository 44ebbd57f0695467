"""Cases without labels: which methods are given them, and what a run says of them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from delineate.core import catalog, model_file
from delineate.core.case import Batch
from delineate.core.progress import QUIET, silent
from delineate.core.schema import IGNORED
from delineate.core.stopping import Stop
from delineate.data.opening import Opening
from delineate.engine.budget import Candidate
from delineate.engine.loop import Loop
from delineate.methods import classify
from delineate.phantoms.generate import generate
from delineate.settings import RunConfig
from delineate.tasks.train import train
from delineate.training import preflight, splitting
from delineate.training.job import Invocation, Job

#: Of whom nobody has drawn anything.
WITHOUT = ("sub-005", "sub-006")


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "scans"
    generate(folder, 6, 6.0, seed=3, anatomy="ellipsoid", controls=0.0, twins=0.0)
    for name in WITHOUT:
        (folder / name / "seg.nii.gz").unlink()
    return folder


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text("width: 4\npatch: [16, 16, 16]\nbatch: 2\nholdout: 0.0\nvalidation: 0.25\n")
    return path


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Batch]]:
    """All that the loop draws for a method: one more than it gives, which is made ahead."""
    seen: list[Batch] = []
    begin = Loop.__init__

    def listen(self: Any, plan: Any, feed: Callable[..., Batch], *rest: Any, **named: Any) -> None:
        def drawn(step: int, micro: int, split: int) -> Batch:
            seen.append(feed(step, micro, split))
            return seen[-1]

        begin(self, plan, drawn, *rest, **named)

    monkeypatch.setattr(Loop, "__init__", listen)
    return seen


def test_a_method_that_uses_them_learns_from_half_of_every_batch(
    scans: Path, settings: Path, tmp_path: Path, batches: list[Batch]
) -> None:
    said: list[str] = []
    record = train(
        scans, config=settings, method="mean_teacher", steps=3, out=tmp_path / "run", audit=False,
        say=said.append,
    )  # fmt: skip
    assert [batch.labelled.tolist() for batch in batches[:3]] == [[True, False]] * 3
    assert all((batch.label[1] == IGNORED).all() for batch in batches)
    assert record["unlabelled"] == {"cases": 2, "subjects": 2, "not_used": []}
    assert "split by subject: 3 train, 1 validation, 2 unlabelled" in said
    document = model_file.load(tmp_path / "run" / "model.safetensors").document
    assert document["provenance"]["training_cases"] == 3
    assert document["provenance"]["unlabelled_cases"] == 2
    assert document["card"]["trained_on"].startswith("3 cases and 2 without labels")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "on 3 cases of 3 subjects, and 2 unlabelled cases of 2 subjects" in page


def who_uses_them() -> list[str]:
    return [
        name
        for name in catalog.members("methods")
        if "unlabelled" in catalog.load("methods", name).USES
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", who_uses_them())
def test_every_method_that_uses_them_ends_in_a_model_that_says_who_taught_it(
    name: str, scans: Path, settings: Path, tmp_path: Path, batches: list[Batch]
) -> None:
    out = tmp_path / "run"
    record = train(scans, config=settings, method=name, steps=8, out=out, audit=False)
    assert record["trained"]["steps"] == 8
    assert any(not batch.labelled.all() for batch in batches)
    document = model_file.load(out / "model.safetensors").document
    assert document["provenance"]["unlabelled_cases"] == len(WITHOUT)


def given_labels_alone() -> Iterator[tuple[str, str]]:
    """Methods that use nothing else, each with something that a model can be asked for."""
    for name in catalog.members("methods"):
        method = catalog.load("methods", name)
        for kind, target in (("segmenter", "outline"), ("classifier", "presence")):
            if kind in method.TRAINS and "unlabelled" not in method.USES:
                yield name, target


@pytest.mark.parametrize(("name", "target"), [*given_labels_alone()])
def test_any_other_method_is_never_given_one(
    name: str, target: str, scans: Path, tmp_path: Path
) -> None:
    chosen = RunConfig(
        target=target, method=name, steps=1, holdout=0.25, validation=0.25, width=4,
        patch=(16, 16, 16) if target == "outline" else (32, 32), batch=4,
    )  # fmt: skip
    ready = job(chosen, scans, tmp_path)
    split, prepared = ready.ready(tmp_path / "cache")
    assert set(split.parts) == set(prepared) | {"test"} == {"train", "validation", "test"}
    assert len(list((tmp_path / "cache").glob("*/case.json"))) == 3, "prepared for nothing"
    feed = ready.bench.feed(Candidate(4, chosen.patch or (), 4), prepared["train"])
    for step in range(6):
        assert feed(step, 0, 1).labelled.all()
    assert "unlabelled" not in ready.record


def job(chosen: RunConfig, scans: Path, out: Path) -> Job:
    opening = Opening()
    invocation = Invocation(scans, opening, time.monotonic(), silent, QUIET, Stop())
    return Job(chosen, opening.cohort(scans), out, {"hashes": {}}, invocation)


def test_pictures_without_a_class_have_no_class_and_no_background(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classify, "USES", ("labelled", "unlabelled"))
    chosen = RunConfig(
        target="presence", method="classify", steps=1, holdout=0.25, validation=0.25, width=4,
        patch=(32, 32), batch=4, balance="weights",
    )  # fmt: skip
    ready = job(chosen, scans, tmp_path)
    _, prepared = ready.ready(tmp_path / "cache")
    feed = ready.bench.feed(Candidate(4, (32, 32), 4), prepared["train"])
    subjects: dict[bool, set[int]] = {True: set(), False: set()}
    for step in range(8):
        batch = feed(step, 0, 1)
        assert batch.labelled.tolist() == [True, True, False, False]
        assert batch.class_index is not None
        assert batch.subject is not None
        assert batch.class_index[:2].max() < 2
        assert batch.class_index[2:].tolist() == [IGNORED] * 2
        assert (batch.label[2:] == IGNORED).all()
        assert torch.isfinite(batch.weight).all()
        for known, who in zip(batch.labelled.tolist(), batch.subject.tolist(), strict=True):
            subjects[known].add(who)
    assert len(subjects[True]) == len(subjects[False]) == 2
    assert not subjects[True] & subjects[False]


def test_a_scan_of_a_subject_who_judges_does_not_teach(scans: Path, tmp_path: Path) -> None:
    cohort = Opening().cohort(scans)
    cases = {case.id: case for case in cohort.cases}
    cases["sub-004"] = dataclasses.replace(cases["sub-004"], split="test")
    cases["sub-005"] = dataclasses.replace(cases["sub-005"], subject="sub-004")
    said: list[str] = []
    record: dict[str, Any] = {"hashes": {}}
    chosen = RunConfig(target="outline", method="mean_teacher", steps=1, validation=0.3)
    split = splitting.take(
        chosen, cohort.with_cases(cases.values()), tmp_path, record, tmp_path, said.append, QUIET
    )
    assert split["unlabelled"] == ("sub-006",)
    assert record["unlabelled"] == {"cases": 1, "subjects": 1, "not_used": ["sub-005"]}
    note = record["split_notes"][-1]
    assert note.startswith("1 cases without a label are not learnt from")
    assert note.endswith(": sub-005")
    assert note in said


@pytest.mark.parametrize(("method", "count"), [("mean_teacher", 1), ("supervised", 0)])
def test_the_budget_is_for_those_cases_too_where_they_are_used(
    scans: Path, method: str, count: int
) -> None:
    cases = [case for case in Opening().cohort(scans).cases if case.id in WITHOUT]
    cases[0] = dataclasses.replace(cases[0], split="test")
    cohort = Opening().cohort(scans).with_cases(cases)
    chosen = RunConfig(target="outline", method=method, steps=1)
    assert preflight.unlabelled_cases(chosen, cohort) == count
