"""Arms made comparable: a patch that all can take, what a step of each costs, equal compute."""

from __future__ import annotations

import dataclasses
import math
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from delineate.comparing.suites import Arm, Suite
from delineate.core import catalog
from delineate.core.errors import ConfigError, DelineateError
from delineate.core.progress import Progress, Say, silent
from delineate.core.stopping import Stop
from delineate.data.cache import PreparedCase
from delineate.data.cohort import Cohort
from delineate.data.opening import Opening
from delineate.engine.budget import Candidate
from delineate.networks._blocks import count_parameters
from delineate.networks._cost import gmac
from delineate.settings import RunConfig
from delineate.targets import _sizes
from delineate.training.job import Invocation, Job

#: Start, scoring and report of one training run, in seconds, before the first has been seen.
OVERHEAD = 20.0
#: Steps take so much longer where several runs share the processors than one alone.
CROWDED = 1.5
_LEAST_STEPS = 20
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
    folder.mkdir(parents=True)
    invocation = Invocation(cohort.root, Opening(), time.monotonic(), silent, progress, Stop())
    jobs = [Job(settings(arm), cohort, folder, {"hashes": {}}, invocation) for arm in suite.arms]
    failures: list[dict[str, Any]] = []
    entries: list[Entry] = []
    fitting: list[tuple[Arm, Job, list[PreparedCase], Candidate]] = []
    common: dict[Candidate, int] = {}
    for arm, job in zip(suite.arms, jobs, strict=True):
        try:
            training_cases = job.ready(cache)[1]["train"]  # arms may derive other channels
            largest = _candidate(suite, job, training_cases)
            common[largest] = math.lcm(common.get(largest, 1), job.bench.divisor(largest))
        except DelineateError as error:
            failures.append(_failure(arm, error))
            continue
        fitting.append((arm, job, training_cases, largest))
    for arm, job, training_cases, largest in progress.track(
        fitting, "measuring a step of every arm", len(fitting)
    ):
        patch = _sizes.round_to(largest.patch, common[largest])
        candidate = job.bench.fitting(dataclasses.replace(largest, patch=patch))
        try:
            entries.append(_entry(arm, job, candidate, training_cases))
        except DelineateError as error:
            failures.append(_failure(arm, error))
    notes = [f"{failure['arm']} cannot take part: {failure['reason']}" for failure in failures]
    for line in notes:
        say(line)
    if not entries:
        raise ConfigError("expected an arm that can take part, got none: " + "; ".join(notes))
    return entries, failures


def pace(entries: Sequence[Entry]) -> dict[str, float]:
    """Steps of each arm for a GMAC of the budget; at most ``MOST_STEPS`` times the median."""
    rates = {entry.arm: 1 / entry.gmac_step for entry in entries}
    most_steps = MOST_STEPS * statistics.median(rates.values())
    return {arm: min(rate, most_steps) for arm, rate in rates.items()}


def share_out(entries: Sequence[Entry], budget: float) -> tuple[list[Entry], list[dict[str, Any]]]:
    """The same entries with the steps that ``budget`` billion multiplications allow each.

    Returns:
        Entries, and those that would get too few steps to learn from, each with the reason.

    Raises:
        ConfigError: Too few for every arm; names the least budget that would do for one.
    """
    rates = pace(entries)
    needed = {entry.arm: _LEAST_STEPS / rates[entry.arm] for entry in entries}
    fit = [entry for entry in entries if budget >= needed[entry.arm]]
    if not fit:
        raise ConfigError(
            f"expected compute for at least {_LEAST_STEPS} steps of an arm "
            f"({min(needed.values()):,.0f} GMAC a run), got {max(0.0, budget):,.0f}",
            fix="give a longer --budget, or a smaller --width",
            code="budget-too-small",
        )
    poor = [
        {"arm": e.arm, "run": None, "reason":
         f"{_LEAST_STEPS} steps take {needed[e.arm]:,.0f} GMAC, and {budget:,.0f} are there: "
         "give a longer --budget, or a smaller --width"}
        for e in entries if e not in fit
    ]  # fmt: skip
    shared = [
        dataclasses.replace(entry, steps=int(budget * rates[entry.arm] + 1e-6)) for entry in fit
    ]
    return shared, poor


def _candidate(suite: Suite, job: Job, cases: Sequence[PreparedCase]) -> Candidate:
    """Width, patch and batch that the suite wants for images of these dimensions."""
    chosen, learning = job.chosen, job.bench.learning
    nd, patch = learning.ndim, learning.patch(cases, suite.patch_voxels)
    return Candidate(
        chosen.width or suite.width[nd], chosen.patch or patch, chosen.batch or suite.batch[nd]
    )


def _entry(arm: Arm, job: Job, candidate: Candidate, cases: list[PreparedCase]) -> Entry:
    """Count and time one arm."""
    seconds = job.bench.measure(candidate, cases)
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
        seconds_step=seconds,
    )


def _failure(arm: Arm, error: DelineateError) -> dict[str, Any]:
    return {"arm": arm.name, "run": None, "reason": error.message}
