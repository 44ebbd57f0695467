"""Arms made comparable: a patch that all can take, what a step of each costs, equal compute."""

from __future__ import annotations

import dataclasses
import math
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from delineate.comparing.suites import Arm, Suite, slug
from delineate.core import catalog
from delineate.core.errors import ConfigError, DelineateError
from delineate.core.progress import Progress, Say, silent
from delineate.core.stopping import Stop
from delineate.data.cache import PreparedCase
from delineate.data.cohort import Cohort
from delineate.data.opening import Opening
from delineate.engine.budget import LEAST_STEPS, Candidate
from delineate.networks._blocks import count_parameters
from delineate.networks._cost import gmac
from delineate.settings import RunConfig
from delineate.targets import _sizes
from delineate.training.job import Invocation, Job

#: Start, scoring and report of one training run, in seconds, before the first has been seen.
OVERHEAD = 20.0
#: Steps take so much longer where several runs share the processors than one alone.
CROWDED = 1.5
#: How often every arm's step is timed, the arms in turn: no busy moment decides.
ROUNDS = 3
#: Seconds after which a round times no further step of an arm, two of each stage apart.
_LIMIT = 2.0
#: A budget that is named as enough has so much to spare, for the next measurement will differ.
_SPARE = 1.2
#: Median steps that an arm may take: one that hardly computes would read pictures for hours.
MOST_STEPS = 4.0


@dataclass(frozen=True)
class Entry:
    """An arm, and what it costs here.

    Args:
        arm: Name of the arm.
        network, method: What it trains, and how.
        width, patch, batch: Alike for all arms that see images of the same kind.
        parameters: Of the predictor.
        gmac: Billion multiplications of a forward pass of one patch.
        gmac_step: ... of a training step with everything that it computes, critics included.
        ms: A forward pass of one patch, in milliseconds.
        seconds_step: A training step, sampling and augmentation included.
        steps: What the compute allows.
    """

    arm: str
    network: str
    method: str
    width: int
    patch: tuple[int, ...]
    batch: int
    parameters: int
    gmac: float
    gmac_step: float
    ms: float
    seconds_step: float
    steps: int = 0


def measure(
    suite: Suite,
    cohort: Cohort,
    settings: Callable[[Arm], RunConfig],
    folder: Path,
    cache: Path,
    say: Say,
    progress: Progress,
) -> tuple[list[Entry], list[dict[str, Any]]]:
    """Agree on a patch, then time and count a step of every arm.

    Arms that see slices agree among themselves, and so do those that see volumes.

    Args:
        suite: The arms.
        cohort: What they learn.
        settings: Of a run of an arm.
        folder: For records that nobody needs afterwards.
        cache: Prepared cases.
        say: Told what a person should know.
        progress: Shows how far it is.

    Returns:
        Entries, and the arms that cannot take part, each with its reason.

    Raises:
        ConfigError: No arm can.
    """
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted start left would be taken up
    invocation = Invocation(cohort.root, Opening(), time.monotonic(), silent, progress, Stop())
    jobs = [
        Job(settings(arm), cohort, folder / slug(arm.name), {"hashes": {}}, invocation)
        for arm in suite.arms
    ]
    failures: list[dict[str, Any]] = []
    entries: dict[str, Entry] = {}
    fitting: list[tuple[Arm, Job, list[PreparedCase], Candidate]] = []
    common: dict[Candidate, tuple[int, ...]] = {}
    for arm, job in zip(suite.arms, jobs, strict=True):
        job.out.mkdir(parents=True)
        try:
            training_cases = job.ready(cache)[1]["train"]  # arms may derive other channels
            largest = _candidate(suite, job, training_cases)
            steps = job.bench.divisors(largest)
            common[largest] = tuple(map(math.lcm, common.get(largest, steps), steps))
        except DelineateError as error:
            failures.append(_failure(arm, error))
            continue
        fitting.append((arm, job, training_cases, largest))
    timed: dict[str, list[float]] = {arm.name: [] for arm, *_ in fitting}
    for arm, job, training_cases, largest in progress.track(
        fitting * ROUNDS, "measuring a step of every arm", ROUNDS * len(fitting)
    ):
        if arm.name not in timed:
            continue
        patch = _sizes.round_to(largest.patch, common[largest])
        candidate = job.bench.fitting(dataclasses.replace(largest, patch=patch))
        try:
            timed[arm.name].append(job.bench.measure(candidate, training_cases, limit=_LIMIT))
            if arm.name not in entries:
                entries[arm.name] = _entry(arm, job, candidate, training_cases)
        except DelineateError as error:
            failures.append(_failure(arm, error))
            del timed[arm.name]
    notes = [f"{failure['arm']} cannot take part: {failure['reason']}" for failure in failures]
    for line in notes:
        say(line)
    if not timed:
        raise ConfigError("expected an arm that can take part, got none: " + "; ".join(notes))
    return [
        dataclasses.replace(entries[name], seconds_step=statistics.median(times))
        for name, times in timed.items()
    ], failures


