"""Train a model on a folder of scans within a time budget, and say honestly how good it is."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

from delineate.core import catalog, model_file, run
from delineate.core import config as settings
from delineate.core.atomic import atomic_write_text, writable_folder
from delineate.core.errors import ConfigError, InputError, OutputError
from delineate.core.lock import folder_lock
from delineate.core.progress import QUIET, Progress, Say, silent
from delineate.data import splits
from delineate.data.cohort import Cohort
from delineate.engine.settings import Settings
from delineate.tasks import _planning

if TYPE_CHECKING:
    from torch import nn

    from delineate.data.cache import PreparedCase
    from delineate.data.sampling import Region
    from delineate.engine.budget import Candidate, Choice
    from delineate.engine.loop import Outcome
    from delineate.methods._plan import Plan
    from delineate.preprocess.presets import Preparation

#: What is set aside of a budget for scoring the held-out cases and writing the report.
_TAIL_SHARE, _TAIL_SECONDS = 0.02, 8.0
#: Validation cases looked at while training runs.
_LOOK = 8


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run. What is null is derived from the data and the budget."""

    budget: str | None = field(default="40m", metadata={"help": "wall-clock time, all included"})
    steps: int | None = field(default=None, metadata={"help": "fixed number of steps instead"})
    seed: int = field(default=0, metadata={"help": "of the split, the weights and the sampling"})
    method: str = field(default="supervised", metadata={"help": "a file of methods/"})
    method_settings: Mapping[str, Any] = field(
        default_factory=dict, metadata={"help": "settings of that method"}
    )
    network: str = field(default="unet", metadata={"help": "a segmenter of networks/"})
    network_settings: Mapping[str, Any] = field(
        default_factory=dict, metadata={"help": "settings of that network"}
    )
    holdout: float = field(default=0.2, metadata={"help": "subjects never trained on, for figures"})
    validation: float = field(default=0.1, metadata={"help": "subjects that choose the clean-up"})
    width: int | None = field(default=None, metadata={"help": "channels at full resolution"})
    patch: tuple[int, ...] | None = field(default=None, metadata={"help": "size of a patch"})
    batch: int | None = field(default=None, metadata={"help": "patches a step"})
    neighbours: int | None = field(
        default=None, metadata={"help": "2D on volumes: slices to each side joined as channels"}
    )
    foreground: float = field(default=1 / 3, metadata={"help": "patches centred on a structure"})
    augment: bool = field(default=True, metadata={"help": "rotate, scale, mirror, noise, gamma …"})
    rotation_degrees: float = field(default=15.0, metadata={"help": "largest rotation"})
    scale: tuple[float, float] = field(default=(0.7, 1.4), metadata={"help": "range of the zoom"})
    device: str = field(default="auto", metadata={"help": "auto, cpu, cuda, cuda:1, mps"})
    precision: Literal["auto", "32-true", "bf16-mixed"] = field(
        default="auto", metadata={"help": "auto: bf16 on GPUs that gain by it, else 32 bit"}
    )
    compile: bool = field(default=False, metadata={"help": "torch.compile (needs a compiler)"})
    loop: Settings = field(default_factory=Settings, metadata={"help": "the loop"})

    def __post_init__(self) -> None:
        if not 0 <= self.holdout < 0.9 or not 0 <= self.validation < 0.9:
            raise ConfigError(
                "expected holdout and validation from 0 to 0.9, "
                f"got {self.holdout} and {self.validation}"
            )
        if self.budget is None and self.steps is None:
            raise ConfigError("expected a budget or a number of steps, got neither")
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"expected at least one step, got {self.steps}")

    @property
    def seconds(self) -> float | None:
        """The budget in seconds; None where steps are fixed."""
        return None if self.steps or self.budget is None else settings.parse_duration(self.budget)


