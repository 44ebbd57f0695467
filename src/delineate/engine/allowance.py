"""What each phase of a run may spend: seconds from measured costs, without a clock or a machine.

A run ends within its budget. What cannot be foreseen (a machine that becomes busy, a last case
slower than those before) may take ``GRACE`` more, and no phase begins work that would not fit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

#: Share of the budget, and seconds at least, by which a run may be late.
GRACE_SHARE, GRACE_SECONDS = 0.1, 10.0
#: Share of the budget that measuring candidates, and compiling one on trial, may take.
MEASURING = 0.1
#: Shares at most, of what training and all after it may take: figures of held-out cases, and the
#: clean-up or calibration that validation cases decide.
FIGURES, SETTLING = 0.3, 0.1
#: Share that one held-out case may take, where it takes more than that.
_ONE_CASE = 0.5
#: Share of training that validations may take.
VALIDATIONS = 0.1
#: Cases that one validation takes at most.
MOST_VALIDATED = 8
#: Costs are measured on a few cases; others may take longer.
_SLACK = 1.1
#: Writing the pages and ending the process.
REPORT_SECONDS = 8.0


def grace(budget: float) -> float:
    """Seconds by which a run of ``budget`` seconds may be late."""
    return max(GRACE_SECONDS, GRACE_SHARE * budget)


@dataclass(frozen=True)
class Clock:
    """How much of a budget is left.

    Args:
        budget: Seconds; None: without limit.
        started: When the run began, by ``now``.
        now: Seconds that never run backwards.
    """

    budget: float | None
    started: float
    now: Callable[[], float] = time.monotonic

    @property
    def spent(self) -> float:
        """Seconds since the run began."""
        return self.now() - self.started

    @property
    def left(self) -> float:
        """Seconds of the budget that are left; negative where it is overdrawn."""
        return math.inf if self.budget is None else self.budget - self.spent


@dataclass(frozen=True)
class Costs:
    """Seconds of one case.

    Args:
        network: A prepared case through the network.
        reading: Reading and preparing a case, before the network.
        scoring: Comparing a prediction with the truth.
    """

    network: float = 0.0
    reading: float = 0.0
    scoring: float = 0.0

    @property
    def whole(self) -> float:
        """From the files of a case to its figures."""
        return self.network + self.reading + self.scoring


@dataclass(frozen=True)
class Allotment:
    """Seconds of each phase, and what is looked at while training.

    Args:
        training: The loop, looks included.
        looks: How often validation cases are looked at.
        looked_at: How many of them.
        settling: Clean-up or calibration on validation cases.
        figures: Of the held-out cases.
        last_fit: On all subjects, with what goes before and after it.
    """

    training: float
    looks: int
    looked_at: int
    settling: float
    figures: float
    last_fit: float = 0.0


def allot(
    seconds: float, costs: Costs, *, validation: int, held_out: int, validations: int = 10
) -> Allotment:
    """Share out what is left for training and all after it but the report.

    Figures and settling get what they need, up to their share of ``seconds``; one held-out case may
    take half of them. Training gets the rest.

    Args:
        seconds: That may be spent.
        costs: Of one case.
        validation: Cases of the validation part.
        held_out: Cases that are scored.
        validations: Wanted.
    """
    seconds = max(0.0, seconds)
    case_seconds = _SLACK * costs.whole
    figures = min(
        held_out * case_seconds, max(FIGURES * seconds, min(case_seconds, _ONE_CASE * seconds))
    )
    settling = min(validation * costs.network * _SLACK, SETTLING * seconds)
    training = max(0.0, seconds - figures - settling)
    often, n_cases = share_validations(
        VALIDATIONS * training, costs.network, validation, validations
    )
    return Allotment(training, often, n_cases, settling, figures)


def share_validations(
    seconds: float, network: float, validation: int, validations: int
) -> tuple[int, int]:
    """How often to look, and at how many cases: fewer cases first, then fewer looks.

    Args:
        seconds: For all looks.
        network: Seconds a case.
        validation: Cases there are.
        validations: Wanted.
    """
    n_cases = min(MOST_VALIDATED, validation)
    if n_cases == 0 or validations == 0:
        return 0, 0
    cases = math.floor(min(seconds / max(network, 1e-9), 1e9))
    n_cases = max(1, min(n_cases, cases // validations))
    return min(validations, cases // n_cases), n_cases
