from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import softmax
from sklearn import metrics as referee
from sklearn.calibration import calibration_curve

from delineate.core.errors import InputError
from delineate.metrics.calibration import (
    calibration_statistic,
    ece_by_chance,
    fit_temperature,
    reliability_curve,
    risk_coverage,
)
from delineate.metrics.statistics import bootstrap_figures


def two(p):
    """Probabilities of class 1 as a table."""
    p = np.asarray(p, float)
    return np.stack([1 - p, p], axis=1)


def figures(table, truth, **options):
    options = {"resamples": 0} | options
    subjects = [f"s{i:04d}" for i in range(len(truth))]
    return bootstrap_figures(
        calibration_statistic(np.asarray(table, float), np.asarray(truth)), subjects, **options
    )


def value(table, truth, key):
    return figures(table, truth)[key]["value"]


def drawn(samples, temperature, seed=0, classes=3):
    """Logits that are ``temperature`` times too large, and the truth."""
    rng = np.random.default_rng(seed)
    right = rng.normal(0, 1.5, (samples, classes))
    chance = softmax(right, axis=1).cumsum(axis=1)
    return temperature * right, (rng.random((samples, 1)) > chance[:, :-1]).sum(axis=1)


def test_five_samples_by_hand():
    # Confidence .9 .9 .9 .6 .6; right, right, wrong, right, wrong.
    table, truth = two([0.9, 0.9, 0.9, 0.6, 0.4]), [1, 1, 0, 1, 1]
    # Bins: .9 with accuracy 2/3, .6 with accuracy 1/2.
    assert value(table, truth, "ece") == pytest.approx(3 / 5 * (0.9 - 2 / 3) + 2 / 5 * 0.1)
    assert value(table, truth, "brier") == pytest.approx((0.01 * 2 + 0.81 + 0.16 + 0.36) / 5)
    expected = -(2 * math.log(0.9) + math.log(0.1) + math.log(0.6) + math.log(0.4)) / 5
    assert value(table, truth, "log_loss") == pytest.approx(expected)
    coverage, risk = risk_coverage(table, truth)
    assert coverage == pytest.approx([3 / 5, 1])
    assert risk == pytest.approx([1 / 3, 2 / 5])
    assert value(table, truth, "aurc") == pytest.approx((3 * (1 / 3) + 2 * (2 / 5)) / 5)
    low, high = reliability_curve(table, truth)
    assert (low["n"], high["n"]) == (2, 3)
    assert (low["confidence"], low["accuracy"]) == pytest.approx((0.6, 0.5))
    assert (high["confidence"], high["accuracy"]) == pytest.approx((0.9, 2 / 3))


def test_a_bin_holds_its_upper_end_and_sure_answers_the_last():
    bins = reliability_curve(two([0.6, 0.6000001, 1.0]), [1, 1, 1], bins=10)
    assert [row["bin"] for row in bins] == [5, 6, 9]


def test_reliability_and_brier_agree_with_scikit_learn():
    logits, truth = drawn(500, 2.0, classes=2)
    table = softmax(logits, axis=1)
    confidence, right = table.max(axis=1), table.argmax(axis=1) == truth
    accuracy, mean = calibration_curve(right, confidence, n_bins=15)
    found = reliability_curve(table, truth)
    assert [row["accuracy"] for row in found] == pytest.approx(accuracy)
    assert [row["confidence"] for row in found] == pytest.approx(mean)
    expected = referee.brier_score_loss(truth, table[:, 1])
    assert value(table, truth, "brier") == pytest.approx(expected)


def test_sure_and_right_is_perfect_and_sure_and_wrong_is_the_worst():
    for p, truth, expected in (([0, 1], [0, 1], 0), ([0, 1], [1, 0], 1)):
        for key in ("ece", "brier", "aurc"):
            assert value(two(p), truth, key) == expected
    assert value(two([0]), [1], "log_loss") == pytest.approx(36.04, abs=0.01)  # finite