def pace(entries: Sequence[Entry]) -> dict[str, float]:
    """Steps of each arm for a GMAC of the budget; at most ``MOST_STEPS`` times the median."""
    rates = {entry.arm: 1 / entry.gmac_step for entry in entries}
    most_steps = MOST_STEPS * statistics.median(rates.values())
    return {arm: min(rate, most_steps) for arm, rate in rates.items()}


def needed(entries: Sequence[Entry], steps: int) -> float:
    """GMAC a run that give every arm so many steps."""
    return steps / min(pace(entries).values())


@dataclass(frozen=True)
class Costs:
    """What all runs of a benchmark take together, in seconds.

    Args:
        runs: How many there are.
        overhead: Work beside their steps.
        each: Work for every GMAC that a run may spend.
        jobs: Runs at the same time.
        spent: By the clock, before the first.
    """

    runs: int
    overhead: float
    each: float
    jobs: int
    spent: float

    @classmethod
    def of(
        cls,
        entries: Sequence[Entry],
        counts: Mapping[str, int],
        jobs: int,
        spent: float,
        validating: float = 0.0,
    ) -> Costs:
        """The costs of as many runs of every arm as ``counts`` says.

        Args:
            entries: The arms.
            counts: Runs, by name of the arm.
            jobs: Runs at the same time.
            spent: Seconds by the clock, before the first.
            validating: What looks at validation cases take, as a share of the steps.
        """
        rates, runs = pace(entries), sum(counts.values())
        each = sum(counts[e.arm] * e.seconds_step * rates[e.arm] for e in entries)
        return cls(runs, runs * OVERHEAD, each * (1 + validating), jobs, spent)

    def seconds(self, gmac: float) -> float:
        """By the clock, if each run spends so many GMAC."""
        return (self.overhead + self.each * gmac) / self.jobs

    def affordable(self, seconds: float) -> float:
        """GMAC for each run if everything may take so long by the clock."""
        return ((seconds - self.spent) * self.jobs - self.overhead) / self.each

    def options(self, gmac: float) -> str:
        """The options, rounded up, that give each run so many GMAC."""
        unit = 10.0 ** (math.floor(math.log10(gmac)) - 1)
        minutes = math.ceil((self.spent + _SPARE * self.seconds(gmac)) / 60)
        return f"--budget {minutes}m or --gmac {math.ceil(gmac / unit) * unit:g}"


def share_out(entries: Sequence[Entry], budget: float, costs: Costs) -> list[Entry]:
    """The same entries with the steps that ``budget`` billion multiplications allow each.

    Raises:
        ConfigError: Too few for some arm to be worth starting; names the least that would do.
    """
    least = needed(entries, LEAST_STEPS)
    if budget < least:
        costliest = max(entries, key=lambda entry: entry.gmac_step)
        raise ConfigError(
            f"expected compute for at least {LEAST_STEPS} steps of every arm ({least:,.4g} GMAC a "
            f"run, for {costliest.arm}), got {max(0.0, budget):,.4g}",
            fix=f"give {costs.options(least)}, or a smaller --width",
            code="budget-too-small",
        )
    rates = pace(entries)
    return [
        dataclasses.replace(entry, steps=int(budget * rates[entry.arm] + 1e-6)) for entry in entries
    ]


def _candidate(suite: Suite, job: Job, cases: Sequence[PreparedCase]) -> Candidate:
    """Width, patch and batch that the suite wants for images of these dimensions."""
    chosen, learning = job.chosen, job.bench.learning
    nd, patch = learning.ndim, learning.patch(cases, suite.patch_voxels)
    return Candidate(
        chosen.width or suite.width[nd], chosen.patch or patch, chosen.batch or suite.batch[nd]
    )


def _entry(arm: Arm, job: Job, candidate: Candidate, cases: list[PreparedCase]) -> Entry:
    """Count one arm, and time its answers; its training steps are timed by the caller."""
    network = job.bench.build(candidate).predictor.to(job.device).eval()
    patch = torch.zeros((1, job.bench.channels, *candidate.patch), device=job.device)
    times = []
    with torch.no_grad():
        for _ in range(4):
            start = time.perf_counter()
            network(patch)
            if job.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    return Entry(
        arm=arm.name,
        network=catalog.title(arm.network),
        method=catalog.title(arm.method),
        width=candidate.width,
        patch=candidate.patch,
        batch=candidate.batch,
        parameters=count_parameters(network),
        gmac=gmac(network, job.bench.channels, candidate.patch),
        gmac_step=job.bench.count(candidate, cases),
        ms=1000 * statistics.median(times[1:]),
        seconds_step=0.0,
    )


def _failure(arm: Arm, error: DelineateError) -> dict[str, Any]:
    return {"arm": arm.name, "run": None, "reason": error.message}
