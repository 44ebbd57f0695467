"""What a budget is spent on, worked by hand; no clock is read."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest

from delineate.core.errors import ConfigError, ResourceError
from delineate.engine.allowance import Clock, Costs, allot, grace, share_validations
from delineate.engine.budget import Candidate, choose

SMALL = [Candidate(8, (64, 64), 2), Candidate(8, (64, 64), 8), Candidate(8, (128, 128), 4)]
LADDER = [
    Candidate(8, (128, 128), 8), Candidate(16, (128, 128), 8), Candidate(16, (192, 192), 8),
]  # fmt: skip


@dataclass
class Machine:
    """One that needs ``slowness`` seconds for a step of the first of ``LADDER``."""

    slowness: float
    budget: float
    steps_timed: int = 4
    now: float = 0.0
    tried: list[Candidate] = field(default_factory=list)

    def measure(self, candidate: Candidate) -> float:
        cost = self.slowness * candidate.work / LADDER[0].work
        self.tried.append(candidate)
        self.now += self.steps_timed * cost
        return cost

    def choose(self) -> Candidate:
        return choose(
            LADDER, lambda: self.budget - self.now, self.measure, smaller=SMALL,
            spare=lambda: 0.1 * self.budget - self.now,
        ).candidate  # fmt: skip


@pytest.mark.parametrize("slowness", [0.001, 0.01, 0.1, 0.4, 1.0, 4.0, 16.0])
def test_measuring_takes_no_more_than_a_tenth_however_slow_the_machine(slowness: float) -> None:
    machine = Machine(slowness, 60.0, steps_timed=2)
    machine.choose()
    assert machine.now <= 6.0


def test_a_slow_machine_gets_a_small_plan_instead_of_a_refusal() -> None:
    # 60 s: of the first candidate 15 steps of 4 s fit, of the smallest, a sixteenth, 240 of 0.25 s.
    assert Machine(4.0, 60.0, 2).choose() == SMALL[0]
    # At 0.5 s a step 120 steps of the first fit: it is taken.
    assert Machine(0.5, 60.0, 2).choose() == LADDER[0]
    # Between: a quarter of 1 s, 240 steps, where the first would make 60.
    assert Machine(1.0, 60.0, 2).choose() == SMALL[2]


def test_one_candidate_that_other_programs_hold_up_does_not_end_the_search() -> None:
    @dataclass
    class Busy(Machine):
        def measure(self, candidate: Candidate) -> float:
            again = candidate in self.tried
            cost = super().measure(candidate)
            held_up = 10 * cost if candidate == LADDER[1] and not again else 0.0
            self.now += held_up
            return cost + held_up

    assert Busy(0.05, 400.0).choose() == Machine(0.05, 400.0).choose() == LADDER[2]


def test_where_there_is_time_the_small_ones_change_nothing() -> None:
    for slowness in (0.01, 0.05, 0.2):
        with_small, without = Machine(slowness, 1500.0), Machine(slowness, 1500.0)
        plain = choose(LADDER, lambda m=without: m.budget - m.now, without.measure)  # type: ignore[misc]
        assert with_small.choose() == plain.candidate
        assert with_small.tried == [SMALL[0], *without.tried]


@pytest.mark.parametrize("budget", [50.0, 30.0, 12.0, 6.0])
@pytest.mark.parametrize(("dearer", "width"), [(1.0, 16), (1.2, 16), (1.3, 8), (2.0, 8)])
def test_a_wider_network_that_costs_hardly_more_is_taken(
    budget: float, dearer: float, width: int
) -> None:
    # For fewer than 900 steps of 0.06 s, at last for those of smaller patches alone.
    def cost(candidate: Candidate) -> float:
        return (
            0.06
            * candidate.work
            / LADDER[0].work
            / (candidate.width / 8)
            * (dearer if candidate.width == 16 else 1)
        )

    taken = choose(LADDER, lambda: budget, cost, smaller=SMALL)
    assert taken.candidate.width == width
    assert taken.steps == int(budget / cost(taken.candidate))
    assert choose(LADDER[:1], lambda: budget, cost, smaller=SMALL).candidate.width == 8


def test_there_is_no_wider_one_without_memory_or_time_to_measure_it() -> None:
    def cost(candidate: Candidate) -> float:
        if candidate.width > 8:
            raise ResourceError("no memory")
        return 0.06

    assert choose(LADDER, lambda: 50.0, cost).candidate == LADDER[0]
    tried: list[Candidate] = []
    choose(LADDER, lambda: 50.0, lambda c: tried.append(c) or 0.06, spare=lambda: 0.1)  # type: ignore[func-returns-value]
    assert tried == LADDER[:1]


def test_a_budget_for_no_ten_steps_of_the_smallest_is_refused() -> None:
    with pytest.raises(ConfigError, match="10 steps"):
        Machine(100.0, 60.0, 2).choose()


def test_figures_and_settling_get_what_they_need_and_training_the_rest() -> None:
    # 10 held-out cases of 1 + 1 s and 4 validation cases of 1 s, each with a tenth of slack.
    shared = allot(200.0, Costs(network=1.0, reading=0.5, scoring=0.5), validation=4, held_out=10)
    assert shared.figures == pytest.approx(22.0)
    assert shared.settling == pytest.approx(4.4)
    assert shared.training == pytest.approx(173.6)
    # A tenth of training, 17 s: one case, ten times.
    assert (shared.looks, shared.looked_at) == (10, 1)


def test_figures_settling_and_looks_never_eat_the_training() -> None:
    # One case takes 15 s through the network: of 50 s, 15 s at most go to figures, but one case
    # has its 16.5 s; 5 s are too little to settle anything; no look fits into a tenth of the rest.
    shared = allot(50.0, Costs(network=15.0), validation=11, held_out=22)
    assert shared.figures == pytest.approx(16.5)
    assert allot(20.0, Costs(network=15.0), validation=0, held_out=22).figures == 10.0
    assert shared.settling == 5.0
    assert shared.training == pytest.approx(28.5)
    assert shared.looks == 0
    assert allot(-3.0, Costs(1.0, 1.0, 1.0), validation=2, held_out=2).training == 0.0


def test_nothing_is_set_aside_for_parts_that_are_not_there() -> None:
    shared = allot(100.0, Costs(2.0, 2.0, 2.0), validation=0, held_out=0)
    assert (shared.training, shared.figures, shared.settling) == (100.0, 0.0, 0.0)
    assert (shared.looks, shared.looked_at) == (0, 0)


def test_looks_give_up_cases_before_they_become_rarer() -> None:
    assert share_validations(80.0, 1.0, validation=20, validations=10) == (10, 8)
    assert share_validations(40.0, 1.0, validation=20, validations=10) == (10, 4)
    assert share_validations(40.0, 1.0, validation=3, validations=10) == (10, 3)
    assert share_validations(7.0, 1.0, validation=20, validations=10) == (7, 1)
    assert share_validations(0.5, 1.0, validation=20, validations=10) == (0, 1)
    assert share_validations(10.0, 0.0, validation=20, validations=10) == (10, 8)


def test_the_promise_is_a_tenth_more_and_ten_seconds_at_least() -> None:
    assert grace(60) == 10
    assert grace(600) == 60


def test_a_clock_says_what_is_left() -> None:
    now = [105.0]
    clock = Clock(60.0, 100.0, lambda: now[0])
    assert (clock.spent, clock.left) == (5.0, 55.0)
    now[0] = 170.0
    assert clock.left == -10.0
    assert Clock(None, 100.0, lambda: 1e6).left == math.inf