def train(
    data: Path,
    *,
    budget: str | None = None,
    steps: int | None = None,
    method: str | None = None,
    network: str | None = None,
    config: Path | None = None,
    out: Path = Path("run"),
    layout: str | None = None,
    seed: int | None = None,
    holdout: float | None = None,
    device: str | None = None,
    cache: Path | None = None,
    audit: bool = True,
    say: Say = silent,
    progress: Progress = QUIET,
) -> dict[str, Any]:
    """Train a model on a folder of scans, and judge it on subjects it has never seen.

    A killed run goes on, bit for bit, when the same command is given again.

    Args:
        data: Folder of scans and label maps in one of the known layouts.
        budget: Wall-clock time for everything, as 90s, 40m or 1h30m (40m if nothing is said).
        steps: A fixed number of steps instead of a budget; makes a run repeatable to the bit.
        method: How to train: supervised or adversarial.
        network: What to train: unet.
        config: A YAML file with any of the settings; options given here win.
        out: The run folder.
        layout: Layout of ``data``; recognised by default.
        seed: Of the split, the weights and the sampling.
        holdout: Share of subjects that are never trained on and give the figures (0: none).
        device: auto, cpu, cuda, cuda:1 or mps.
        cache: Folder of prepared cases, may be shared by runs; by default in the run folder.
        audit: Look for faults in the data first; blocking ones stop the run (exit code 2).
        say: Told what a person should know.
        progress: Shows how far it is.

    Returns:
        The content of ``run.json``, with the scores of the held-out subjects as ``scores``.

    Raises:
        AuditError: Blocking findings in the data.
        ConfigError: A setting is unknown or out of range.
        DelineateError: Whatever else stops the run, with the next move.
    """
    begun = time.monotonic()
    chosen = _settings(
        config, budget=budget, steps=steps, method=method, network=network, seed=seed,
        holdout=holdout, device=device,
    )  # fmt: skip
    catalog.load("methods", chosen.method)  # a misspelt name is told before any work
    catalog.load("networks", chosen.network)
    cohort = Cohort.open(Path(data), layout)
    out = Path(out)
    _refuse_inside(out, cohort.root)
    writable_folder(out)
    with folder_lock(out), _interruptible(say) as stop:
        record = _begin(out, chosen, cohort, begun)
        if audit:
            _audit(cohort, out, say, progress)
        job = _Job(chosen, cohort, out, record, begun, say, progress, stop)
        return job.run(Path(cache) if cache else out / "cache")


def _settings(path: Path | None, **given: Any) -> RunConfig:
    """Settings of the file, then the options that were given."""
    base = settings.load(Path(path), RunConfig) if path else RunConfig()
    return dataclasses.replace(base, **{k: v for k, v in given.items() if v is not None})


def _refuse_inside(out: Path, root: Path) -> None:
    home, target = root.resolve(), out.resolve()
    if target == home or home in target.parents:
        raise OutputError(
            "expected a run folder outside the data",
            where=out,
            fix="choose another --out",
            code="output-in-input",
        )


