"""What every target owes the house.

It is tried on a few small cases that have all that a target may ask for: the sequences ``t1`` and
``t2``, a label map, and a class. ``TRIED`` of a file gives it settings for these.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from delineate import targets
from delineate.conformance._rules import BrokenRuleError, Check, Subject, expect, has_settings
from delineate.core import catalog, config, model_file, model_output, run
from delineate.core.atomic import atomic_write_text
from delineate.core.image import Grid, Image
from delineate.core.progress import QUIET, silent
from delineate.core.stopping import Stop
from delineate.core.tables import table
from delineate.data import readers
from delineate.data.cohort import Cohort
from delineate.data.opening import Opening
from delineate.data.outputs import INDEX
from delineate.settings import RunConfig
from delineate.targets import Learning, Target, Terms
from delineate.training import resolving
from delineate.training.devices import fabric
from delineate.training.job import Invocation
from delineate.training.preparing import plan_preparation, prepare_cohort
from delineate.training.trial import Bench

#: Voxel size in mm: the same along all axes, and slices so thick that networks see them one by one.
SPACINGS = {"3D": (2.0, 2.0, 2.0), "2D": (1.0, 1.0, 8.0)}
SHAPE = (16, 16, 16)
SUBJECTS = 10
#: Columns of the table that name files.
FILES = ("image_t1", "image_t2", "label")
STEPS = 2
#: What scoring leaves in its folder.
SCORES = ("cases.csv", "summary.json", "report.html")
CPU = torch.device("cpu")


def subjects(module: ModuleType, name: str) -> list[Subject]:
    """A target is tried on volumes and on stacks of slices."""
    return [Subject(module, name, form, int(form[0])) for form in SPACINGS]


@functools.cache
def folder(form: str) -> tempfile.TemporaryDirectory[str]:
    """A data set with a table; the first subject lacks everything but a scan of ``t1``."""
    home = tempfile.TemporaryDirectory(prefix="delineate-check-")
    root, generator, rows = Path(home.name), np.random.default_rng(0), []
    grid = Grid(SHAPE, np.diag([*SPACINGS[form], 1.0]))
    for number in range(SUBJECTS):
        name, bright = f"s{number}", number % 2 == 0
        label = np.zeros((1, *SHAPE), np.uint8)
        low = generator.integers(2, 6, 3)
        if number % 3:  # others show nothing
            label[0, low[0] : low[0] + 7, low[1] : low[1] + 6, low[2] : low[2] + 5] = 1
        tissue = 100 + 10 * generator.standard_normal((1, *SHAPE)).astype(np.float32)
        first = tissue + (60 if bright else 30) * label
        images = {"image_t1": first, "image_t2": 400 - 1.5 * first, "label": label}
        if number == 0:
            images = {"image_t1": first}
        for column, array in images.items():
            readers.write(root / f"{name}-{column}.nii.gz", Image(array, grid))
        files = {column: f"{name}-{column}.nii.gz" * (column in images) for column in FILES}
        class_name = "" if number == 0 else "bright" if bright else "dark"
        rows.append({"id": name, "subject": name, "class": class_name, **files})
    atomic_write_text(root / "cases.csv", table(["id", "subject", "class", *FILES], rows))
    return home


def cohort(form: str) -> Cohort:
    """The cases in the form asked for."""
    return Cohort.open(Path(folder(form).name))


def made(subject: Subject) -> Target:
    """The target with the settings that it is tried with."""
    return targets.make(subject.name, tried(subject.module))


def tried(module: ModuleType) -> dict[str, Any]:
    """Settings with which a target is tried."""
    return dict(getattr(module, "TRIED", {}))


def method(target: Target) -> str:
    """The target's own method; where that is not here, a file that the user named for it."""
    if target.method in catalog.members("methods"):
        return "auto"
    for name in catalog.own("methods"):
        if target.trains in catalog.load("methods", name).TRAINS:
            return name
    raise BrokenRuleError(f"its method {target.method!r} is not here: name its file, --part FILE")


def settings_of_run(subject: Subject) -> RunConfig:
    """A run of a few steps that is over at once."""
    run_config = RunConfig(
        budget=None, steps=STEPS, target=subject.name, target_settings=tried(subject.module),
        method=method(made(subject)), width=4, batch=2, holdout=0.3, validation=0.3, threads=1,
        device="cpu",
    )  # fmt: skip
    return resolving.complete(run_config, cohort(subject.form))


