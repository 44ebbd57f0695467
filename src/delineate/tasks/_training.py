"""One training run, step by step: split, prepare, plan, train, save, score, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from delineate.core import model_file, run
from delineate.core.atomic import atomic_write_text
from delineate.core.progress import Progress, Say
from delineate.data import site_key, splits
from delineate.data.cache import PreparedCase
from delineate.data.cohort import Cohort
from delineate.data.opening import Opening
from delineate.engine.budget import Candidate, Choice, Pace, choose
from delineate.engine.loop import Loop, Outcome
from delineate.inference.predictor import choose_device
from delineate.networks._blocks import count_parameters
from delineate.preprocess.presets import Preparation
from delineate.tasks import _fitted, _lineage, _planning, _targets, _weights
from delineate.tasks._bench import Bench
from delineate.tasks._card import describe
from delineate.tasks._prepare import plan_preparation, prepare_cohort
from delineate.tasks._resolve import Resolved
from delineate.tasks._settings import RunConfig
from delineate.tasks._weights import Weights

#: What is set aside of a budget for scoring the held-out cases and writing the report.
_TAIL_SHARE, _TAIL_SECONDS = 0.02, 8.0

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
        how: Opening,
        weights: Weights | None = None,
    ) -> None:
        chosen = _targets.complete(chosen, cohort)
        weights = weights or _weights.start(chosen)
        chosen = _weights.derive(chosen, weights)
        self.weights = weights
        self.chosen, self.cohort, self.out, self.record = chosen, cohort, out, record
        self.begun, self.say, self.progress, self.stop = begun, say, progress, stop
        self.source, self.how = source, how
        self.schema = cohort.schema
        if chosen.threads is not None:
            torch.set_num_threads(chosen.threads)
        self.device = choose_device(chosen.device)
        self.precision = _precision(chosen.precision, self.device)
        self.fabric = _fabric(self.device, self.precision)

    def run(self, cache: Path) -> dict[str, Any]:
        """Do everything; prepared cases are kept in ``cache``."""
        split, prepared = self.ready(cache)
        if "clusters" in self.preparation.derived:
            _fitted.keep_clusters(self.out, self.preparation, prepared["train"])
        choice = self._choose(prepared)
        outcome = self._fit(choice, prepared)
        self._save(choice, prepared, outcome)
        scores = self._score(split)
        self._finish(outcome)
        return {**self.record, "scores": scores}

    # -------------------------------------------------------------------------------- the data

    def ready(self, cache: Path) -> tuple[splits.Split, Parts]:
        """Split, and prepare the cases to learn from; held-out ones are not touched."""
        split = self._split()
        parts = {name: self.cohort.subset(ids) for name, ids in split.parts.items()}
        key = site_key.find(self.cohort.root, self.how.site_key, away_from=self.out)
        if key.remark:
            self.say(key.remark)
        self.subjects = _lineage.marks(parts, key)
        judged = [case for name, part in parts.items() if name != "train" for case in part]
        self.preparation = self._plan_preparation(parts["train"], self.cohort.with_cases(judged))
        target = _targets.of(self.chosen.target, self.chosen, self.cohort, self.preparation)
        self.bench = Bench(self.chosen, target, self.preparation, self.weights, self.fabric)
        self.bench.check()
        return split, {
            name: prepare_cohort(parts[name], self.preparation, cache, progress=self.progress)
            for name in ("train", "validation")
            if name in parts
        }

    def _split(self) -> splits.Split:
        """Subjects for training, for choosing the clean-up, and for the figures."""
        kept = run.read_json(self.out / "split.json")
        split = splits.Split.from_dict(kept) if kept else self._new_split()
        splits.check(self.cohort, split, allow_leaky=self.chosen.leaky)
        run.write_json(self.out / "split.json", split.to_dict())
        self.record["hashes"]["split"] = split.hash()
        told = ", ".join(f"{len(ids)} {name}" for name, ids in split.parts.items())
        self.say(f"split by subject: {told}")
        return split

    def _new_split(self) -> splits.Split:
        chosen = self.chosen
        cohort = _targets.usable(chosen.target, self.cohort, self.say)
        for line in splits.on_declared(self.cohort, cohort):
            self.say(line)
        return splits.planned(
            cohort, chosen.seed, test_share=chosen.holdout, validation_share=chosen.validation,
            folds=chosen.folds, fold=chosen.fold, leaky=chosen.leaky,
        )  # fmt: skip

    def _plan_preparation(self, training: Cohort, judged: Cohort) -> Preparation:
        """Planned on the training cases alone."""
        if "preparation" in self.record:
            return Preparation.from_dict(self.record["preparation"])
        chosen = self.chosen
        plan = plan_preparation(
            training, judged=judged, derived=chosen.derived, clusters=chosen.clusters,
            bias_correction=chosen.bias_correction, denoise=chosen.denoise,
        )  # fmt: skip
        self.record["preparation"] = plan.to_dict()
        for reason in plan.reasons:
            self.say(reason)
        return plan

    # -------------------------------------------------------------------------------- the plan

    def _choose(self, prepared: Parts) -> Choice:
        """Measure candidates and take one; a resumed run keeps what it had."""
        chosen, kept = self.chosen, self.record.get("plan")
        if kept is not None:
            candidate = Candidate(kept["width"], tuple(kept["patch"]), kept["batch"])
            return Choice(candidate, kept["seconds_per_step"], kept["steps"], ())
        options = self.bench.candidates(prepared["train"])

        def measure(candidate: Candidate) -> float:
            return self.bench.measure(candidate, prepared["train"])

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
        compiled = self.bench.measure(choice.candidate, cases, compiled=True)
        return compiled < 0.95 * choice.seconds_per_step

    def _announce(self, choice: Choice, compiled: bool) -> None:
        candidate = choice.candidate
        parameters = count_parameters(self.bench.build(candidate).predictor)
        patch = "x".join(map(str, candidate.patch))
        self.record["plan"] = {
            "network": self.chosen.network,
            "parameters": parameters,
            "width": candidate.width,
            "patch": list(candidate.patch),
            "batch": candidate.batch,
            "neighbours": self.bench.target.neighbours,
            "steps": choice.steps,
            "seconds_per_step": round(choice.seconds_per_step, 4),
            "precision": self.precision,
            "compile": compiled,
            "tried": [
                f"width {c.width}, patch {'x'.join(map(str, c.patch))}, batch {c.batch}: {s:.3f} s"
                for c, s in choice.tried
            ],
        }
        if self.weights and self.bench.transfer:
            kept = _lineage.record(
                self.weights, self.bench.transfer, self.bench.frozen, self.subjects
            )
            self.record["transfer"] = kept
            self.record["plan"]["weights"] = _lineage.sentence(kept)
            for line in (_lineage.sentence(kept), *kept["notes"]):
                self.say(f"weights: {line}")
        run.write_json(self.out / "run.json", self.record)
        end = time.localtime(time.time() + choice.steps * choice.seconds_per_step)
        self.say(
            f"plan: {self.chosen.network} of width {candidate.width} ({parameters:,} parameters), "
            f"patch {patch}, batch {candidate.batch}, {choice.steps} steps of "
            f"{choice.seconds_per_step:.2f} s, until about {time.strftime('%H:%M', end)}"
        )

    # ---------------------------------------------------------------------------- the training

    def _write_config(self, outcome: Outcome | None = None) -> None:
        """``config.yaml``: the plan's steps; those done once a run that kept to a clock is over."""
        self.resolved = Resolved.of(self.bench, self.record["plan"], torch.get_num_threads())
        if outcome is not None and outcome.status == "finished":
            self.resolved = self.resolved.of_steps(outcome.step)
        atomic_write_text(self.out / "config.yaml", self.resolved.text())

    def _fit(self, choice: Choice, prepared: Parts) -> Outcome:
        self._write_config()
        plan = self.bench.build(choice.candidate)
        if self.record["plan"]["compile"]:
            plan.predictor.compile()
        feed = self.bench.feed(choice.candidate, prepared["train"])
        looked = prepared.get("validation", [])

        def look(network: nn.Module) -> dict[str, float]:
            return self.bench.target.look(network, looked, feed, self.device)

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

    # ------------------------------------------------------------------------------- the model

    def _save(self, choice: Choice, prepared: Parts, outcome: Outcome) -> None:
        """Write the model file."""
        feed = self.bench.feed(choice.candidate, prepared["train"])
        network = outcome.predictor.to(self.device)
        settled = self.bench.target.settle(
            network, prepared.get("validation", []), feed, self.device
        )
        self._write_config(outcome)
        document = describe(
            self.resolved, self.cohort, self.preparation, self.record, len(feed.cases),
            settled=settled,
            cases=[case for part in prepared.values() for case in part],
            steps=outcome.step,
            subjects=_lineage.subjects(self.weights, self.subjects),
        )  # fmt: skip
        outcome.predictor.cpu()
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
        how = dict(self.how.given())
        where = {k: v for k, v in how.items() if k not in ("class_column", "ignore_label")}
        predict(
            self.out / "model.safetensors", self.source, folder / "predictions", only=ids,
            overwrite=True, force=True, device=self.chosen.device, progress=self.progress, **where,
        )  # fmt: skip
        summary: dict[str, Any] = evaluate(
            folder / "predictions", self.source, folder, say=self.say, progress=self.progress,
            **how,
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
