"""One training run, step by step: split, prepare, plan, train, save, score, report."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from delineate import targets
from delineate.core import catalog, model_file, run
from delineate.core.atomic import atomic_write_text
from delineate.core.progress import Progress, Say
from delineate.core.stopping import Stop, Tick, TimeUpError
from delineate.data import site_key, splits
from delineate.data.cache import PreparedCase
from delineate.data.cohort import Cohort
from delineate.data.opening import Opening
from delineate.engine.allowance import REPORT_SECONDS, Allotment, Clock, Costs, grace
from delineate.engine.budget import Candidate, Choice, Pace
from delineate.engine.loop import Loop, Outcome
from delineate.inference.runtimes.torch import choose_device
from delineate.networks._blocks import count_parameters
from delineate.networks._transfer import Weights
from delineate.preprocess.presets import Preparation
from delineate.provenance import lineage
from delineate.settings import RunConfig
from delineate.targets import Feed
from delineate.training import (
    devices,
    held_out,
    initial_weights,
    last_fit,
    learned_preparation,
    resolving,
    run_record,
    splitting,
    status,
    warm_start,
)
from delineate.training.choosing import Chooser
from delineate.training.model_document import describe, describe_parts
from delineate.training.preparing import plan_preparation, prepare_cohort
from delineate.training.resolving import Resolved, part_words
from delineate.training.trial import Bench

#: What takes so many times its allotted time is given up.
_PATIENCE = 2.0

Parts = Mapping[str, list[PreparedCase]]


@dataclass(frozen=True)
class Invocation:
    """How a run was called, and who waits for it.

    Args:
        source: The data set.
        opening: How it is opened.
        started: When the command began, on the monotonic clock: budgets count from here.
        say: Told what a person should know.
        progress: Shows how far it is.
        stop: Whether somebody wants an end.
    """

    source: Path
    opening: Opening
    started: float
    say: Say
    progress: Progress
    stop: Stop


class Job:
    """One run. ``record`` becomes ``run.json``, and what it holds already is not decided again."""

    def __init__(
        self,
        chosen: RunConfig,
        cohort: Cohort,
        out: Path,
        record: dict[str, Any],
        invocation: Invocation,
        weights: Weights | None = None,
    ) -> None:
        chosen = resolving.complete(chosen, cohort)
        weights = weights or initial_weights.start(chosen)
        chosen = initial_weights.derive(chosen, weights)
        self.weights = weights
        self.chosen, self.cohort, self.out, self.record = chosen, cohort, out, record
        self.clock = Clock(chosen.seconds, invocation.started)
        self.prepared = False
        self.spent_before = 0.0  # by a run that is taken up again at its figures
        self.say, self.progress, self.stop = invocation.say, invocation.progress, invocation.stop
        self.source, self.opening = invocation.source, invocation.opening
        if chosen.threads is not None:
            torch.set_num_threads(chosen.threads)
        self.device = choose_device(chosen.device)
        earlier = record.get("plan", {}).get("precision")
        self.precision = earlier or devices.precision(chosen.precision, self.device)
        self.fabric = devices.fabric(self.device, self.precision)

    @property
    def costs(self) -> Costs:
        """Of a case, as measured at the start of the run."""
        return Costs(**self.record.get("costs", {}))

    @property
    def allotted(self) -> Allotment:
        """What each phase may spend, once that is known."""
        return Allotment(**self.record["allotted"])

    def run(self, cache: Path, finish: bool = False) -> dict[str, Any]:
        """Do everything; prepared cases are kept in ``cache``.

        Args:
            cache: Folder.
            finish: Take no further step.
        """
        trained = self.record.get("trained", {})
        if trained.get("complete") and (self.out / "model.safetensors").is_file():
            self.say(f"{status.progress(trained)}: going on with the figures")
            self.spent_before = run_record.spent(self.record)
            split = self._split(cache)
        else:
            split = self._train(cache, finish)
        scores: dict[str, Any] = {}
        failure: Exception | None = None
        declared = last_fit.tested(self.cohort, split)
        if finish and last_fit.is_due(self.record):
            last_fit.refuse(self.record, "the run was to end with the model that it had", self.say)
        try:
            if declared:  # figures can be those of the model that has learnt from all others
                last_fit.take(self, split, cache)
            scores = {} if self.stop() else self._score(split)
            if not declared:
                last_fit.take(self, split, cache)
        except KeyboardInterrupt:
            self.stop.requested = True
        except Exception as error:  # the model is there, and must not be lost to its figures
            failure = error
        self._finish(split, failure)
        if failure is not None:
            raise failure
        return {**self.record, "scores": scores}

    def _train(self, cache: Path, finish: bool) -> splits.Split:
        """All that leads to the model file."""
        split, prepared = self.ready(cache)
        if "clusters" in self.preparation.derived:
            learned_preparation.keep_clusters(self.out, self.preparation, prepared["train"])
        choice, shares = self._choose(prepared, split)
        outcome = self._fit(choice, shares, prepared, finish)
        if finish and outcome.step == 0:
            raise run_record.nothing_to_finish(self.out)
        if outcome.step == 0:  # stopped before anything was learnt: no model is better than this
            raise KeyboardInterrupt
        self._save(choice, shares, prepared, outcome)
        self.record["trained"]["complete"] = not self.stop()
        self.record |= {
            "steps": outcome.step,
            "events": list(outcome.events),
            "seconds_training": round(outcome.seconds, 1),
        }
        self.record["hashes"]["model"] = model_file.load(self.out / "model.safetensors").hash
        run.write_json(self.out / "run.json", self.record)
        return split

    # -------------------------------------------------------------------------------- the data

    def ready(self, cache: Path) -> tuple[splits.Split, Parts]:
        """Split, and prepare the cases to learn from; held-out ones are not touched."""
        split = self._split(cache)
        return split, self.prepare(split, cache)

    def prepare(self, split: splits.Split, cache: Path) -> Parts:
        """Prepare the cases of a split to learn from."""
        parts = {name: self.cohort.subset(ids) for name, ids in split.parts.items()}
        key = site_key.find(self.cohort.root, self.opening.site_key, away_from=self.out)
        if key.remark:
            self.say(key.remark)
        self.key, self.subjects = key, lineage.marks(parts, key)
        judged = [case for name, part in parts.items() if name != "train" for case in part]
        self.preparation = self._plan_preparation(parts["train"], self.cohort.with_cases(judged))
        learning = targets.of(self.chosen).learning(self.chosen, self.cohort, self.preparation)
        self.bench = Bench(self.chosen, learning, self.preparation, self.weights, self.fabric)
        self.bench.check()
        prepared = {
            name: prepare_cohort(parts[name], self.preparation, cache, progress=self.progress)
            for name in ("train", "validation", splits.UNLABELLED)
            if name in parts
        }
        self.bench.unlabelled = prepared.get(splits.UNLABELLED, ())
        self.prepared = True
        return prepared

    def _split(self, cache: Path) -> splits.Split:
        return splitting.take(
            self.chosen, self.cohort, self.out, self.record, cache, self.say, self.progress
        )

    def _plan_preparation(self, training: Cohort, judged: Cohort) -> Preparation:
        """Planned on the training cases alone."""
        if "preparation" in self.record:
            return Preparation.from_dict(self.record["preparation"])
        chosen = self.chosen
        plan = plan_preparation(
            training, judged=judged, derived=chosen.derived, clusters=chosen.clusters,
            bias_correction=chosen.bias_correction, denoise=chosen.denoise,
            target=targets.of(chosen).gives, dimensions=chosen.dimensions,
        )  # fmt: skip
        self.record["preparation"] = plan.to_dict()
        for reason in plan.reasons:
            self.say(reason)
        return plan

    # -------------------------------------------------------------------------------- the plan

    def _choose(self, prepared: Parts, split: splits.Split) -> tuple[Choice, Allotment]:
        """Measure candidates and share out the time; a resumed run keeps what it had."""
        earlier = self.record.get("plan")
        if earlier is not None and "allotted" in self.record:
            torch.set_num_threads(earlier.get("threads", torch.get_num_threads()))
            candidate = Candidate(earlier["width"], tuple(earlier["patch"]), earlier["batch"])
            choice = Choice(candidate, earlier["seconds_per_step"], earlier["steps"], ())
            return choice, self.allotted
        chooser = Chooser(
            self.bench, self.clock, self.costs, prepared["train"],
            len(prepared.get("validation", [])), len(split.parts.get("test", ())),
            self.record.get("seconds_of_trial", 0.0),
        )  # fmt: skip
        joining = last_fit.joining(self.chosen, self.cohort, split)
        if joining:
            first = self.bench.candidates(prepared["train"])[0]
            obstacle = last_fit.obstacle(self.bench.build(first))
            chooser.last_fit = 0.0 if obstacle else self.chosen.last_fit
        choice, compiled = chooser.choose(self.progress)
        self.record["costs"] = dataclasses.asdict(chooser.costs)
        parameters = count_parameters(self.bench.build(choice.candidate).predictor)
        shares = chooser.shares(choice)
        self.record["allotted"] = dataclasses.asdict(shares)
        self.record["seconds_before_training"] = round(self.clock.spent, 3)
        self._announce(choice, compiled, parameters, shares)
        if joining and not choice.last:
            last_fit.refuse(
                self.record, obstacle or "so short a training leaves none for it", self.say
            )
        return choice, shares

    def _announce(self, choice: Choice, compiled: bool, parameters: int, shares: Allotment) -> None:
        candidate = choice.candidate
        patch = "x".join(map(str, candidate.patch))
        if neighbours := self.bench.learning.neighbours:
            patch += f" with {neighbours} slice{'s' if neighbours > 1 else ''} to each side"
        self.record["plan"] = {
            "network": catalog.title(self.chosen.network),
            "parameters": parameters,
            "width": candidate.width,
            "patch": list(candidate.patch),
            "batch": candidate.batch,
            "neighbours": neighbours,
            "steps": choice.steps,
            "last_fit": choice.last,
            "seconds_per_step": round(choice.seconds_per_step, 4),
            "precision": self.precision,
            "threads": torch.get_num_threads(),
            "compile": compiled,
            "tried": [
                f"width {c.width}, patch {'x'.join(map(str, c.patch))}, batch {c.batch}: {s:.3f} s"
                for c, s in choice.tried
            ],
        }
        start = self.bench.start(candidate)
        if start and self.bench.transfer:
            transfer = lineage.record(start, self.bench.transfer, self.bench.frozen, self.subjects)
            if start is self.bench.warm:
                transfer["notes"].append(warm_start.NOTE)
            self.record["transfer"] = transfer
            self.record["plan"]["weights"] = lineage.sentence(transfer)
            for line in (lineage.sentence(transfer), *transfer["notes"]):
                self.say(f"weights: {line}")
        run.write_json(self.out / "run.json", self.record)
        seconds = choice.steps * choice.seconds_per_step
        network = self.record["plan"]["network"]
        times = f"about {_moment(seconds)}, then figures in about {_duration(shares.figures)}"
        if choice.last:
            times += f", then {choice.last} steps with all subjects: {_duration(shares.last_fit)}"
        if self.clock.budget is not None:
            times += f"; all ends by {_moment(self.clock.left + grace(self.clock.budget))}"
        half = ", 16-bit" if self.precision != "32-true" else ""
        self.say(
            f"plan: {network} of width {candidate.width} ({parameters:,} parameters), "
            f"patch {patch}, batch {candidate.batch}{half}, {choice.steps} steps of "
            f"{choice.seconds_per_step:.2f} s: {_duration(seconds)}, until {times}"
        )

    # ---------------------------------------------------------------------------- the training

    def write_config(self, steps: int | None = None, last: int | None = None) -> None:
        """``config.yaml``: the plan's steps, or those that were done, ``last`` of the last fit."""
        self.resolved = Resolved.of(self.bench, self.record["plan"], torch.get_num_threads())
        if steps is not None:
            self.resolved = self.resolved.of_steps(steps, last)
        atomic_write_text(self.out / "config.yaml", self.resolved.text())

    def _fit(self, choice: Choice, shares: Allotment, prepared: Parts, finish: bool) -> Outcome:
        self.write_config()
        plan = self.bench.build(choice.candidate)
        if self.record["plan"]["compile"]:
            plan.predictor.compile()
        feed = self.bench.feed(choice.candidate, prepared["train"])
        validation_cases = prepared.get("validation", [])[: shares.looked_at]
        seconds = None if self.clock.budget is None else shares.training
        resumed = (self.out / "checkpoints").exists()

        def validate(network: nn.Module) -> dict[str, float]:
            tick = Tick(None, self.over(self.costs.network * len(validation_cases)))
            try:
                return self.bench.learning.validate(
                    network, validation_cases, feed, self.device, tick
                )
            except TimeUpError:
                return {}

        with self.stop.gently():
            outcome = Loop(
                plan, feed,
                dataclasses.replace(self.chosen.loop, validations=shares.looks), self.out,
                fabric=self.fabric, seed=self.chosen.seed, pace=Pace(choice.steps, seconds),
                validate=validate if validation_cases and shares.looks else None,
                say=self.say, progress=self.progress, stop=lambda: finish or self.stop(),
            ).run()  # fmt: skip
        if resumed:  # what the run that was cut off had spent counts too
            spent = self.record["seconds_before_training"] + outcome.seconds
            self.clock = dataclasses.replace(self.clock, started=self.clock.now() - spent)
        return outcome

    def over(self, seconds: float) -> Callable[[], bool]:
        """Whether somebody wants an end, or work takes much longer than allotted in a budget."""
        started = self.clock.spent
        limit = math.inf if self.clock.budget is None else _PATIENCE * seconds + 1
        return lambda: self.stop() or self.clock.spent - started > limit

    # ------------------------------------------------------------------------------- the model

    def _save(self, choice: Choice, shares: Allotment, prepared: Parts, outcome: Outcome) -> None:
        """Write the model file, at once, and again with what validation cases decide."""
        feed = self.bench.feed(choice.candidate, prepared["train"])
        network = outcome.predictor.to(self.device)
        if outcome.status == "finished":
            last, without = self.record["plan"].get("last_fit", 0), None
            if last or "last_fit" in self.record:
                without = 0  # so the file that is written now is made again
            self.write_config(outcome.step + last, None if last else without)
            self.resolved = self.resolved.of_steps(outcome.step, without)
        else:
            self.write_config()
        self.record["trained"] = status.describe(outcome.step, outcome.share)
        cases = self._selecting(prepared.get("validation", []), shares)
        write = partial(self._write_model, prepared, outcome, feed)
        select = partial(self.bench.learning.select, network, feed=feed, device=self.device)
        write(select([]), 0)
        if cases and not self.stop():
            try:
                with self.progress.task(len(cases), "selecting on validation cases") as bar:
                    write(select(cases, tick=Tick(bar, self.over(shares.settling))), len(cases))
            except (TimeUpError, KeyboardInterrupt):
                self.say("validation cases decided nothing: selecting on them was given up")
        if sentence := self.record["trained"]["sentence"]:
            self.say(sentence)

    def _selecting(self, cases: list[PreparedCase], shares: Allotment) -> list[PreparedCase]:
        """The validation cases that there is time for: all, or some that the seed draws."""
        cost = len(cases) * self.costs.network
        if self.clock.budget is None or cost <= shares.settling:
            return cases
        count = int(len(cases) * shares.settling / cost)
        drawn = np.random.default_rng((self.chosen.seed, 0x5E7)).permutation(len(cases))[:count]
        return [cases[k] for k in sorted(drawn)]

    def _write_model(
        self,
        prepared: Parts,
        outcome: Outcome,
        feed: Feed,
        selected: dict[str, Any],
        selected_on: int,
    ) -> None:
        document = describe(
            self.resolved, self.cohort, self.preparation, self.record, len(feed.cases),
            target={**self.bench.learning.document(feed), **selected},
            cases=[case for part in prepared.values() for case in part],
            steps=outcome.step,
            subjects=lineage.subjects(self.weights, self.subjects),
        )  # fmt: skip
        of = len(prepared.get("validation", []))
        document["provenance"]["validation_cases"] = {"used": selected_on, "of": of}
        document["parts"] = describe_parts(outcome.keeps)
        model_file.save(
            self.out / "model.safetensors", outcome.predictor.state_dict(), document,
            {name: part.module.state_dict() for name, part in outcome.keeps.items()},
        )  # fmt: skip

    def _score(self, split: splits.Split) -> dict[str, Any]:
        """Predict and evaluate the held-out cases, or as many as there is time for."""
        ids = split.parts.get("test")
        if not ids:  # validation cases chose the clean-up: their figures would flatter
            return {}
        reserved = REPORT_SECONDS
        if last_fit.is_due(self.record):
            if (self.out / last_fit.FOLDER).is_dir() and "scored" in self.record:
                return run.read_json(self.out / "validation" / "summary.json") or {}
            last_fit.set_aside(self.out / "model.safetensors")
            reserved += self.allotted.last_fit
        groups = held_out.subjects(self.cohort, ids, self.chosen.seed)
        late = grace(self.clock.budget or 0.0) / 2  # the other half is for what comes after

        def left() -> float:
            return self.clock.left - reserved + late

        if len(groups[0]) * self.costs.whole > left():
            return {}  # told at the end, with the commands that make up for it
        groups = groups[: held_out.affordable(groups, left(), self.costs)]
        enough = held_out.Enough(groups, left, self.costs)
        summary, done, failure = held_out.score(
            [self._judged(split)], self.source, self.out / "validation", self.opening,
            [name for group in groups for name in group], device=self.chosen.device,
            enough=enough, say=self.say, progress=self.progress,
        )  # fmt: skip
        self.record["scored"] = {"cases": len(done), "of": len(ids)}
        if failure is not None:
            raise failure
        return summary

    def _judged(self, split: splits.Split) -> Path:
        """The model that the figures are of."""
        earlier = self.out / last_fit.EARLIER
        drawn = not last_fit.tested(self.cohort, split)
        return earlier if drawn and earlier.is_file() else self.out / "model.safetensors"

    def _finish(self, split: splits.Split, failure: Exception | None) -> None:
        """Write the record and the report, and say what there is and how to go on."""
        from delineate.reports import training as page

        ids = split.parts.get("test", ())
        scored = self.record.setdefault("scored", {"cases": 0, "of": len(ids)})
        model = self.out / "model.safetensors"
        if scored["cases"] < scored["of"]:
            parts = part_words(self.chosen)
            scored["commands"] = held_out.commands(
                self._judged(split), self.source, self.opening, ids, parts
            )
        self.record |= {
            "status": "interrupted" if self.stop() else "finished",
            "finished": run.now(),
            "seconds": round(self.spent_before + self.clock.spent, 1),
        }
        if failure is not None:
            run_record.note(self.record, failure)
        run.write_json(self.out / "run.json", self.record)
        with self.progress.task(None, "report"):
            written = page.write(self.out / "report.html", self.out, targets.results)
        for line in status.summary(self.record, model, written):
            self.say(line)


def _moment(seconds: float) -> str:
    """The time of day in so many seconds."""
    return time.strftime("%H:%M:%S", time.localtime(time.time() + seconds))


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
