"""What to train in the time there is: candidates are measured within a tenth of the budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from delineate.core import threads
from delineate.core.errors import ConfigError
from delineate.core.progress import Progress
from delineate.data.cache import PreparedCase
from delineate.engine.allowance import (
    MEASURING,
    REPORT_SECONDS,
    VALIDATIONS,
    Allotment,
    Clock,
    Costs,
    allot,
    share_validations,
)
from delineate.engine.budget import Candidate, Choice, choose, last_steps
from delineate.targets import _sizes
from delineate.training.trial import Bench

#: Seconds that must be left for measuring before a network is compiled on trial.
_COMPILE_SECONDS = 60.0
_AGAIN = (
    "give the same command again: prepared cases are kept, and the time for them is saved; "
    "or a longer --budget, or --steps"
)


@dataclass
class Chooser:
    """Measures candidates for a run and shares out its time.

    Args:
        bench: Builds and times candidates.
        clock: Of the run.
        costs: Of a case; the network's part is measured with each candidate.
        cases: Prepared, to train on.
        validation: Cases of the validation part.
        held_out: Cases that will be scored.
        measured: Seconds that candidates have taken so far.
        last_fit: Share of training that a last fit on all subjects gets.
    """

    bench: Bench
    clock: Clock
    costs: Costs
    cases: Sequence[PreparedCase]
    validation: int
    held_out: int
    measured: float = 0.0
    last_fit: float = 0.0

    def choose(self, progress: Progress) -> tuple[Choice, bool]:
        """What to train, and whether to compile it.

        Raises:
            ConfigError: The budget is too small for any candidate.
        """
        options = self.bench.candidates(self.cases)
        network: dict[Candidate, float] = {}
        with progress.task(self.spare if self.clock.budget else None, "measuring") as bar:

            def measure(candidate: Candidate) -> float:
                before = self.clock.spent
                cost = self.bench.measure(candidate, self.cases, limit=self.spare)
                network[candidate] = self.bench.network_seconds(candidate, self.cases)
                self.costs = replace(self.costs, network=network[candidate])
                self.measured += self.clock.spent - before
                bar.advance(self.clock.spent - before)
                return cost

            steps = self.bench.chosen.steps
            if steps is None:
                if self.bench.device.type != "cpu":
                    chosen = self.bench.chosen
                    options = _sizes.accelerated(options, width=chosen.width, batch=chosen.batch)
                smaller = self.bench.smaller(options[0], self.cases)
                try:
                    choice = choose(
                        options, lambda: self.shares().training, measure,
                        smaller=smaller, spare=lambda: self.spare, fitting=self.bench.fitting,
                    )  # fmt: skip
                except ConfigError as error:
                    if error.code == "budget-too-small":  # slower than the trial let expect
                        error.fix = _AGAIN
                    raise
            else:
                taken = self._sized(options)
                choice = Choice(taken, measure(taken), steps, ())
            self.costs = replace(self.costs, network=network[choice.candidate])
            return self._with_last_fit(choice), self._gains(choice)

    @property
    def spare(self) -> float:
        """Seconds left for measuring."""
        budget = self.clock.budget
        return math.inf if budget is None else MEASURING * budget - self.measured

    def shares(self, choice: Choice | None = None) -> Allotment:
        """What each phase may spend, were training to begin now.

        Args:
            choice: What is trained; only wanted where the steps are given and not the time.
        """
        validations, budget = self.bench.chosen.loop.validations, self.clock.budget
        if budget is not None:
            seconds = self.clock.left - REPORT_SECONDS
            shares = allot(
                seconds, self.costs, validation=self.validation, held_out=self.held_out,
                validations=validations,
            )  # fmt: skip
            last = self.last_fit * shares.training if choice is not None and choice.last else 0.0
            return replace(shares, training=shares.training - last, last_fit=last)
        validation, held_out = (
            self.validation * self.costs.network,
            self.held_out * self.costs.whole,
        )
        if choice is None:
            return Allotment(0.0, 0, 0, validation, held_out)
        # Counted in steps, not measured: the log of a repeated run shows the same looks.
        case = self.bench.windows(choice.candidate, self.cases) / (3 * choice.candidate.batch)
        often, n_cases = share_validations(
            VALIDATIONS * choice.steps, case, self.validation, validations
        )
        training = choice.steps * choice.seconds_per_step
        last = choice.last * choice.seconds_per_step
        return Allotment(training, max(min(1, n_cases), often), n_cases, validation, held_out, last)

    def _with_last_fit(self, choice: Choice) -> Choice:
        """The last of the steps for a last fit, unless cases would take most of its time."""
        last = last_steps(choice.steps, self.last_fit)
        beside = self.held_out * self.costs.reading + 2 * self.costs.network
        if self.clock.budget is not None and 2 * beside > last * choice.seconds_per_step:
            last = 0
        return replace(choice, steps=choice.steps - last, last=last)

    def _sized(self, options: Sequence[Candidate]) -> Candidate:
        cores = self.bench.chosen.threads or threads.cores()
        on_cpu = self.bench.device.type == "cpu"
        return _sizes.sized(options, self.bench.gmac, cores if on_cpu else None)

    def _gains(self, choice: Choice) -> bool:
        """True if compiling is asked for, or saves more time than it takes (tried on GPUs only).

        On a CPU it was measured to gain less than a tenth and to take half a minute (docs/LOG.md).
        """
        if self.bench.chosen.compile != "auto" or self.bench.device.type != "cuda":
            return self.bench.chosen.compile == "on"
        if self.spare < _COMPILE_SECONDS:
            return False
        compiled = self.bench.measure(choice.candidate, self.cases, compiled=True, limit=self.spare)
        return compiled < 0.95 * choice.seconds_per_step