@dataclass(frozen=True)
class Ready:
    """A target that is about to be learned, with prepared cases."""

    learning: Learning
    bench: Bench
    cases: Sequence[Any]


@functools.lru_cache(maxsize=2)
def ready(subject: Subject) -> Ready:
    """Prepare all usable cases, as a run would."""
    chosen, target = settings_of_run(subject), made(subject)
    labelled = target.usable(cohort(subject.form)).labelled
    plan = plan_preparation(labelled, target=target.gives)
    learning = target.learning(chosen, labelled, plan)
    where = Path(folder(subject.form).name) / "cache"
    cases = prepare_cohort(labelled, plan, where)
    bench = Bench(chosen, learning, plan, None, fabric(CPU, "32-true"))
    return Ready(learning, bench, cases)


# --- the checks -----------------------------------------------------------------------------------


def keeps_the_contract(subject: Subject) -> None:
    """Its file has a docstring, Config, and build(config) -> Target, which lacks nothing."""
    module = subject.module
    expect(module.__doc__, "no docstring")
    built = module.build(module.Config())
    asked = [name for name in dir(Target) if not name.startswith("_")]
    lost = [name for name in asked if not hasattr(built, name)]
    expect(not lost, f"what it builds lacks {', '.join(lost)}")


def sorts_the_cases(subject: Subject) -> None:
    """Every case is labelled, unlabelled or left out, and why is told where it is not labelled."""
    whole = cohort(subject.form)
    usable = made(subject).usable(whole)
    labelled = [case.id for case in usable.labelled.cases]
    parts = [*labelled, *usable.unlabelled, *usable.left_out]
    expect(sorted(parts) == sorted(case.id for case in whole.cases), f"its parts are {parts}")
    expect("s0" not in labelled, "a case of which nothing but an image is known is labelled")
    reasons = {**usable.unlabelled, **usable.left_out}
    expect(
        all(reasons.values()),
        f"no reason is given for {[name for name in reasons if not reasons[name]]}",
    )
    sample = [case.id for case in made(subject).sample(usable.labelled, 2)]
    expect(sample and set(sample) <= set(labelled), f"to try things on it takes {sample}")
    contents = made(subject).contents(usable.labelled, Path(folder(subject.form).name), QUIET)
    expect(
        set(contents.by_case) <= set(labelled), f"it tells what is shown by {set(contents.by_case)}"
    )


def what_fits_is_measured(subject: Subject) -> None:
    """Candidates go from modest to ambitious, and each has the dimensions that the network sees."""
    here = ready(subject)
    candidates = here.bench.candidates(here.cases)
    expect(candidates, "there is no candidate")
    expect(
        all(len(candidate.patch) == here.learning.ndim for candidate in candidates),
        f"patches: {candidates}",
    )
    work = [candidate.work for candidate in candidates]
    expect(work[0] <= work[-1], f"their work is {work}")
    below = here.bench.smaller(candidates[0], here.cases)
    expect(
        all(candidate.work < candidates[0].work for candidate in below), f"below the first: {below}"
    )
    windows = here.learning.windows(here.cases[0], candidates[0].patch)
    expect(windows >= 1, f"a case is taken apart into {windows} windows")


def feed_is_a_function_of_the_step(subject: Subject) -> None:
    """A batch has the shape of the candidate, and depends on nothing but the number of its step."""
    here = ready(subject)
    candidate = here.bench.candidates(here.cases)[0]
    feed = here.bench.feed(candidate, here.cases)
    batch, again = feed(3, 0, 1), feed(3, 0, 1)
    expected = (candidate.batch, here.bench.channels, *candidate.patch)
    expect(
        tuple(batch.image.shape) == expected, f"{tuple(batch.image.shape)} instead of {expected}"
    )
    expect(batch.image.dtype == torch.float32, f"images are {batch.image.dtype}")
    for name, part in vars(batch).items():
        if isinstance(part, torch.Tensor):
            same = torch.equal(torch.nan_to_num(part), torch.nan_to_num(getattr(again, name)))
            expect(same, f"{name} of the same step differs")
    expect(not torch.equal(batch.image, feed(4, 0, 1).image), "every step sees the same")
    expect(batch.labelled.all(), "a case without a label is among the labelled")


