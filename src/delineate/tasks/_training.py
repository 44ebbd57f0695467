"""One training run, step by step: split, prepare, plan, train, save, score, report."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from delineate.core import catalog, model_file, run
from delineate.core import config as settings
from delineate.core.errors import ConfigError, InputError, ResourceError
from delineate.core.progress import Progress, Say
from delineate.data import splits
from delineate.data.cache import PreparedCase
from delineate.data.cohort import Cohort
from delineate.engine.budget import Candidate, Choice, Pace, choose
from delineate.engine.loop import Loop, Outcome, is_memory
from delineate.engine.update import EngineUpdate
from delineate.inference.postprocess import choose_rules
from delineate.inference.predictor import choose_device
from delineate.methods._plan import Plan
from delineate.networks._blocks import count_parameters
from delineate.preprocess.presets import Preparation
from delineate.tasks import _planning
from delineate.tasks._card import describe
from delineate.tasks._feed import Feed, mean_dice, outline
from delineate.tasks._prepare import plan_preparation, prepare_cohort
from delineate.tasks._settings import RunConfig

#: What is set aside of a budget for scoring the held-out cases and writing the report.
_TAIL_SHARE, _TAIL_SECONDS = 0.02, 8.0
#: Validation cases looked at while training runs.
_LOOK = 8
#: Steps timed of a candidate; the first warms up.
_TIMED = 4

Parts = Mapping[str, list[PreparedCase]]


class Job:
    """One run. ``record`` becomes ``run.json``, and what it holds already is not decided again."""

    def __init__(
        self,
        chosen: RunConfig,
        cohort: Cohort,
        out: Path,
        record: dict[str, Any],
        begun: float,
        say: Say,
        progress: Progress,
        stop: Callable[[], bool],
        source: Path,
        how: dict[str, Any],
    ) -> None:
        self.chosen, self.cohort, self.out, self.record = chosen, cohort, out, record
        self.begun, self.say, self.progress, self.stop = begun, say, progress, stop
        self.source, self.how = source, how
        self.schema = cohort.schema
        self.device = choose_device(chosen.device)
        self.precision = _precision(chosen.precision, self.device)
        self.fabric = _fabric(self.device, self.precision)

    def run(self, cache: Path) -> dict[str, Any]:
        """Do everything; prepared cases are kept in ``cache``."""
        split = self._split()
        parts = {name: self.cohort.subset(ids) for name, ids in split.parts.items()}
        self.preparation = self._plan_preparation(parts["train"])
        # held-out cases are not touched before they are scored
        prepared: Parts = {
            name: prepare_cohort(parts[name], self.preparation, cache, progress=self.progress)
            for name in ("train", "validation")
            if name in parts
        }
        choice = self._choose(prepared)
        outcome = self._fit(choice, prepared)
        self._save(choice, prepared, outcome)
        scores = self._score(split)
        self._finish(outcome)
        return {**self.record, "scores": scores}

    # -------------------------------------------------------------------------------- the data

    def _split(self) -> splits.Split:
        """Subjects for training, for choosing the clean-up, and for the figures."""
        kept = run.read_json(self.out / "split.json")
        split = splits.Split.from_dict(kept) if kept else self._new_split()
        splits.check(self.cohort, split)
        run.write_json(self.out / "split.json", split.to_dict())
        self.record["hashes"]["split"] = split.hash()
        told = ", ".join(f"{len(ids)} {name}" for name, ids in split.parts.items())
        self.say(f"split by subject: {told}")
        return split

    def _new_split(self) -> splits.Split:
        chosen, cohort = self.chosen, self.cohort.labelled()
        if not cohort.cases:
            raise InputError(
                "expected label maps beside the scans, got none",
                where=self.cohort.root,
                fix="add label maps, or name them in a table with the columns image and label",
                code="no-labels",
            )
        given = [case.id for case in cohort.cases if case.split == "test"]
        kept = tuple(case.id for case in cohort.cases if case.split != "test")
        parts: dict[str, tuple[str, ...]] = {"train": kept}
        if given:
            parts["test"] = tuple(given)
        elif chosen.holdout > 0:
            parts = dict(splits.holdout(cohort, chosen.holdout, chosen.seed).parts)
        if chosen.validation > 0:
            rest = cohort.subset(parts["train"])
            inner = splits.holdout(rest, chosen.validation, chosen.seed)
            parts |= {"train": inner["train"], "validation": inner["test"]}
        return splits.Split("train-validation-test", chosen.seed, parts)

    def _plan_preparation(self, training: Cohort) -> Preparation:
        """Planned on the training cases alone."""
        if "preparation" in self.record:
            return Preparation.from_dict(self.record["preparation"])
        plan = plan_preparation(training)
        self.record["preparation"] = plan.to_dict()
        for reason in plan.reasons:
            self.say(reason)
        return plan

    # -------------------------------------------------------------------------------- the plan

    @cached_property
    def neighbours(self) -> int:
        """Slices to each side that a 2D network on volumes sees beside its own."""
        if self.preparation.ndim == 3 or self.preparation.slice_axis is None:
            return 0
        return 1 if self.chosen.neighbours is None else self.chosen.neighbours

    @property
    def channels(self) -> int:
        """Channels of the network's input."""
        return len(self.preparation.channels) * (2 * self.neighbours + 1)

    def _feed(self, candidate: Candidate, cases: list[PreparedCase]) -> Feed:
        mirror = _planning.mirror_axes(self.schema, self.preparation)
        return Feed(
            cases, self.chosen, self.preparation, candidate.patch, candidate.batch, mirror,
            self.neighbours, self.fabric.global_rank,
        )  # fmt: skip

    def _network_config(self, candidate: Candidate) -> Any:
        module = catalog.load("networks", self.chosen.network)
        if module.KIND != "segmenter":
            raise ConfigError(
                f"expected a segmenter, got {self.chosen.network!r}",
                where="network",
                fix="choose another network, for instance unet",
                code="not-a-segmenter",
            )
        ndim = self.preparation.ndim
        levels = _planning.levels(candidate.patch, ndim)
        derived = {
            "ndim": ndim,
            "width": candidate.width,
            "levels": levels,
            "deep_supervision": max(0, levels - 3),  # all but the two coarsest, as nnU-Net
        }
        names = {f.name for f in dataclasses.fields(module.Config)}
        values = {k: v for k, v in derived.items() if k in names}
        wanted = {**values, **self.chosen.network_settings}
        return settings.from_dict(wanted, module.Config, "network_settings")

    def _build(self, candidate: Candidate) -> Plan:
        """Network and method for a candidate, with the weights that the seed gives."""
        torch.manual_seed(self.chosen.seed)
        network = catalog.load("networks", self.chosen.network)
        segmenter: nn.Module = network.build(
            self._network_config(candidate), self.channels, self.schema.num_outputs
        )
        method = catalog.load("methods", self.chosen.method)
        options = settings.from_dict(self.chosen.method_settings, method.Config, "method_settings")
        plan: Plan = method.build(options, segmenter, self.channels, self.schema)
        return plan

    def _choose(self, prepared: Parts) -> Choice:
        """Measure candidates and take one; a resumed run keeps what it had."""
        chosen, kept = self.chosen, self.record.get("plan")
        if kept is not None:
            candidate = Candidate(kept["width"], tuple(kept["patch"]), kept["batch"])
            return Choice(candidate, kept["seconds_per_step"], kept["steps"], ())
        shapes = [case.shape[1:] for case in prepared["train"]]
        options = _planning.candidates(
            _planning.median_shape(shapes, self.preparation), self.preparation.ndim,
            width=chosen.width, patch=chosen.patch, batch=chosen.batch,
        )  # fmt: skip

        def measure(candidate: Candidate) -> float:
            return self._measure(candidate, prepared["train"])

        if chosen.steps is None:
            choice = choose(options, self._left, measure)
        else:
            default = _planning.default(options)
            choice = Choice(default, measure(default), chosen.steps, ())
        self._announce(choice, self._gains(choice, prepared["train"]))
        return choice

    def _left(self) -> float:
        """Seconds left for the training loop."""
        budget = self.chosen.seconds or 0.0
        tail = _TAIL_SECONDS + _TAIL_SHARE * budget
        return budget - tail - (time.monotonic() - self.begun)

    def _gains(self, choice: Choice, cases: list[PreparedCase]) -> bool:
        """True if compiling is asked for, or saves more time than it takes (tried on GPUs only).

        On a CPU it was measured to gain less than a tenth and to take half a minute (docs/LOG.md).
        """
        if self.chosen.compile != "auto" or self.device.type != "cuda":
            return self.chosen.compile == "on"
        return (
            self._measure(choice.candidate, cases, compiled=True) < 0.95 * choice.seconds_per_step
        )

    def _measure(
        self, candidate: Candidate, cases: list[PreparedCase], compiled: bool = False
    ) -> float:
        """Seconds a step of a candidate, sampling and augmentation included."""
        plan, feed = self._build(candidate), self._feed(candidate, cases)
        if compiled:
            plan.predictor.compile()
        stage = plan.stages[-1]
        for module in stage.modules.values():
            module.to(self.device).train()
        update = EngineUpdate(self.fabric, 1, self.chosen.loop.clip, progress=0.5)
        times = []
        for step in range(_TIMED):
            start = time.perf_counter()
            batch = feed(step, 0, 1)
            batch = dataclasses.replace(
                batch, image=batch.image.to(self.device), label=batch.label.to(self.device)
            )
            try:
                with self.fabric.autocast():
                    stage.step(batch, update)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_memory(error):
                    raise
                raise ResourceError(
                    f"no memory for width {candidate.width}, patch {candidate.patch}, "
                    f"batch {candidate.batch}",
                    fix="choose a smaller width, patch or batch in the settings",
                    code="out-of-memory",
                ) from error
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        return sorted(times[1:])[(_TIMED - 1) // 2] * self.chosen.loop.accumulate

    def _announce(self, choice: Choice, compiled: bool) -> None:
        candidate = choice.candidate
        parameters = count_parameters(self._build(candidate).predictor)
        patch = "x".join(map(str, candidate.patch))
        self.record["plan"] = {
            "network": self.chosen.network,
            "parameters": parameters,
            "width": candidate.width,
            "patch": list(candidate.patch),
            "batch": candidate.batch,
            "neighbours": self.neighbours,
            "steps": choice.steps,
            "seconds_per_step": round(choice.seconds_per_step, 4),
            "precision": self.precision,
            "compile": compiled,
            "tried": [
                f"width {c.width}, patch {'x'.join(map(str, c.patch))}, batch {c.batch}: {s:.3f} s"
                for c, s in choice.tried
            ],
        }
        run.write_json(self.out / "run.json", self.record)
        end = time.localtime(time.time() + choice.steps * choice.seconds_per_step)
        self.say(
            f"plan: {self.chosen.network} of width {candidate.width} ({parameters:,} parameters), "
            f"patch {patch}, batch {candidate.batch}, {choice.steps} steps of "
            f"{choice.seconds_per_step:.2f} s, until about {time.strftime('%H:%M', end)}"
        )

    # ---------------------------------------------------------------------------- the training

    def _fit(self, choice: Choice, prepared: Parts) -> Outcome:
        plan = self._build(choice.candidate)
        if self.record["plan"]["compile"]:
            plan.predictor.compile()
        feed = self._feed(choice.candidate, prepared["train"])
        looked = prepared.get("validation", [])[:_LOOK]

        def look(network: nn.Module) -> dict[str, float]:
            dices = [
                mean_dice(self._outline(network, case, feed), np.asarray(case.label), self.schema)
                for case in looked
            ]
            return {"val_dice": float(np.nanmean(dices))}

        if self.chosen.seconds is not None and "loop_seconds" not in self.record:
            self.record["loop_seconds"] = self._left()
            run.write_json(self.out / "run.json", self.record)
        return Loop(
            plan, feed, self.chosen.loop, self.out,
            fabric=self.fabric, seed=self.chosen.seed,
            pace=Pace(choice.steps, self.record.get("loop_seconds")),
            validate=look if looked else None,
            say=self.say, progress=self.progress, stop=self.stop,
        ).run()  # fmt: skip

    def _outline(self, network: nn.Module, case: PreparedCase, feed: Feed) -> Any:
        return outline(network, case, feed, self.schema.num_outputs, self.device)

    # ------------------------------------------------------------------------------- the model

    def _rules(self, network: nn.Module, prepared: Parts, feed: Feed) -> dict[str, Any]:
        """The clean-up, chosen on validation cases alone."""
        cases = prepared.get("validation", [])
        network.to(self.device)
        guesses = [self._outline(network, case, feed) for case in cases]
        network.cpu()
        return choose_rules(guesses, [np.asarray(case.label) for case in cases], self.schema)

    def _save(self, choice: Choice, prepared: Parts, outcome: Outcome) -> None:
        """Write the model file."""
        feed = self._feed(choice.candidate, prepared["train"])
        document = describe(
            self.chosen, self.cohort, self.preparation, self.record, feed,
            network=settings.to_dict(self._network_config(choice.candidate)),
            rules=self._rules(outcome.predictor, prepared, feed),
            grids=[case.original for part in prepared.values() for case in part],
            steps=outcome.step,
        )  # fmt: skip
        weights = {name: t.numpy() for name, t in outcome.predictor.state_dict().items()}
        model_file.save(self.out / "model.safetensors", weights, document)

    def _score(self, split: splits.Split) -> dict[str, Any]:
        """Predict and evaluate the held-out cases, as any user would."""
        from delineate.tasks.evaluate import evaluate
        from delineate.tasks.predict import predict

        ids = split.parts.get("test")
        if not ids:  # validation cases chose the clean-up: their figures would flatter
            return {}
        folder = self.out / "validation"
        predict(
            self.out / "model.safetensors", self.source, folder / "predictions", only=ids,
            overwrite=True, device=self.chosen.device, say=self.say, progress=self.progress,
            **self.how,
        )  # fmt: skip
        summary: dict[str, Any] = evaluate(
            folder / "predictions", self.source, folder, say=self.say, progress=self.progress,
            **self.how,
        )  # fmt: skip
        return summary

    def _finish(self, outcome: Outcome) -> None:
        from delineate.tasks.report import report

        self.record |= {
            "status": outcome.status,
            "steps": outcome.step,
            "events": list(outcome.events),
            "seconds_training": round(outcome.seconds, 1),
            "finished": run.now(),
            "seconds": round(time.monotonic() - self.begun, 1),
        }
        self.record["hashes"]["model"] = model_file.load(self.out / "model.safetensors").hash
        run.write_json(self.out / "run.json", self.record)
        self.say(f"model: {self.out / 'model.safetensors'}")
        self.say(f"report: {report(self.out)}")


def _precision(wanted: str, device: torch.device) -> str:
    """bf16 where the device gains by it; never on a CPU unless asked for."""
    if wanted != "auto":
        return wanted
    gains = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return "bf16-mixed" if gains else "32-true"


def _fabric(device: torch.device, precision: Any) -> Fabric:
    """Fabric on one device."""
    if device.type == "cuda":
        return Fabric(accelerator="cuda", devices=[device.index or 0], precision=precision)
    return Fabric(accelerator=device.type, devices=1, precision=precision)
