"""The only training loop.

A method owns its step; budget, precision, checkpoints, averaging, guards, the log and the progress
bar are here.
"""

from __future__ import annotations

import copy
import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from delineate.core.errors import ConfigError, ResourceError, TrainingError
from delineate.core.progress import QUIET, Progress, Say, silent
from delineate.engine import checkpoint
from delineate.engine.budget import Pace
from delineate.engine.log import Log, trim
from delineate.engine.prefetch import Batches, made_ahead, on_device
from delineate.engine.settings import Settings
from delineate.engine.update import EngineUpdate, NotFiniteError, average
from delineate.methods._plan import Part, Plan, Stage

#: Steps between the data of one attempt and those of the next.
_APART = 10_000_000
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
    ) -> None:
        total = sum(stage.share for stage in plan.stages)
        if not math.isclose(total, 1.0):
            raise ConfigError(f"expected stage shares that add up to 1, got {total}")
        self.plan, self.batches, self.settings, self.folder = plan, batches, settings, folder
        self.next_batch = batches  # while running, the same made ahead
        self.fabric, self.seed, self.pace = fabric, seed, pace
        self.validate, self.say, self.bars, self.stop = validate, say, progress, stop
        for stage in plan.stages:
            for module in stage.modules.values():
                module.to(fabric.device)
        plan.predictor.to(fabric.device)
        self.averaged = copy.deepcopy(plan.predictor).eval().requires_grad_(False)
        self.rate, self.split = 1.0, 1
        self.skipped = self.rolled = 0
        self.turn = 0  # stage that has begun; those before have ended
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
        saved = time.monotonic()
        # Checkpoint at once: a roll-back always has somewhere to go.
        if self.pace.step == 0:
            self._save()
        validated = self._validations_due()
        status, figures = "finished", dict[str, float]()
        # the bar shows progress, which is even in time even where the number of steps is revised
        device, accumulate = self.fabric.device, self.settings.accumulate
        with (
            made_ahead(self.batches, accumulate, device) as self.next_batch,
            Log(self.folder, self.pace) as log,
            self.bars.task(1, "training") as bar,
        ):
            bar.advance(self.pace.progress)
            while not self.pace.done:
                if self.stop():
                    status = "interrupted"
                    break
                before = self.pace.progress
                stage = self.plan.stages[self.turn]
                numbers = self._step()
                self.pace.tick()
                numbers.update(self._turn())
                figures |= {name: numbers[name] for name in ("loss",) if name in numbers}
                bar.advance(self.pace.progress - before, **figures)
                if (
                    self.validate is not None
                    and self._validations_due() > validated
                    and not self.pace.done
                ):
                    validated = self._validations_due()
                    numbers.update(self.validate(self.averaged))
                    figures |= _figures(numbers)
                    bar.advance(0, **figures)
                log.write(stage, numbers)
                due = time.monotonic() - saved > self.settings.checkpoint_seconds
                if due and self.skipped == 0:  # a roll-back must land before the trouble
                    self._save()
                    saved = time.monotonic()
        if status == "interrupted" and any(s.end for s in self.plan.stages[self.turn :]):
            self._note("stopped early: what a stage finds out at its end is not in the model")
        self._save()
        predictor = self.averaged if self.settings.ema > 0 else self.plan.predictor
        keeps = self._keeps()
        return Outcome(
            predictor.cpu().eval(), self.pace.step, self.pace.spent,
            1.0 if self.pace.done else self.pace.progress, status, tuple(self.events),
            keeps,
        )  # fmt: skip

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
        return logged

    def _end(self, stage: Stage) -> Mapping[str, float]:
        """What a stage does at its end; see ``methods._plan``."""
        if stage.end is None:
            return {}
        logged = stage.end(self.say)
        self.averaged.load_state_dict(self.plan.predictor.state_dict())
        return logged

    def _step(self) -> dict[str, float]:
        """One optimiser step, guarded against NaN and lack of memory."""
        stage, progress = self.plan.stages[self.turn], self._due()[1]
        self._schedule(stage, progress)
        for module in stage.modules.values():
            module.train()
        update = EngineUpdate(
            self.fabric, self.averaged, self.settings.accumulate * self.split, self.settings.clip
        )
        update.progress = progress
        before = {name: copy.deepcopy(b) for name, b in self._buffers(stage)}
        try:
            values = self._micro_steps(stage, update)
        except NotFiniteError as error:
            self._restore_buffers(stage, before)
            return self._skip(stage, error)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_memory(error):
                raise
            self._restore_buffers(stage, before)
            return self._halve(stage, error)
        self.skipped = 0
        self._average()
        norms = list(update.norms.values()) or [torch.zeros(())]
        values["gradient_norm"] = torch.stack(norms).amax()
        # all at once: a GPU is waited for
        together = torch.stack([self.fabric.to_device(value.float()) for value in values.values()])
        return dict(zip(values, together.tolist(), strict=True))

    def _micro_steps(self, stage: Stage, update: EngineUpdate) -> dict[str, Tensor]:
        """The micro-batches of one step; randomness depends on (seed, step, micro) alone."""
        sums: dict[str, Tensor] = {}
        count = self.settings.accumulate * self.split
        for micro in range(count):
            key = (self.seed * 1_000_003 + self.pace.step) * 64 + micro
            torch.manual_seed(key * 1009 % 2**63)
            # after a roll-back other data are drawn, or the same trouble would come again
            batch = self.next_batch(self.pace.step + self.rolled * _APART, micro, self.split)
            update.micro = micro
            with self.fabric.autocast():
                losses = stage.step(on_device(batch, self.fabric), update)
            for name, value in losses.items():
                part = value.detach().float() / count
                sums[name] = sums[name] + part if name in sums else part
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

    def _average(self) -> None:
        """Exponential moving average of the predictor, quicker at the start."""
        decay = min(self.settings.ema, (1 + self.pace.step) / (10 + self.pace.step))
        average(self.averaged, self.plan.predictor, decay)

    @staticmethod
    def _buffers(stage: Stage) -> Iterator[tuple[str, Tensor]]:
        """Counters and running statistics, which a failed step must not change."""
        for key, module in stage.modules.items():
            for name, buffer in module.named_buffers():
                yield f"{key}.{name}", buffer

    def _restore_buffers(self, stage: Stage, before: Mapping[str, Tensor]) -> None:
        for name, buffer in self._buffers(stage):
            buffer.copy_(before[name])
        for optimiser in stage.optimisers.values():
            optimiser.zero_grad(set_to_none=True)

    def _skip(self, stage: Stage, error: Exception) -> dict[str, float]:
        """Leave a non-finite step out; after several in a row go back and slow down."""
        self.skipped += 1
        self._note(f"step {self.pace.step} of {stage.name} left out: {error}")
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
        return {"loss": math.nan}

    def _halve(self, stage: Stage, error: Exception) -> dict[str, float]:
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
        return {"loss": math.nan}

    def _note(self, text: str) -> None:
        self.events.append(text)
        self.say(text)

    def _state(self) -> dict[str, Any]:
        return {
            "modules": {
                stage.name: {name: module.state_dict() for name, module in stage.modules.items()}
                for stage in self.plan.stages
            },
            "optimisers": {
                stage.name: {name: o.state_dict() for name, o in stage.optimisers.items()}
                for stage in self.plan.stages
            },
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
        for stage in self.plan.stages:
            for name, module in stage.modules.items():
                module.load_state_dict(state["modules"][stage.name][name])
            for name, optimiser in stage.optimisers.items():
                optimiser.load_state_dict(state["optimisers"][stage.name][name])
        self.averaged.load_state_dict(state["averaged"])
        self.pace.load(state["pace"])
        self.rate, self.split = float(state["rate"]), int(state["split"])
        self.turn = int(state.get("turn", self._due()[0]))
        self.skipped, self.rolled = int(state["skipped"]), int(state["rolled"])
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