def validates_and_selects(subject: Subject) -> None:
    """Validation gives finite figures, and what is selected can stand in a model file."""
    here = ready(subject)
    candidate = here.bench.candidates(here.cases)[0]
    network = here.bench.build(candidate).predictor.eval()
    feed, tried_cases = here.bench.feed(candidate, here.cases), list(here.cases[:3])
    figures = here.learning.validate(network, tried_cases, feed, CPU)
    expect(figures, "nothing is told of validation cases")
    expect(all(np.isfinite(value) for value in figures.values()), f"figures: {figures}")
    expect(all(name.startswith("val_") for name in figures), f"figures are called {list(figures)}")
    expect(here.learning.validate(network, [], feed, CPU) == {}, "figures of no case")
    for cases in ([], tried_cases):
        held = here.learning.document(feed) | here.learning.select(network, cases, feed, CPU)
        expect(json.loads(json.dumps(held)) == held, f"JSON gives back something else: {held}")
    names = model_output.output({**held, "schema": here.learning.schema.to_dict()}).names
    expect(names == tuple(here.learning.outputs), f"outputs {names}, not {here.learning.outputs}")


def a_rehearsal_changes_nothing(subject: Subject) -> None:
    """Rehearsing the scoring of a case raises nothing."""
    usable = made(subject).usable(cohort(subject.form)).labelled
    made(subject).rehearse(usable.cases[0], usable)


def goes_the_whole_way(subject: Subject) -> None:
    """A run trains, predicts and scores; its figures are told, shown, and can be compared."""
    from delineate.training.run import train

    chosen, target = settings_of_run(subject), made(subject)
    data = Path(folder(subject.form).name)
    options = {
        "steps": STEPS, "target": subject.name, "holdout": chosen.holdout, "device": "cpu",
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="delineate-check-") as home:
        out, asked = Path(home) / "run", Path(home) / "asked.yaml"
        atomic_write_text(asked, config.dump(dataclasses.replace(chosen, steps=STEPS)))
        with Stop(silent) as stop:
            opening = Opening(site_key=Path(home) / "site-key")  # leaves nothing behind
            call = Invocation(data, opening, time.monotonic(), silent, QUIET, stop)
            train(options, asked, call, out=out, cache=None, audit=False, finish=False)
        document = model_file.load(out / "model.safetensors").document
        named = model_output.target(document)["name"]
        expect(named == catalog.title(subject.name), f"the model file is for {named}")
        index = run.read_json(out / "validation" / "predictions" / INDEX) or {}
        named = model_output.target(index)["name"]
        expect(named == catalog.title(subject.name), f"{INDEX} is for {named}")
        faults = [case["error"] for case in index["cases"] if case["error"]]
        expect(not faults, f"predictions failed: {faults[:1]}")
        lost = [name for name in SCORES if not (out / "validation" / name).is_file()]
        expect(not lost, f"score writes no {', '.join(lost)}")
        summary = run.read_json(out / "validation" / "summary.json") or {}
        expect(summary.get("format") == target.format, f"summary.json is {summary.get('format')!r}")
        headline = target.headline(summary)
        known = any(figure.value is not None for figure in headline.values())
        expect(known, f"no figure is told of {headline}")
        expect((out / "report.html").is_file(), "there is no report")
        _compares(target, out / "validation" / "cases.csv", headline)


def _compares(target: Target, path: Path, headline: Any) -> None:
    """Rows of a run, as if two arms had given them."""
    comparison = target.comparison
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    expect(lines, "cases.csv has no row")
    metrics = tuple(comparison.metrics or ("accuracy",))[:1]
    rows = [
        {"arm": arm, "region": "condition", **row}
        for arm in ("a", "b")
        for row in comparison.rows(lines, metrics)
    ]
    expect(all("case" in row and "subject" in row for row in rows), "rows lack case or subject")
    entries = comparison.summary(rows, metrics)
    arms = {entry["arm"] for entry in entries}
    expect({"a", "b"} <= arms, f"figures of {arms}")
    paired, of = comparison.paired(rows, metrics, "condition")
    expect(all(name in row for row in paired for name in of), f"rows to be paired lack {of}")
    notes = comparison.notes(rows, Terms(2, True, frozenset({"subject"})))
    expect(notes, "nothing tells how to read the table")


FILE_CHECKS: tuple[Check, ...] = (keeps_the_contract, has_settings)
CHECKS: tuple[Check, ...] = (
    sorts_the_cases, what_fits_is_measured, feed_is_a_function_of_the_step, validates_and_selects,
    a_rehearsal_changes_nothing,
)  # fmt: skip
SLOW_CHECKS: tuple[Check, ...] = (goes_the_whole_way,)