def test_noise_is_not_taken_for_miscalibration():
    # 40 samples of a perfectly calibrated model show an ECE that chance explains.
    below = 0
    for seed in range(40):
        logits, truth = drawn(40, 1.0, seed=seed)
        table = softmax(logits, axis=1)
        mean, high = ece_by_chance(table)
        assert 0.05 < mean < high
        below += value(table, truth, "ece") <= high
    assert below >= 35
    logits, truth = drawn(400, 4.0, seed=1)
    table = softmax(logits, axis=1)
    assert value(table, truth, "ece") > 2 * ece_by_chance(table)[1]
    assert ece_by_chance(table[:40])[0] > 2 * ece_by_chance(table)[0]


def test_interval_of_the_ece_covers_the_truth():
    # All are 0.8 sure and 0.7 of them right: an ECE of 0.1.
    rng = np.random.default_rng(3)
    hits = 0
    for trial in range(150):
        truth = (rng.random(120) < 0.7).astype(int)
        found = figures(two([0.8] * 120), truth, seed=trial, resamples=300, inflated=("ece",))[
            "ece"
        ]
        assert found["ci_low"] <= found["value"] <= found["ci_high"]
        hits += found["ci_low"] <= 0.1 <= found["ci_high"]
    assert hits / 150 >= 0.9


def test_interval_of_an_inflated_figure_reaches_lower():
    # Probabilities half as sure again as they should be: an ECE of 0.091 (400,000 samples).
    plain, mended = 0, 0
    for trial in range(60):
        logits, truth = drawn(60, 2.0, seed=trial, classes=2)
        table = softmax(logits, axis=1)
        options = {"resamples": 200, "seed": trial}
        plain += figures(table, truth, **options)["ece"]["ci_low"] <= 0.091
        mended += figures(table, truth, **options, inflated=("ece",))["ece"]["ci_low"] <= 0.091
    assert mended >= 54 > plain


def test_equal_confidence_is_kept_together():
    table = two([0.7, 0.7, 0.7, 0.7])
    for truth in ([1, 1, 1, 0], [0, 1, 1, 1]):
        coverage, risk = risk_coverage(table, truth)
        assert (coverage.tolist(), risk.tolist()) == ([1.0], [0.25])
        assert value(table, truth, "aurc") == pytest.approx(0.25)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_was_put_in_is_found(temperature):
    logits, truth = drawn(4000, temperature)
    found = fit_temperature(logits, truth)
    assert found == pytest.approx(temperature, rel=0.06)
    # Probabilities serve as well as logits, and no answer changes.
    table = softmax(logits, axis=1)
    assert fit_temperature(np.log(table), truth) == pytest.approx(found, rel=1e-3)
    cooled = softmax(logits / found, axis=1)
    assert (cooled.argmax(axis=1) == table.argmax(axis=1)).all()
    assert value(cooled, truth, "log_loss") <= value(table, truth, "log_loss") + 1e-9


def test_no_grid_of_temperatures_is_better():
    logits, truth = drawn(60, 2.5, seed=7)
    best = value(softmax(logits / fit_temperature(logits, truth), axis=1), truth, "log_loss")
    grid = [
        value(softmax(logits / t, axis=1), truth, "log_loss") for t in np.geomspace(0.1, 10, 99)
    ]
    assert best <= min(grid) + 1e-7


def test_no_temperature_is_fitted_on_what_cannot_tell_it():
    logits, truth = drawn(100, 2.0)
    for table, classes, words in (
        (logits[:19], truth[:19], "20 cases or more, got 19"),
        (logits, np.ones(100, int), "two classes or more"),
        (5 * np.eye(3)[truth], truth, "a wrong answer"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            fit_temperature(table, classes)
        assert caught.value.code == "calibration-cases"
        assert "temperature 1" in str(caught.value)
    with pytest.raises(InputError, match="finite logits"):
        fit_temperature(np.full((30, 2), np.inf), np.arange(30) % 2)
    # Logits that know nothing end as even probabilities, not as an error.
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 9, (500, 2))
    even = softmax(noise / fit_temperature(noise, rng.integers(2, size=500)), axis=1)
    assert np.abs(even - 0.5).max() < 0.5


def test_sums_do_not_overflow():
    logits, truth = drawn(100, 2.0)
    assert fit_temperature(1000 * logits, truth) == pytest.approx(20, rel=1e-4)  # the bound
