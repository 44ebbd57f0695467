"""From a budget in seconds to a schedule: measure, choose, keep to it.

Nothing is assumed about the machine: the step time of every candidate is measured on the spot,
from the smallest up, and the largest candidate that still sees enough patches is taken.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from delineate.core.errors import ConfigError, ResourceError

#: A wider network, or a larger patch, is worth its price only if the network still sees so many
#: patches for each channel of its width. Measured on hippocampi (docs/LOG.md): 16 channels come
#: close to their plateau with about 4,000 patches.
ENOUGH_PATCHES_PER_CHANNEL = 250
#: ... in at least so many optimiser steps.
ENOUGH_STEPS = 900
#: ... or it costs hardly more, as where matrix units compute 16 channels as quickly as 8.
HARDLY_MORE = 1.25
#: The first candidate is taken, instead of one below it, if so many of its steps fit.
MODEST_STEPS = 100
#: Steps that take so many times what they should were held up by other programs: they are timed
#: again.
HELD_UP = 4.0
#: Fewer steps are not worth starting with.
LEAST_STEPS = 10
#: ... nor is a last fit on all subjects with fewer.
LEAST_LAST_STEPS = 20


@dataclass(frozen=True)
class Candidate:
    """One way to spend the budget.

    Args:
        width: Channels of the network at full resolution.
        patch: Spatial size of the patch.
        batch: Patches a step.
    """

    width: int
    patch: tuple[int, ...]
    batch: int

    @property
    def work(self) -> int:
        """What a step costs at least, up to a factor: voxels times channels."""
        return self.width * self.batch * math.prod(self.patch)


@dataclass(frozen=True)
class Choice:
    """The candidate taken, and what was measured on the way.

    Args:
        candidate: What to train.
        seconds_per_step: As measured.
        steps: How many fit.
        tried: Every candidate measured, with its seconds a step.
        last: Steps of a last fit on all subjects, which follow.
    """

    candidate: Candidate
    seconds_per_step: float
    steps: int
    tried: tuple[tuple[Candidate, float], ...]
    last: int = 0


def choose(
    candidates: Sequence[Candidate],
    seconds: Callable[[], float],
    measure: Callable[[Candidate], float],
    *,
    smaller: Sequence[Candidate] = (),
    spare: Callable[[], float] = lambda: math.inf,
    fitting: Callable[[Candidate], Candidate] = lambda candidate: candidate,
) -> Choice:
    """Take the most ambitious candidate that still gets enough patches and steps.

    Nor is the narrowest network taken where the next wider costs hardly more.

    Args:
        candidates: From modest to ambitious.
        seconds: What is left for training now; measuring uses it up.
        measure: Seconds a step of a candidate.
        smaller: What to take where hardly a step of the first candidate fits, from small to large.
            The smallest is always measured, to tell what measuring the others will take.
        spare: What is left for measuring now; a candidate that would take longer ends the search.
        fitting: The candidate with a patch that its network can take.

    Raises:
        ConfigError: Not even ten steps of the smallest candidate fit.
        ResourceError: There is no memory even for the smallest; larger ones just end the search.
    """
    if not candidates:
        raise ConfigError("expected at least one candidate to measure, got none")
    first, *others = [*smaller, *candidates]
    tried = [(first, measure(first))]
    best, modest = tried[0], [*smaller, candidates[0]]
    if seconds() < LEAST_STEPS * best[1]:
        raise ConfigError(
            f"expected a budget for at least {LEAST_STEPS} steps of {best[1]:.1f} s, "
            f"got {max(0.0, seconds()):.0f} s for training",
            fix=f"give {math.ceil(2 * LEAST_STEPS * best[1] - seconds())}s more, or --steps",
            code="budget-too-small",
        )

    def expected(candidate: Candidate) -> float:
        return tried[-1][1] * candidate.work / tried[-1][0].work

    if seconds() >= 2 * MODEST_STEPS * expected(candidates[0]):
        others = [other for other in others if other not in smaller]
    for candidate in others:
        if 2 * expected(candidate) > spare():
            break
        try:
            cost = measure(candidate)
            if cost > HELD_UP * expected(candidate) and 2 * expected(candidate) <= spare():
                cost = min(cost, measure(candidate))
        except ResourceError:
            break  # larger ones need more memory still
        tried.append((candidate, cost))
        steps = seconds() / cost
        if candidate in modest:
            if steps < MODEST_STEPS:
                break
            best = (candidate, cost)
            continue
        enough = ENOUGH_PATCHES_PER_CHANNEL * candidate.width
        wider = candidate.width > best[0].width or candidate.patch != best[0].patch
        if wider and (steps * candidate.batch < enough or steps < ENOUGH_STEPS):
            break
        rate, best_rate = candidate.batch / cost, best[0].batch / best[1]
        if wider or (rate > 1.1 * best_rate and steps >= ENOUGH_STEPS):
            best = (candidate, cost)
    widths = sorted({candidate.width for candidate in candidates})
    if best[0].width == widths[0] < widths[-1]:
        wide = fitting(replace(best[0], width=widths[1]))
        if wide not in dict(tried) and 2 * expected(wide) <= spare():
            with contextlib.suppress(ResourceError):
                tried.append((wide, measure(wide)))
        cost = dict(tried).get(wide, math.inf)
        if cost < HARDLY_MORE * best[1]:
            best = (wide, cost)
    return Choice(*best, max(LEAST_STEPS, int(seconds() / best[1])), tuple(tried))


def last_steps(steps: int, share: float) -> int:
    """Steps of a last fit on all subjects among so many in all; 0 where there would be too few."""
    last = round(share * steps)
    return last if last >= LEAST_LAST_STEPS else 0


class Pace:
    """Keeps the schedule on time: progress grows so that it reaches 1 when the time is up.

    With a fixed number of steps, progress is even in steps. With a deadline it is even in time, and
    the number of steps is estimated anew after each. ``state`` lets a resumed run go on.
    """

    def __init__(self, steps: int, seconds: float | None) -> None:
        self.steps, self.seconds = steps, seconds
        self.step, self.progress = 0, 0.0
        self.spent = 0.0
        self._last: float | None = None
        self._timed, self._seconds = 0, 0.0

    @property
    def done(self) -> bool:
        """True when the schedule has run out."""
        return self.step >= self.steps

    def start(self) -> None:
        """The clock runs from here; called again after a resume."""
        self._last = time.monotonic()
        self._timed = 0
        self._seconds = 0.0

    def tick(self) -> None:
        """One step is over, together with whatever was done beside it."""
        now = time.monotonic()
        elapsed = now - (self._last if self._last is not None else now)
        first, self._last = self._timed == 0, now
        self.spent += elapsed
        self.step += 1
        self._timed += 1
        if self.seconds is None:
            self.progress += (1 - self.progress) / max(1, self.steps - self.step + 1)
            return
        left = max(0.0, self.seconds - self.spent)
        if left + elapsed > 0:
            self.progress += (1 - self.progress) * elapsed / (left + elapsed)
        if not first:  # the first step also compiles, and fills caches
            self._seconds += elapsed
            if self._seconds > 0:
                self.steps = self.step + int(left * (self._timed - 1) / self._seconds)

    def state(self) -> dict[str, float | int]:
        """What a checkpoint keeps."""
        return {
            "steps": self.steps,
            "step": self.step,
            "progress": self.progress,
            "spent": self.spent,
        }

    def load(self, state: dict[str, float | int]) -> None:
        """Go on from a checkpoint."""
        self.steps, self.step = int(state["steps"]), int(state["step"])
        self.progress, self.spent = float(state["progress"]), float(state["spent"])
