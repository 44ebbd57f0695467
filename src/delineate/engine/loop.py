"""The only training loop.

A method owns its step; budget, precision, checkpoints, averaging, guards, the log and the progress
bar are here.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from delineate.core.errors import ConfigError, ResourceError, TrainingError
from delineate.core.progress import QUIET, Bar, Progress, Say, silent
from delineate.core.threads import cores, pool
from delineate.engine import checkpoint
from delineate.engine.averaging import Average, Buffers
from delineate.engine.budget import Pace
from delineate.engine.log import Log, trim
from delineate.engine.plan_state import give, state_of
from delineate.engine.prefetch import Batches, Prefetch
from delineate.engine.settings import Settings
from delineate.engine.unread import Step, read
from delineate.engine.update import EngineUpdate, NotFiniteError, fuse
from delineate.methods._plan import Part, Plan, Stage

#: Steps between the data of one attempt and those of the next.
_APART = 10_000_000
#: Steps after which a GPU is asked what has come of them; asked of each, it would wait every time.
_READ_EVERY = 16
#: Batches made ahead of a GPU at most. On a CPU that would take cores from the step itself.
_AHEAD = 4
Validate = Callable[[nn.Module], Mapping[str, float]]


@dataclass(frozen=True)
class Outcome:
    """How training ended.

    Args:
        predictor: Averaged weights, in evaluation mode, on the CPU.
        step: Optimiser steps done.
        seconds: Spent in the loop, over all resumptions.
        share: Of the schedule, 0 to 1.
        status: ``finished`` or ``interrupted``.
        events: What did not go as planned, in words.
        keeps: The plan's, with the weights of the last step, in evaluation mode, on the CPU.
    """

    predictor: nn.Module
    step: int
    seconds: float
    share: float
    status: str
    events: tuple[str, ...]
    keeps: Mapping[str, Part] = field(default_factory=dict)


class Loop:
    """One run of a plan; ``run`` does it all."""

    def __init__(
        self,
        plan: Plan,
        batches: Batches,
        settings: Settings,
        folder: Path,
        *,
        fabric: Fabric,
        seed: int,
        pace: Pace,
        validate: Validate | None = None,
        say: Say = silent,
        progress: Progress = QUIET,
        stop: Callable[[], bool] = lambda: False,
        read_every: int | None = None,
        ahead: int | None = None,
    ) -> None:
        """What is left open follows from the device.

        Args:
            plan: What to do.
            batches: What to learn from.
            settings: Of the loop.
            folder: Of the run, for checkpoints and the log.
            fabric: Device and precision.
            seed: Of all randomness in the steps.
            pace: How much is done, and when it ends.
            validate: Figures of averaged weights on validation cases.
            say: Told in words of what did not go as planned.
            progress: Shows a bar.
            stop: Whether somebody wants an end after this step.
            read_every: Steps after which the device is asked what has come of them. If more than
                one, the device itself leaves out those that are not finite.
            ahead: Batches made ahead, each in a thread.
        """
        total = sum(stage.share for stage in plan.stages)
        if not math.isclose(total, 1.0):
            raise ConfigError(f"expected stage shares that add up to 1, got {total}")
        self.plan, self.batches, self.settings, self.folder = plan, batches, settings, folder
        self.skipped = self.rolled = 0
        self.turn = 0  # stage that has begun; those before have ended
        self.fabric, self.seed, self.pace = fabric, seed, pace
        self.validate, self.say, self.bars, self.stop = validate, say, progress, stop
        for stage in plan.stages:
            for module in stage.modules.values():
                module.to(fabric.device)
        plan.predictor.to(fabric.device)
        self.average = Average(plan.predictor)
        gpu = fabric.device.type == "cuda"
        self.read_every = read_every or (_READ_EVERY if gpu else 1)
        self.ahead = ahead if ahead is not None else min(_AHEAD, cores()) if gpu else 0
        if self.read_every > 1:
            for stage in plan.stages:
                for optimiser in stage.optimisers.values():
                    fuse(optimiser)
        self.unread: list[Step] = []
        self.buffers = Buffers(plan.stages[0].modules.values())
        self.rate, self.split = 1.0, 1
        self.events: list[str] = []
        self.peaks = {
            (stage.name, name): [group["lr"] for group in optimiser.param_groups]
            for stage in plan.stages
            for name, optimiser in stage.optimisers.items()
        }

    def run(self) -> Outcome:
        """Train until the schedule ends or somebody stops it.

        Raises:
            TrainingError: The loss stays non-finite after several roll-backs.
            ResourceError: Out of memory even with the smallest batch.
        """
        self._resume()
        self.pace.start()
        self.saved = time.monotonic()
        # Checkpoint at once: a roll-back always has somewhere to go.
        if self.pace.step == 0:
            self._save()
        # the bar shows progress, which is even in time even where the number of steps is revised
        with (
            ExitStack() as threads,
            Log(self.folder, self.pace) as log,
            self.bars.task(1, "training") as bar,
        ):
            if self.ahead:
                self.batches = Prefetch(
                    self.batches, threads.enter_context(pool(self.ahead)), self.ahead,
                    self.settings.accumulate, pinned=self.fabric.device.type == "cuda",
                )  # fmt: skip
            bar.advance(self.pace.progress)
            status = self._steps(log, bar)
        if status == "interrupted" and any(s.end for s in self.plan.stages[self.turn :]):
            self._note("stopped early: what a stage finds out at its end is not in the model")
        self._save()
        predictor = self.average.module if self.settings.ema > 0 else self.plan.predictor
        keeps = self._keeps()
        return Outcome(
            predictor.cpu().eval(), self.pace.step, self.pace.spent,
            1.0 if self.pace.done else self.pace.progress, status, tuple(self.events),
            keeps,
        )  # fmt: skip

    def _steps(self, log: Log, bar: Bar) -> str:
        """Steps until the schedule ends or somebody stops it; which of both it was."""
        validated, figures = self._validations_due(), dict[str, float]()
        while not self.pace.done:
            if self.stop():
                for head, numbers in self._read(log):
                    log.write(head, numbers)
                return "interrupted"
            before, stage = self.pace.progress, self.plan.stages[self.turn]
            self.unread.append(self._step())
            self.pace.tick()
            self.unread[-1].head = log.head(stage)
            if not self._reads_now(validated):
                bar.advance(self.pace.progress - before, **figures)
                continue
            lines = self._read(log)
            numbers = lines[-1][1]
            numbers.update(self._turn())
            figures |= {name: numbers[name] for name in ("loss",) if name in numbers}
            bar.advance(self.pace.progress - before, **figures)
            if self._validates_now(validated) and self.validate is not None:
                validated = self._validations_due()
                numbers.update(self.validate(self.averaged))
                figures |= _figures(numbers)
                bar.advance(0, **figures)
            for head, line in lines:
                log.write(head, line)
            # a roll-back must land before the trouble
            if self._saves_now() and self.skipped == 0:
                self._save()
                self.saved = time.monotonic()
        return "finished"

    def _reads_now(self, validated: int) -> bool:
        """Whether what steps left is read: now and then, and before anything builds on it."""
        return (
            len(self.unread) >= self.read_every
            or self.pace.done
            or self._due()[0] != self.turn
            or self._validates_now(validated)
            or self._saves_now()
        )

    def _validates_now(self, validated: int) -> bool:
        due = self._validations_due() > validated
        return self.validate is not None and due and not self.pace.done

    def _saves_now(self) -> bool:
        return time.monotonic() - self.saved > self.settings.checkpoint_seconds

    def _read(self, log: Log) -> list[tuple[Mapping[str, Any], dict[str, float]]]:
        """Lines of the log of the steps that are not read yet; goes back after too many faults."""
        steps, self.unread = self.unread, []
        lines = []
        for step, (numbers, left_out) in zip(steps, read(steps), strict=True):
            lines.append((step.head, {"loss": math.nan} if left_out else numbers))
            if not left_out:
                self.skipped = 0
            elif self._skip(step):
                self.pace.tick()
                return [(log.head(self.plan.stages[self.turn]), {"loss": math.nan})]
        return lines

    @property
    def averaged(self) -> nn.Module:
        """The predictor with its averaged weights."""
        return self.average.module

    def _follow(self) -> None:
        """Find weights and buffers anew, where they may have been exchanged."""
        self.average.follow(self.plan.predictor)
        stage = self.plan.stages[min(self.turn, len(self.plan.stages) - 1)]
        self.buffers = Buffers(stage.modules.values())

    def _keeps(self) -> dict[str, Part]:
        """The parts that travel with the model; never one that would spoil the file."""
        keeps = {}
        for name, part in self.plan.keeps.items():
            if checkpoint.all_finite(part.module.cpu().eval().state_dict()):
                keeps[name] = part
            else:
                self._note(f"{name}: weights not finite, it is not in the model")
        return keeps

    def _validations_due(self) -> int:
        """Looks at the validation cases that are due by now, each amid its share of the time."""
        return int(self.pace.progress * self.settings.validations + 0.5)

    def _due(self) -> tuple[int, float]:
        """Index of the stage at the present progress, and the progress within it."""
        begin = 0.0
        for index, stage in enumerate(self.plan.stages):
            if self.pace.progress < begin + stage.share or stage is self.plan.stages[-1]:
                return index, min(1.0, (self.pace.progress - begin) / stage.share)
            begin += stage.share
        raise ConfigError("expected a plan with at least one stage, got none")

    def _turn(self) -> dict[str, float]:
        """End the stages that are over, and begin the one that is due."""
        stages, logged = self.plan.stages, dict[str, float]()
        due = len(stages) if self.pace.done else self._due()[0]
        while self.turn < due:
            logged.update(self._end(stages[self.turn]))
            self.turn += 1
            if self.turn < len(stages) and stages[self.turn].end is not None:
                self.plan.predictor.load_state_dict(self.averaged.state_dict())
            self._follow()
        return logged

    def _end(self, stage: Stage) -> Mapping[str, float]:
        """What a stage does at its end; see ``methods._plan``."""
        if stage.end is None:
            return {}
        logged = stage.end(self.say)
        self.averaged.load_state_dict(self.plan.predictor.state_dict())
        return logged

    def _step(self) -> Step:
        """One optimiser step, guarded against NaN and lack of memory."""
        stage, progress = self.plan.stages[self.turn], self._due()[1]
        self._schedule(stage, progress)
        for module in stage.modules.values():
            module.train()
        update = EngineUpdate(
            self.fabric, self.averaged, self.settings.accumulate * self.split, self.settings.clip,
            progress, waits=self.read_every == 1,
        )  # fmt: skip
        self.buffers.save()
        try:
            numbers = self._micro_steps(stage, update)
        except NotFiniteError as error:
            self._undo(stage)
            return Step({"loss": math.nan}, torch.tensor(True), str(error))
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_memory(error):
                raise
            self._undo(stage)
            self._halve(stage, error)
            return Step({"loss": math.nan})
        if update.fault is not None:
            self.buffers.restore(update.fault)
        # quicker at the start; after a step that the device left out, towards the same weights
        decay = min(self.settings.ema, (1 + self.pace.step) / (10 + self.pace.step))
        self.average.update(1 - decay)
        norms = [norm.detach().float() for norm in update.norms.values()]
        numbers["gradient_norm"] = torch.stack(norms).amax() if norms else 0.0
        return Step(numbers, update.fault)

    def _micro_steps(self, stage: Stage, update: EngineUpdate) -> dict[str, float | Tensor]:
        """The micro-batches of one step; randomness depends on (seed, step, micro) alone."""
        sums: dict[str, float | Tensor] = {}
        count = self.settings.accumulate * self.split
        for micro in range(count):
            key = (self.seed * 1_000_003 + self.pace.step) * 64 + micro
            torch.manual_seed(key * 1009 % 2**63)
            # after a roll-back other data are drawn, or the same trouble would come again
            batch = self.batches(self.pace.step + self.rolled * _APART, micro, self.split)
            tensors: dict[str, Any] = {
                name: self.fabric.to_device(part)
                for name, part in vars(batch).items()
                if isinstance(part, Tensor)
            }
            batch = replace(batch, **tensors)
            update.micro = micro
            with self.fabric.autocast():
                losses = stage.step(batch, update)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value.detach().float() / count
        return sums

    def _schedule(self, stage: Stage, progress: float) -> None:
        """Linear warm-up, then polynomial decay, of every optimiser's peak rate."""
        warm = min(1.0, (progress + 1e-3) / max(self.settings.warm_up, 1e-9))
        factor = self.rate * warm * (1 - progress) ** self.settings.power
        for name, optimiser in stage.optimisers.items():
            for group, peak in zip(
                optimiser.param_groups, self.peaks[stage.name, name], strict=True
            ):
                group["lr"] = peak * max(factor, 1e-4)

    def _undo(self, stage: Stage) -> None:
        """Nothing stays of a step that failed."""
        self.buffers.restore()
        for optimiser in stage.optimisers.values():
            optimiser.zero_grad(set_to_none=True)

    def _skip(self, step: Step) -> bool:
        """Count a step that was left out; after several in a row go back and slow down, if true."""
        self.skipped += 1
        number, name = step.head["step"] - 1, step.head["stage"]
        self._note(f"step {number} of {name} left out: {step.reason}")
        if self.skipped > self.settings.skip_limit:
            self.rolled += 1
            if self.rolled > self.settings.roll_backs:
                raise TrainingError(
                    f"expected a finite loss, got {self.skipped} non-finite steps in a row after "
                    f"{self.settings.roll_backs} roll-backs",
                    where=self.folder,
                    fix="audit the data for extreme values, or lower the learning rate",
                    code="not-finite",
                )
            reached, spent, rate, rolled = self.pace.steps, self.pace.spent, self.rate, self.rolled
            self._resume()
            # the clock does not run backwards, and neither does the count of roll-backs
            self.pace.steps, self.pace.spent = reached, spent
            self.rate, self.rolled, self.skipped = rate / 2, rolled, 0
            trim(self.folder, self.pace.step)
            self._note(f"rolled back to step {self.pace.step} with half the learning rate")
            return True
        return False

    def _halve(self, stage: Stage, error: Exception) -> None:
        """Out of memory: once, go on with half the batch and twice the micro-batches."""
        if self.split > 1:
            raise ResourceError(
                f"out of memory even with half the batch: {error}",
                fix="choose a smaller --width or --patch, or a machine with more memory",
                code="out-of-memory",
            ) from error
        self.split = 2
        gc.collect()
        if self.fabric.device.type == "cuda":
            torch.cuda.empty_cache()
        self._note(f"out of memory in {stage.name}: going on with half the batch, twice as often")

    def _note(self, text: str) -> None:
        self.events.append(text)
        self.say(text)

    def _state(self) -> dict[str, Any]:
        return {
            **state_of(self.plan),
            "averaged": dict(self.averaged.state_dict()),
            "pace": self.pace.state(),
            "seed": self.seed,
            "rate": self.rate,
            "split": self.split,
            "turn": self.turn,
            "skipped": self.skipped,
            "rolled": self.rolled,
        }

    def _save(self) -> None:
        """Write a checkpoint, unless its weights are damaged."""
        state = self._state()
        if checkpoint.all_finite(state["modules"]) and checkpoint.all_finite(state["averaged"]):
            checkpoint.write(self.folder / "checkpoints", self.pace.step, state)
        else:
            self._note(f"step {self.pace.step}: weights not finite, no checkpoint written")

    def _resume(self) -> None:
        """Go on from the newest whole checkpoint, if there is one."""
        state = checkpoint.read_newest(self.folder / "checkpoints", self.say)
        if state is None:
            return
        if state["seed"] != self.seed:
            raise ConfigError(
                f"expected the seed of the run, {state['seed']}, got {self.seed}",
                where=self.folder,
                fix=f"use --seed {state['seed']}, or another folder",
            )
        give(self.plan, state)
        self.averaged.load_state_dict(state["averaged"])
        self.pace.load(state["pace"])
        self.rate, self.split = float(state["rate"]), int(state["split"])
        self.turn = int(state.get("turn", self._due()[0]))
        self.skipped, self.rolled = int(state["skipped"]), int(state["rolled"])
        self._follow()
        if self.pace.step:
            share = 100 * (1.0 if self.pace.done else self.pace.progress)
            self.say(
                f"going on from step {self.pace.step} of {self.pace.steps}: {share:.0f} % of the "
                "plan is trained"
            )


def _figures(numbers: Mapping[str, float]) -> dict[str, float]:
    """What the bar shows of a look at the validation cases: the target's own figure."""
    return {
        name.removeprefix("val_").replace("_", " "): value
        for name, value in numbers.items()
        if name.startswith("val_") and name != "val_loss"
    }


def is_memory(error: BaseException) -> bool:
    """True if an error says that memory ran out (CPU allocators raise a plain RuntimeError)."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        "not enough memory" in text or "out of memory" in text or "alloc_cpu" in text
    )
