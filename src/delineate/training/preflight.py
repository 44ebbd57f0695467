"""Whether a budget is enough for a cohort on this machine: a few cases tried, in a few seconds.

Cases are audited and prepared on trial, the smallest network takes some steps, and what all cases
will take follows. So a budget that is too small is refused before the work, not after.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from delineate import targets
from delineate.core import run
from delineate.core.errors import ConfigError, DelineateError
from delineate.core.progress import Progress, Say
from delineate.data.cohort import Cohort
from delineate.data.splits import HELD_OUT
from delineate.engine.allowance import REPORT_SECONDS, Clock, Costs
from delineate.engine.budget import LEAST_STEPS, MODEST_STEPS
from delineate.inference.runtimes.torch import choose_device
from delineate.networks._transfer import Weights
from delineate.settings import RunConfig
from delineate.training import devices, splitting
from delineate.training.preparing import plan_preparation, prepare_cohort
from delineate.training.trial import Bench

#: Cases tried, unless one alone takes longer than this.
_CASES, _SECONDS = 2, 2.0
#: Cases audited on trial where they are small.
_AUDITED = 24
#: The machine may become busier, and cases differ.
_SLACK = 1.2
#: How folders of cases prepared on trial begin.
_TRIAL = ".trial-"
#: Measuring the smallest network must fit into a tenth of the budget.
_MEASURING = 10


@dataclass(frozen=True)
class Estimate:
    """What a run will take.

    Args:
        start: Seconds up to now.
        audit: Seconds for the content and the audit of all cases.
        preparation: Seconds for the cases to learn from.
        step: Seconds a step of the smallest network.
        measuring: Seconds that measuring it took.
        costs: Of a case.
        held_out: Cases to be scored.
    """

    start: float
    audit: float
    preparation: float
    step: float
    measuring: float
    costs: Costs
    held_out: int

    @property
    def phases(self) -> dict[str, float]:
        """Seconds of everything that the least run does, by name."""
        seconds_of_phase = {
            "start": self.start,
            "reading and audit": self.audit,
            "preparation": self.preparation,
            "measuring": self.measuring,
            f"{2 * LEAST_STEPS} steps": 2 * LEAST_STEPS * self.step,
            "figures of one case": min(1, self.held_out) * self.costs.whole,
            "report": REPORT_SECONDS,
        }
        return {name: seconds for name, seconds in seconds_of_phase.items() if seconds > 0}

    @property
    def least(self) -> int:
        """The least budget that makes sense, in seconds."""
        needed = max(_SLACK * sum(self.phases.values()), _MEASURING * self.measuring)
        return 5 * math.ceil(needed / 5)

    def require(self, budget: float) -> None:
        """Refuse a budget that is too small.

        Raises:
            ConfigError: It is; the least that makes sense is named.
        """
        if budget >= self.least:
            return
        phases = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.phases.items())
        better = self.least + round(5 * MODEST_STEPS * self.step)
        raise ConfigError(
            f"expected a budget of at least {self.least} s for this cohort on this machine, "
            f"got {budget:.0f} s ({phases})",
            where="budget",
            fix=f"give --budget {self.least}s, or better --budget {max(2, math.ceil(better / 60))}m"
            " and more, or --steps",
            code="budget-too-small",
        )


def require(
    chosen: RunConfig,
    cohort: Cohort,
    weights: Weights | None,
    out: Path,
    cache: Path,
    *,
    clock: Clock,
    audit: bool,
    say: Say,
    progress: Progress,
) -> dict[str, Any]:
    """Refuse a budget that is too small, before anything that takes long.

    Args:
        chosen: Settings of the run, complete.
        cohort: Opened.
        weights: To start from.
        out: The run folder; one with a plan has been tried already.
        cache: Folder of prepared cases.
        clock: Of the run.
        audit: Whether the run will audit the cohort.
        say: Told if nothing could be tried.
        progress: Shows that it is being done.

    Returns:
        What the record keeps of it: ``costs`` and ``seconds_of_trial``.

    Raises:
        ConfigError: The budget is too small; the least that makes sense is named.
    """
    remove_trials(out)
    if clock.budget is None or "plan" in (run.read_json(out / "run.json") or {}):
        return {}
    cached = sum(1 for _ in cache.glob("*/case.json"))
    try:
        with progress.task(None, "trying some cases"):
            estimated = estimate(
                chosen, cohort, weights, out, clock, audit=audit, cached=cached, say=say
            )
    except DelineateError as error:  # the run will tell it better
        say(f"what the run will take was not measured: {error.message}")
        return {}
    estimated.require(clock.budget)
    return {"costs": asdict(estimated.costs), "seconds_of_trial": round(estimated.measuring, 3)}


def remove_trials(folder: Path) -> None:
    """Remove what a process that was killed left of its trial; the folder is locked."""
    for trial in folder.glob(f"{_TRIAL}*"):
        shutil.rmtree(trial, ignore_errors=True)


def estimate(
    chosen: RunConfig,
    cohort: Cohort,
    weights: Weights | None,
    folder: Path,
    clock: Clock,
    *,
    audit: bool,
    cached: int,
    say: Say,
) -> Estimate:
    """Try some cases and the smallest network.

    Args:
        chosen: Settings of the run, complete.
        cohort: Opened.
        weights: To start from.
        folder: Where prepared cases lie for the time of the trial.
        clock: Of the run.
        audit: Whether the run will audit the cohort.
        cached: Cases that lie in the cache already, of whatever preparation.
        say: Told if fewer threads than usual are faster.

    Raises:
        DelineateError: A fault in the data or the settings, which the run itself tells better.
    """
    device = choose_device(chosen.device)
    _choose_threads(chosen, device, say)
    target = targets.of(chosen)
    usable_cases = target.usable(cohort)
    usable = usable_cases.labelled
    held_out = held_out_cases(chosen, usable)
    learnt_from = (
        len(usable) - held_out + unlabelled_cases(chosen, cohort.subset(usable_cases.unlabelled))
    )
    tried = usable.with_cases(target.sample(usable, _CASES))
    lap = _Lap()
    tried.subset([tried.cases[0].id]).hash()
    if lap() > _SECONDS:
        tried = tried.with_cases(target.sample(tried, 1))
    tried.hash()
    hashed = 0.0 if cached else lap()
    audited = _audit(tried, usable) if audit else 0.0
    plan = plan_preparation(
        tried,
        derived=chosen.derived,
        clusters=3 if chosen.clusters == "auto" else chosen.clusters,
        bias_correction=chosen.bias_correction,
        denoise="none" if chosen.denoise == "autoencoder" else chosen.denoise,
        target=target.gives,
        dimensions=chosen.dimensions,
    )
    lap()
    with tempfile.TemporaryDirectory(dir=folder, prefix=_TRIAL) as scratch:
        cases = prepare_cohort(tried, plan, Path(scratch))
        prepared = lap() / len(tried)
        fabric = devices.fabric(device, devices.precision(chosen.precision, device))
        learning = target.learning(chosen, cohort, plan)
        bench = Bench(chosen, learning, plan, weights, fabric)
        first = bench.candidates(cases)[0]
        candidate = next(iter(bench.smaller(first, cases)), first)
        step = bench.measure(candidate, cases, limit=_SECONDS)
        network = bench.network_seconds(candidate, cases)
        measured = min(lap(), 20 * step)
    lap()
    target.rehearse(tried.cases[0], usable)
    scored = lap()
    return Estimate(
        start=clock.spent,
        audit=(hashed / len(tried) + audited) * len(cohort),
        preparation=prepared * max(0, learnt_from - cached),
        step=step,
        measuring=measured,
        costs=Costs(network, prepared, scored),
        held_out=held_out,
    )


def _choose_threads(chosen: RunConfig, device: torch.device, say: Say) -> None:
    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    elif device.type == "cpu":
        usual = torch.get_num_threads()
        if (threads := devices.choose_threads()) < usual:
            say(f"the processor is busy: computing with {threads} of {usual} threads is faster")


def _audit(tried: Cohort, cohort: Cohort) -> float:
    """Seconds a case."""
    from delineate.findings.examine import examine

    lap = _Lap()
    examine(tried)
    first = lap()
    if first > _SECONDS:
        return first / len(tried)
    # The first time brought modules along; and small cases cost less than a start of threads.
    count = min(len(cohort), _AUDITED)
    audited = cohort.with_cases([cohort.cases[i * len(cohort) // count] for i in range(count)])
    if first / len(tried) * count > _SECONDS:
        audited = tried
    lap()
    examine(audited)
    return min(first / len(tried), lap() / len(audited))


def held_out_cases(chosen: RunConfig, cohort: Cohort) -> int:
    """About how many cases will be scored."""
    declared = sum(case.split == "test" for case in cohort.cases)
    if chosen.folds is not None:
        return round((len(cohort) - declared) / chosen.folds)
    return declared or round((chosen.holdout or 0.0) * len(cohort))


def unlabelled_cases(chosen: RunConfig, cohort: Cohort) -> int:
    """About how many cases without labels will be learnt from."""
    used = splitting.uses_unlabelled(chosen)
    return sum(case.split not in HELD_OUT for case in cohort.cases) if used else 0


class _Lap:
    """Seconds since it was last asked."""

    def __init__(self) -> None:
        self.started = time.perf_counter()

    def __call__(self) -> float:
        before, self.started = self.started, time.perf_counter()
        return self.started - before
