"""When an arm is said to have converged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from delineate.comparing import learning_curves
from delineate.comparing.run_processes import Run


def points(tmp_path: Path, *runs: list[float], metric: str = "val_dice") -> list[dict[str, object]]:
    """Of runs of 100 steps, looked at evenly."""
    listed = []
    for run, values in enumerate(runs):
        lines = [{"step": step, "steps": 100, "loss": 1.0} for step in range(1, 101)]
        for n, value in enumerate(values):
            lines[round((n + 0.5) * 100 / len(values))] |= {metric: value, "val_loss": 9.0}
        log = tmp_path / f"{run}.jsonl"
        log.write_text("".join(json.dumps(line) + "\n" for line in lines))
        listed += learning_curves.points(log, Run(f"unet-{run}", "U-Net", run, 60.0, 100), 2.5)
    return listed


def test_points_say_what_had_been_spent_when_the_validation_cases_were_looked_at(tmp_path: Path):
    first, second = points(tmp_path, [0.1, 0.3])
    assert first == {"arm": "U-Net", "run": 0, "step": 26, "share": 0.26, "gmac": 65.0,
                     "metric": "dice", "value": 0.1}  # fmt: skip
    assert second["value"] == 0.3


RISING = [n / 10 for n in range(10)]


@pytest.mark.parametrize(
    ("runs", "rises", "converged"),
    [
        ([RISING], [0.2], False),
        ([[*RISING[:6], 0.7, 0.7, 0.7, 0.719]], [0.0095], True),
        ([[*RISING[:6], 0.7, 0.7, 0.7, 0.721]], [0.0105], False),
        ([[*RISING[:6], 0.7, 0.7, 0.6, 0.6]], [-0.1], True),
        ([[0.5] * 10, [*[0.5] * 8, 0.53, 0.53]], [0.0, 0.03], False),
        ([[0.5] * 10, [*[0.5] * 8, 0.51, 0.51]], [0.0, 0.01], True),
    ],
)
def test_an_arm_has_converged_when_its_last_fifth_hardly_rose(tmp_path, runs, rises, converged):
    verdict = learning_curves.verdict(points(tmp_path, *runs), 900)
    assert verdict["rises"] == pytest.approx(rises)
    assert verdict["converged"] is converged


@pytest.mark.parametrize(
    ("looks", "metric"), [(0, "val_dice"), (5, "val_dice"), (20, "val_psnr_db")]
)
def test_of_too_few_looks_or_a_figure_without_a_scale_nothing_is_said(tmp_path, looks, metric):
    verdict = learning_curves.verdict(points(tmp_path, [0.5] * looks, metric=metric), 900)
    assert verdict == {"rises": None, "converged": None}


def test_an_arm_that_hardly_trained_is_not_called_converged_for_learning_nothing(tmp_path: Path):
    verdict = learning_curves.verdict(points(tmp_path, [0.0] * 20), 899)
    assert verdict == {"rises": None, "converged": None}
