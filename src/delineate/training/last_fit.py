"""The last fit: from the model whose figures are known, training goes on with every subject.

Figures need subjects that a model has not seen; the model that is taken home need not do without
them. So the last share of a run's steps goes on from the weights that were judged, on all labelled
cases but those of a test part that the data declare. The judged model stays beside it, and is the
run's model again should the last fit spoil it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from delineate.core import model_file, run
from delineate.core.atomic import atomic_write_bytes
from delineate.core.case import Batch
from delineate.core.errors import CheckpointError, PartialError, ResourceError, TrainingError
from delineate.core.progress import Say
from delineate.core.stopping import Tick, TimeUpError
from delineate.data.cache import PreparedCase
from delineate.data.cohort import Cohort
from delineate.data.splits import UNLABELLED, Split
from delineate.engine import checkpoint
from delineate.engine.allowance import REPORT_SECONDS
from delineate.engine.budget import LEAST_STEPS, Candidate, Pace
from delineate.engine.loop import Loop, Outcome
from delineate.methods._plan import Plan, Update
from delineate.provenance import lineage
from delineate.settings import RunConfig
from delineate.training.model_document import after_last_fit, describe_parts
from delineate.training.preparing import prepare_cohort

if TYPE_CHECKING:
    from delineate.training.job import Job

#: The model that the figures are of, beside that of the run.
EARLIER = "before-last-fit.safetensors"
#: Folder of its checkpoints and log in that of the run.
FOLDER = "last-fit"
#: Peak of its learning rates, in shares of those of training, and the share in which they rise.
RATE, WARM_UP = 0.3, 0.1
#: Training cases by which the models before and after it are compared.
_COMPARED = 8
#: A figure of training cases that falls below so much of what it was has fallen clearly.
_FALLEN = 0.8


# --- whether there is one -------------------------------------------------------------------------


def joining(chosen: RunConfig, cohort: Cohort, split: Split) -> tuple[str, ...]:
    """Cases that only a last fit learns from: of selection, and of figures unless declared so.

    None where no last fit is wanted; a fold of a cross-validation is for its figures alone.

    Args:
        chosen: Settings of the run.
        cohort: All cases.
        split: Of the run.
    """
    if chosen.last_fit == 0 or chosen.folds is not None:
        return ()
    held_out = () if tested(cohort, split) else split.parts.get("test", ())
    return (*split.parts.get("validation", ()), *held_out)


def tested(cohort: Cohort, split: Split) -> bool:
    """Whether the data declare who tests the model: these are never learnt from."""
    return any(case.split == "test" for case in cohort.subset(split.parts.get("test", ())).cases)


def obstacle(plan: Plan) -> str:
    """Why a method cannot simply go on, in words; empty where it can."""
    last = plan.stages[-1]
    if last.end is not None:
        return f"what the stage {last.name!r} of the method finds out comes at its end"
    return ""


# --- doing it -------------------------------------------------------------------------------------


def continued(plan: Plan, state: Mapping[str, Any], device: torch.device) -> Plan:
    """A plan as its training left it: the last stage goes on, from averaged weights, ramps done.

    Args:
        plan: Newly built; changed in place.
        state: The last checkpoint of its training.
        device: Where it goes on.
    """
    last = plan.stages[-1]
    for stage in plan.stages:
        for name, module in stage.modules.items():
            module.to(device).load_state_dict(state["modules"][stage.name][name])
    for name, optimiser in last.optimisers.items():
        peaks = [group["lr"] for group in optimiser.param_groups]
        optimiser.load_state_dict(state["optimisers"][last.name][name])
        for group, peak in zip(optimiser.param_groups, peaks, strict=True):
            group["lr"] = RATE * peak
    plan.predictor.to(device).load_state_dict(state["averaged"])

    def step(batch: Batch, update: Update) -> Mapping[str, torch.Tensor]:
        update.progress = 1.0
        return last.step(batch, update)

    return replace(plan, stages=(replace(last, share=1.0, step=step),))


def fallen(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """Which figure has fallen clearly, in words; empty where none has."""
    for name, value in before.items():
        now = after.get(name, math.nan)
        if name != "val_loss" and math.isfinite(value) and not now >= _FALLEN * value:
            words = name.removeprefix("val_").replace("_", " ")
            return f"{words} of training cases fell from {value:.3f} to {now:.3f}"
    return ""


def _go_on(
    job: Job,
    cases: Sequence[PreparedCase],
    known: Sequence[PreparedCase],
    left: Callable[[], float] | None,
) -> Outcome | str:
    """What comes of going on, or in words why nothing does.

    Args:
        job: Trained.
        cases: To learn from.
        known: Some that it was trained on before, by which the models are compared.
        left: Seconds for all of it; None: its steps are given.
    """
    chosen, bench, settings = job.chosen, job.bench, job.record["plan"]
    state = checkpoint.read_newest(job.out / "checkpoints", job.say)
    if state is None:
        return "the checkpoints of its training are gone"
    candidate = Candidate(settings["width"], tuple(settings["patch"]), settings["batch"])
    plan = continued(bench.build(candidate), state, bench.device)
    if settings["compile"]:
        plan.predictor.compile()
    feed, done = bench.feed(candidate, cases), job.record["trained"]["steps"]

    def figures(network: nn.Module) -> dict[str, float]:
        tick = Tick(None, job.over(job.costs.network * len(known)))
        network = network.to(bench.device).eval()
        return bench.learning.validate(network, known, feed, bench.device, tick)

    at_first = left() if left else 0.0
    before, seconds = figures(plan.predictor), None
    if left:
        seconds = 2 * left() - at_first  # comparing takes as long again at the end
        if seconds < LEAST_STEPS * state["pace"]["spent"] / max(1, done):
            return "no time was left for it"
    with job.stop.gently():
        outcome = Loop(
            plan, lambda step, micro, split: feed(done + step, micro, split),
            replace(chosen.loop, warm_up=WARM_UP, validations=0), job.out / FOLDER,
            fabric=bench.fabric, seed=chosen.seed, pace=Pace(settings["last_fit"], seconds),
            say=job.say, progress=job.progress, stop=job.stop,
        ).run()  # fmt: skip
    if outcome.status == "interrupted":
        raise KeyboardInterrupt
    if not checkpoint.all_finite(outcome.predictor.state_dict()):
        return "its weights are not finite"
    return fallen(before, figures(outcome.predictor)) or outcome


# --- what is said of it ---------------------------------------------------------------------------


def sentence(counts: Mapping[str, int], *, declared: bool) -> str:
    """Which model the figures of a run are of.

    Args:
        counts: Subjects: ``training`` before the last fit, ``all`` after it, ``test`` of figures.
        declared: The data declare who tests the model, so that the last fit has not seen them.
    """
    whole = f"The model has learnt from all {counts['all']} labelled subjects"
    if declared:
        return (
            f"{whole} but the {counts['test']} whom the data declare to test it, "
            f"{counts['all'] - counts['training']} of them in its last steps; figures are its own."
        )
    if not counts["test"]:
        return f"{whole}, {counts['all'] - counts['training']} of them in its last steps."
    return (
        f"Figures are of the model trained on {counts['training']} subjects ({EARLIER}), judged by "
        f"{counts['test']} that it has not seen. The model to take home went on from there with "
        f"all {counts['all']} subjects, so these cannot test it: labelled scans of others can, and "
        "delineate crossvalidate judges this way of training."
    )


# --- as a part of a run ---------------------------------------------------------------------------


def is_due(record: Mapping[str, Any]) -> bool:
    """Whether a run has one before it."""
    return bool(record["plan"].get("last_fit")) and "last_fit" not in record


def refuse(record: dict[str, Any], reason: str, say: Say) -> None:
    """Note, and say, why a run has none."""
    words = f"No last fit on all subjects: {reason}."
    record["last_fit"] = {"steps": 0, "sentence": words}
    say(words)


def set_aside(model: Path) -> None:
    """The model before the last fit under its own name too; one that lies there is not replaced."""
    earlier = model.with_name(EARLIER)
    if not earlier.is_file():
        atomic_write_bytes(earlier, model.read_bytes())


def take(job: Job, split: Split, cache: Path) -> None:
    """Go on with every subject, and make what comes of it the model of the run.

    Args:
        job: Trained, and judged unless the data declare by whom.
        split: Of the run.
        cache: Folder of prepared cases.

    Raises:
        KeyboardInterrupt: Somebody wants an end; the same call goes on.
    """
    record = job.record
    if job.stop() or not is_due(record):
        return
    run.write_json(job.out / "run.json", record)
    if not job.prepared:  # taken up again after its training
        torch.set_num_threads(record["plan"]["threads"])
        job.prepare(split, cache)
    set_aside(job.out / "model.safetensors")
    joined = job.cohort.subset([*split["train"], *joining(job.chosen, job.cohort, split)])
    started, allotted = job.clock.spent, job.allotted
    reserved = REPORT_SECONDS + (allotted.figures if tested(job.cohort, split) else 0.0)

    def left() -> float:
        spent = job.clock.spent - started
        return min(allotted.last_fit - spent, job.clock.left - reserved)

    limited = job.clock.budget is not None
    try:
        cases = prepare_cohort(joined, job.preparation, cache, progress=job.progress)
        known = [case for case in cases if case.id in split["train"]]
        count = _COMPARED
        if limited:  # no more of them than a tenth of its time is enough for, before and after
            count = min(count, int(0.05 * allotted.last_fit / max(job.costs.network, 1e-9)))
        drawn = np.random.default_rng((job.chosen.seed, 0x1F17)).permutation(len(known))
        known = [known[k] for k in sorted(drawn[: max(1, count)])]
        outcome = _go_on(job, cases, known, left if limited else None)
    except TimeUpError:
        if job.stop():
            raise KeyboardInterrupt from None
        outcome = "comparing it with the model before took too long"
    except (CheckpointError, PartialError, ResourceError, TrainingError) as error:
        outcome = error.message.splitlines()[0]
    if isinstance(outcome, str):
        refuse(record, outcome, job.say)
        job.write_config(record["trained"]["steps"], 0)
    else:
        _hand_over(job, split, joined, cases, outcome)
    run.write_json(job.out / "run.json", record)


def _hand_over(
    job: Job, split: Split, joined: Cohort, cases: Sequence[PreparedCase], outcome: Outcome
) -> None:
    """Write the model of the run anew, with what it says of itself, and the record."""
    record, model = job.record, job.out / "model.safetensors"
    parts: dict[str, Cohort] = {"train": joined}
    for name in (UNLABELLED, *(["test"] if tested(job.cohort, split) else [])):
        if name in split.parts:
            parts[name] = job.cohort.subset(split[name])
    counts = {
        "training": _subjects(job.cohort.subset(split["train"])),
        "all": _subjects(joined),
        "test": _subjects(job.cohort.subset(split.parts.get("test", ()))),
    }
    words = sentence(counts, declared="test" in parts)
    record["steps"] = record["trained"]["steps"] + outcome.step
    record["events"] = [*record["events"], *outcome.events]
    record["seconds_training"] = round(record["seconds_training"] + outcome.seconds, 1)
    record["last_fit"] = {
        "steps": outcome.step, "cases": len(cases), "subjects": counts, "sentence": words
    }  # fmt: skip
    job.write_config(record["steps"], outcome.step)
    earlier = model_file.load(model.with_name(EARLIER))
    document = after_last_fit(
        earlier.document, job.resolved, job.cohort, record, cases=cases,
        unlabelled=job.bench.unlabelled,
        figures=" ".join(filter(None, (record.get("no_figures"), words))),
        parts=describe_parts(outcome.keeps),
        subjects=lineage.subjects(job.weights, lineage.marks(parts, job.key)),
    )  # fmt: skip
    model_file.save(
        model, outcome.predictor.state_dict(), document,
        {name: part.module.state_dict() for name, part in outcome.keeps.items()},
    )  # fmt: skip
    record["hashes"] |= {
        "model": model_file.load(model).hash, "before_last_fit": earlier.hash,
    }  # fmt: skip
    job.say(words)


def _subjects(cohort: Cohort) -> int:
    return len({case.subject for case in cohort.cases})