@contextmanager
def _interruptible(say: Say) -> Iterator[Callable[[], bool]]:
    """Ctrl-C once: stop after this step and keep the model. Twice: stop at once."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        say("stopping after this step; once more to stop at once")

    try:
        before = signal.signal(signal.SIGINT, ask)
    except ValueError:  # not the main thread: somebody else owns the signals
        yield lambda: False
        return
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


def _begin(out: Path, chosen: RunConfig, cohort: Cohort, begun: float) -> dict[str, Any]:
    """Start the record of a run, or take up the one that was cut off."""
    text = settings.dump(chosen)
    old = run.read_json(out / "run.json")
    hashes = {"config": run.sha256(text), "cohort": cohort.hash()}
    if old is not None:
        if old.get("status") in ("finished", "interrupted"):
            raise OutputError(
                f"expected a new folder, got that of a run which {old['status']}",
                where=out,
                fix="choose another --out, or delete the folder",
                code="run-finished",
            )
        if {k: old.get("hashes", {}).get(k) for k in hashes} != hashes:
            raise OutputError(
                "expected the settings and data of the run that was cut off here, got others",
                where=out,
                fix="give the same command to go on, or choose another --out",
                code="run-differs",
            )
        return old
    record = {
        "name": out.resolve().name,
        "status": "running",
        "started": run.now(),
        "seed": chosen.seed,
        "method": chosen.method,
        "network": chosen.network,
        "budget_seconds": chosen.seconds,
        "versions": run.versions(),
        "machine": run.machine(),
        "hashes": hashes,
    }
    atomic_write_text(out / "config.yaml", text)
    run.write_json(out / "cohort.json", cohort.to_dict())
    run.write_json(out / "run.json", record)
    return record


def _audit(cohort: Cohort, out: Path, say: Say, progress: Progress) -> None:
    """Look for faults once a run; blocking ones stop it."""
    from delineate.tasks.audit import audit_cohort

    if not (out / "audit.json").exists():
        audit_cohort(cohort, out, say=say, progress=progress)


class _Job:
    """The steps of one training run, in order; ``run`` does them all."""

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
    ) -> None:
        self.chosen, self.cohort, self.out, self.record = chosen, cohort, out, record
        self.begun, self.say, self.progress, self.stop = begun, say, progress, stop

    def run(self, cache: Path) -> dict[str, Any]:
        """Split, prepare, plan, train, choose the clean-up, save, score, report."""
        import torch
        from lightning_fabric import Fabric

        from delineate.inference.predictor import choose_device

        chosen = self.chosen
        split = self._split()
        parts = {name: self.cohort.subset(ids) for name, ids in split.parts.items()}
        self.preparation = self._plan_preparation(parts["train"])
        prepared = self._prepare(parts, cache)
        torch.manual_seed(chosen.seed)
        device = choose_device(chosen.device)
        self.precision = _precision(chosen.precision, device.type)
        accelerator = {"cuda": "cuda", "mps": "mps"}.get(device.type, "cpu")
        devices: Any = [device.index or 0] if accelerator == "cuda" else 1
        self.fabric = Fabric(accelerator=accelerator, devices=devices, precision=self.precision)  # type: ignore[arg-type]

        shapes = [case.shape[1:] for case in prepared["train"]]
        self.shape = _planning.median_shape(shapes, self.preparation)
        self.mirror = _planning.mirror_axes(self.cohort.schema, self.preparation)
        self.neighbours = self._neighbours()
        choice = self._choose(prepared)
        outcome = self._fit(choice, prepared)
        document = self._document(choice, prepared, outcome)
        model_file.save(self.out / "model.safetensors", _tensors(outcome.predictor), document)
        self.record["seconds_training"] = round(outcome.seconds, 1)
        self.record["events"] = list(outcome.events)
        scores = self._score(split)
        self._finish(outcome, scores)
        return {**self.record, "scores": scores}

    # -------------------------------------------------------------------------------- the data

    def _split(self) -> splits.Split:
        """Subjects for training, for choosing the clean-up, and for the figures."""
        path = self.out / "split.json"
        if path.exists():
            (split,) = splits.load(path)
        else:
            split = self._new_split()
            splits.check(self.cohort, split)
            splits.save(path, split)
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
                fix="add label maps, or name them in a table (see the how-to on layouts)",
                code="no-labels",
            )
        kept = [case.id for case in cohort.cases if case.split not in ("test", "testing")]
        declared_test = [case.id for case in cohort.cases if case.split in ("test", "testing")]
        inner = cohort.subset(kept)
        if declared_test:
            first = {"train": tuple(kept), "test": tuple(declared_test)}
        elif chosen.holdout > 0:
            first = dict(splits.holdout(inner, chosen.holdout, chosen.seed).parts)
        else:
            first = {"train": tuple(kept)}
        if chosen.validation > 0:
            rest = splits.holdout(cohort.subset(first["train"]), chosen.validation, chosen.seed)
            first = {**first, "train": rest["train"], "validation": rest["test"]}
        return splits.Split("train-validation-test", chosen.seed, first)

    def _plan_preparation(self, training: Cohort) -> Preparation:
        """Planned on the training cases alone; kept in the record, so a resumed run has the same."""
        from delineate.preprocess.presets import Preparation
        from delineate.tasks.prepare import plan_preparation

        kept = self.record.get("preparation")
        if kept is not None:
            return Preparation.from_dict(kept)
        plan = plan_preparation(training)
        self.record["preparation"] = plan.to_dict()
        for reason in plan.reasons:
            self.say(reason)
        return plan

    def _prepare(self, parts: Mapping[str, Cohort], cache: Path) -> dict[str, list[PreparedCase]]:
        """Prepared cases of training and validation; held-out ones are read only to be scored."""
        from delineate.tasks.prepare import prepare_cohort

        found = {}
        for name in ("train", "validation"):
            if name in parts:
                found[name] = prepare_cohort(
                    parts[name], self.preparation, cache, progress=self.progress
                )
        return found

    # -------------------------------------------------------------------------------- the plan

    def _neighbours(self) -> int:
        if self.preparation.ndim == 3 or self.preparation.slice_axis is None:
            return 0
        return 1 if self.chosen.neighbours is None else self.chosen.neighbours

    @property
    def channels(self) -> int:
        """Channels of the network's input."""
        return len(self.preparation.channels) * (2 * self.neighbours + 1)

    def _network_config(self, candidate: Candidate) -> Any:
        module = catalog.load("networks", self.chosen.network)
        if getattr(module, "KIND", None) != "segmenter":
            raise ConfigError(
                f"expected a segmenter, got {self.chosen.network!r}",
                where="network",
                fix="choose another network, for instance unet",
                code="not-a-segmenter",
            )
        ndim = self.preparation.ndim
        derived = {
            "ndim": ndim,
            "width": candidate.width,
            "levels": _planning.levels(candidate.patch, ndim),
        }
        names = {f.name for f in dataclasses.fields(module.Config)}
        values = {k: v for k, v in derived.items() if k in names} | self.chosen.network_settings
        return settings.from_dict(values, module.Config, "network_settings")

    def _build(self, candidate: Candidate) -> Plan:
        """Network and method for a candidate, with the weights that the seed gives."""
        import torch

        torch.manual_seed(self.chosen.seed)
        network = catalog.load("networks", self.chosen.network)
        segmenter: nn.Module = network.build(
            self._network_config(candidate), self.channels, self.cohort.schema.num_outputs
        )
        method = catalog.load("methods", self.chosen.method)
        options = settings.from_dict(self.chosen.method_settings, method.Config, "method_settings")
        plan: Plan = method.build(options, segmenter, self.channels, self.cohort.schema)
        return plan

    def _choose(self, prepared: Mapping[str, list[PreparedCase]]) -> Choice:
        """Measure candidates and take one; a resumed run keeps what it had."""
        from delineate.engine.budget import Candidate, Choice, choose

        chosen = self.chosen
        kept = self.record.get("plan")
        if kept is not None:
            candidate = Candidate(kept["width"], tuple(kept["patch"]), kept["batch"])
            return Choice(candidate, kept["seconds_per_step"], kept["steps"], ())
        options = _planning.candidates(
            self.shape, self.preparation.ndim,
            width=chosen.width, patch=chosen.patch, batch=chosen.batch,
        )  # fmt: skip
        if chosen.seconds is None and chosen.steps is not None:
            default = next((c for c in options if c.width >= 16), options[-1])
            choice = Choice(default, self._measure(default, prepared), chosen.steps, ())
        else:
            choice = choose(options, self._left, lambda c: self._measure(c, prepared))
        self._announce(choice)
        return choice

    def _left(self) -> float:
        """Seconds left for the training loop."""
        budget = self.chosen.seconds or 0.0
        tail = _TAIL_SECONDS + _TAIL_SHARE * budget
        return budget - tail - (time.monotonic() - self.begun)

    def _measure(self, candidate: Candidate, prepared: Mapping[str, list[PreparedCase]]) -> float:
        """Seconds a step of a candidate, sampling and augmentation included."""
        import torch

        from delineate.engine.update import EngineUpdate

        plan = self._build(candidate)
        for stage in plan.stages:
            for module in stage.modules.values():
                module.to(self.fabric.device).train()
        batches = self._batches(candidate, prepared["train"])
        times = []
        with self.progress.task(4, f"measuring width {candidate.width}") as bar:
            for step in range(4):
                start = time.perf_counter()
                batch = batches(step, 0, 1)
                batch = dataclasses.replace(
                    batch,
                    image=self.fabric.to_device(batch.image),
                    label=self.fabric.to_device(batch.label),
                )
                update = EngineUpdate(self.fabric, 1, self.chosen.loop.clip)
                update.progress = 0.5
                with self.fabric.autocast():
                    plan.stages[-1].step(batch, update)
                if self.fabric.device.type == "cuda":
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - start)
                bar.advance(1)
        return min(times[1:]) * 1.03

    def _announce(self, choice: Choice) -> None:
        from delineate.networks._blocks import count_parameters

        candidate = choice.candidate
        parameters = count_parameters(self._build(candidate).predictor)
        self.record["plan"] = {
            "network": self.chosen.network,
            "parameters": parameters,
            "width": candidate.width,
            "patch": list(candidate.patch),
            "batch": candidate.batch,
            "neighbours": self.neighbours,
            "mirror_axes": list(self.mirror),
            "steps": choice.steps,
            "seconds_per_step": round(choice.seconds_per_step, 4),
            "precision": self.precision,
            "compile": self.chosen.compile,
            "tried": [
                f"width {c.width}, patch {'x'.join(map(str, c.patch))}, batch {c.batch}: {s:.3f} s"
                for c, s in choice.tried
            ],
        }
        run.write_json(self.out / "run.json", self.record)
        until = time.strftime(
            "%H:%M", time.localtime(time.time() + choice.steps * choice.seconds_per_step)
        )
        self.say(
            f"plan: {self.chosen.network} of width {candidate.width} ({parameters:,} parameters), "
            f"patch {'x'.join(map(str, candidate.patch))}, batch {candidate.batch}, "
            f"{choice.steps} steps of {choice.seconds_per_step:.2f} s, until about {until}"
        )

    # ---------------------------------------------------------------------------- the training

    def _region(self, patch: Sequence[int]) -> Region:
        from delineate.data.sampling import Region

        margin = 1.2 if self.chosen.augment else 1.0
        size = tuple(math.ceil(n * margin / 2) * 2 for n in patch)
        return Region(size, self.preparation.slice_axis, self.neighbours)

    def _batches(self, candidate: Candidate, cases: list[PreparedCase]) -> Any:
        """The pure function from (step, micro-batch, split) to a batch."""
        import numpy as np
        import torch

        from delineate.augment import intensity, spatial
        from delineate.core.case import Batch
        from delineate.data import sampling

        chosen, region = self.chosen, self._region(candidate.patch)
        spacing = [
            s for a, s in enumerate(cases[0].grid.spacing_mm) if a != self.preparation.slice_axis
        ]
        ranges = spatial.Config(chosen.rotation_degrees, chosen.scale)
        changes = intensity.Config()

        def batch(step: int, micro: int, split: int) -> Batch:
            size = max(1, candidate.batch // split)
            moment = step * chosen.loop.accumulate * split + micro
            drawn = sampling.draw(
                cases, size, chosen.seed, moment,
                foreground=chosen.foreground, rank=self.fabric.global_rank,
            )  # fmt: skip
            pairs = [sampling.read(cases[d.case], d.centre, region) for d in drawn]
            image = torch.from_numpy(np.stack([p[0] for p in pairs]))
            label = torch.from_numpy(np.stack([p[1] for p in pairs]))
            if not chosen.augment:
                return Batch(*spatial.crop_centre(image, label, candidate.patch))
            generator = torch.Generator().manual_seed(chosen.seed * 1_000_003 + moment)
            matrices = spatial.draw(ranges, size, spacing, self.mirror, generator)
            image, label = spatial.apply(matrices, image, label, candidate.patch)
            actions = intensity.draw(changes, size, generator)
            return Batch(intensity.apply(actions, image, generator), label)

        return batch

    def _fit(self, choice: Choice, prepared: Mapping[str, list[PreparedCase]]) -> Outcome:
        import torch

        from delineate.engine.budget import Pace
        from delineate.engine.loop import Loop

        plan = self._build(choice.candidate)
        if self.chosen.compile:
            plan.predictor.compile()
        looked = prepared.get("validation", [])[:_LOOK]
        seconds = None if self.chosen.seconds is None else self._left() + self._spent()
        torch.set_grad_enabled(True)
        return Loop(
            plan,
            self._batches(choice.candidate, prepared["train"]),
            self.chosen.loop,
            self.out,
            fabric=self.fabric,
            seed=self.chosen.seed,
            pace=Pace(choice.steps, seconds),
            validate=(lambda net: self._look(net, choice.candidate, looked)) if looked else None,
            say=self.say,
            progress=self.progress,
            stop=self.stop,
        ).run()

    def _spent(self) -> float:
        """Seconds that an earlier part of this run spent in the loop, as its log says."""
        try:
            last = (self.out / "log.jsonl").read_text().splitlines()[-1]
            return float(json.loads(last)["seconds"])
        except (OSError, ValueError, IndexError, KeyError):
            return 0.0

    def _outline(self, network: nn.Module, candidate: Candidate, case: PreparedCase) -> Any:
        """Label indices of a prepared case, on its prepared grid."""
        import numpy as np
        import torch

        from delineate.inference.sliding_window import sliding_window

        probabilities = sliding_window(
            network,
            torch.from_numpy(np.array(case.image)),
            candidate.patch,
            outputs=self.cohort.schema.num_outputs,
            batch=1 if self.preparation.ndim == 3 else 8,
            slice_axis=self.preparation.slice_axis,
            neighbours=self.neighbours,
            device=self.fabric.device,
        )
        return probabilities.argmax(0).numpy().astype(np.uint8)

    def _look(
        self, network: nn.Module, candidate: Candidate, cases: list[PreparedCase]
    ) -> dict[str, float]:
        """Mean Dice over some validation cases; watched, never used to select weights."""
        import numpy as np

        found = []
        for case in cases:
            guess, truth = self._outline(network, candidate, case), case.label
            for index in range(1, self.cohort.schema.num_outputs):
                mask, wanted = guess == index, truth == index
                total = int(mask.sum()) + int(np.sum(wanted))
                if total:
                    found.append(2 * int(np.sum(mask & wanted)) / total)
        return {"val_dice": float(np.mean(found))} if found else {}

    # ------------------------------------------------------------------------------- the model

    def _document(
        self, choice: Choice, prepared: Mapping[str, list[PreparedCase]], outcome: Outcome
    ) -> dict[str, Any]:
        """What the model file says of itself."""
        from delineate.inference.postprocess import choose_rules

        cases = prepared.get("validation", [])
        network = outcome.predictor.to(self.fabric.device)
        guesses = [self._outline(network, choice.candidate, case) for case in cases]
        rules = choose_rules(guesses, [case.label for case in cases], self.cohort.schema)
        outcome.predictor.cpu()
        spacings = [case.original.spacing_mm for part in prepared.values() for case in part]
        return {
            "network": {
                "name": self.chosen.network,
                "config": settings.to_dict(self._network_config(choice.candidate)),
            },
            "channels": [channel.name for channel in self.preparation.channels],
            "schema": self.cohort.schema.to_dict(),
            "preparation": self.preparation.to_dict(),
            "input": {
                "patch": list(choice.candidate.patch),
                "slice_axis": self.preparation.slice_axis,
                "neighbours": self.neighbours,
                "mirror_axes": list(self.mirror),
            },
            "postprocess": rules,
            "config": settings.to_dict(self.chosen),
            "provenance": {
                **{k: self.record[k] for k in ("started", "seed", "versions", "hashes")},
                "steps": outcome.step,
                "training_cases": len(prepared["train"]),
                "training_range": {
                    "spacing_mm": {
                        "min": [min(column) for column in zip(*spacings, strict=True)],
                        "max": [max(column) for column in zip(*spacings, strict=True)],
                    }
                },
            },
            "card": {
                "name": self.record["name"],
                "intended_use": "Research use only; not a medical device.",
                "trained_on": f"{len(prepared['train'])} cases, layout {self.cohort.layout}",
            },
        }

    def _score(self, split: splits.Split) -> dict[str, Any]:
        """Predict and evaluate the held-out cases, as any user would."""
        from delineate.tasks.evaluate import evaluate
        from delineate.tasks.predict import predict

        ids = split.parts.get("test") or split.parts.get("validation")
        if not ids:
            return {}
        folder = self.out / "validation"
        masks = folder / "predictions"
        predict(
            self.out / "model.safetensors", self.cohort.root, masks, layout=self.cohort.layout,
            only=ids, overwrite=True, device=self.chosen.device,
            say=self.say, progress=self.progress,
        )  # fmt: skip
        summary: dict[str, Any] = evaluate(
            masks, self.cohort.root, folder, layout=self.cohort.layout,
            say=self.say, progress=self.progress,
        )  # fmt: skip
        return summary

    def _finish(self, outcome: Outcome, scores: Mapping[str, Any]) -> None:
        from delineate.tasks.report import report

        self.record["status"] = outcome.status
        self.record["steps"] = outcome.step
        self.record["finished"] = run.now()
        self.record["seconds"] = round(time.monotonic() - self.begun, 1)
        self.record["hashes"]["model"] = model_file.load(self.out / "model.safetensors").hash
        run.write_json(self.out / "run.json", self.record)
        page = report(self.out)
        self.say(f"model: {self.out / 'model.safetensors'}")
        self.say(f"report: {page}")


def _precision(wanted: str, device: str) -> str:
    """bf16 where the device gains by it; never on a CPU unless asked for."""
    import torch

    if wanted != "auto":
        return wanted
    return "bf16-mixed" if device == "cuda" and torch.cuda.is_bf16_supported() else "32-true"


def _tensors(network: nn.Module) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}
