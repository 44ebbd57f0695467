from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from delineate.core.errors import InputError
from delineate.metrics.statistics import (
    bootstrap_draws,
    by_subject,
    compare_draws,
    compare_paired,
    holm,
    summarise,
)


def names(count):
    return [f"s{i:03d}" for i in range(count)]


def test_cases_of_one_subject_count_once():
    # Subject a was scanned three times; b once.
    found, means = by_subject([0.9, 0.9, 0.6, 0.4], ["a", "a", "a", "b"])
    assert found == ["a", "b"]
    assert means == pytest.approx([0.8, 0.4])
    summary = summarise([0.9, 0.9, 0.6, 0.4], ["a", "a", "a", "b"])
    assert summary["mean"] == pytest.approx(0.6)
    assert (summary["n_cases"], summary["n_subjects"]) == (4, 2)


def test_copies_of_cases_do_not_narrow_the_interval():
    values = np.random.default_rng(0).random(12)
    once = summarise(values, names(12), seed=3)
    tenfold = summarise(np.repeat(values, 10), np.repeat(names(12), 10), seed=3)
    for key in ("mean", "ci_low", "ci_high", "median", "sd"):
        assert tenfold[key] == pytest.approx(once[key])


def test_undefined_cases_are_left_out_and_counted():
    summary = summarise([0.5, math.nan, math.nan, 0.7], ["a", "a", "b", "c"])
    assert summary["mean"] == pytest.approx(0.6)
    assert (summary["n_cases"], summary["n_subjects"]) == (2, 2)
    nothing = summarise([math.nan], ["a"])
    assert nothing["n_subjects"] == 0
    assert math.isnan(nothing["mean"])
    assert summarise([], [])["n_cases"] == 0


def test_one_subject_has_no_interval():
    summary = summarise([0.5, 0.6], ["a", "a"])
    assert summary["mean"] == pytest.approx(0.55)
    assert math.isnan(summary["ci_low"])
    assert math.isnan(summary["sd"])


def test_seed_decides_and_nothing_else():
    values = np.random.default_rng(1).random(20)
    first = summarise(values, names(20), seed=5)
    np.random.seed(0)  # the global generator must not matter
    assert summarise(values, names(20), seed=5) == first
    assert summarise(values, names(20), seed=6)["ci_low"] != first["ci_low"]


def test_interval_agrees_with_scipy():
    values = np.random.default_rng(2).gamma(2, size=40)
    summary = summarise(values, names(40), resamples=20000)
    for statistic, low, high in (
        (np.mean, "ci_low", "ci_high"),
        (np.median, "median_ci_low", "median_ci_high"),
    ):
        referee = stats.bootstrap(
            (values,), statistic, n_resamples=20000, method="percentile", rng=1
        ).confidence_interval
        assert summary[low] == pytest.approx(referee.low, abs=0.03)
        assert summary[high] == pytest.approx(referee.high, abs=0.03)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(3)
    hits = 0
    for trial in range(300):
        summary = summarise(rng.normal(0, 1, 40), names(40), seed=trial, resamples=400)
        hits += summary["ci_low"] <= 0 <= summary["ci_high"]
    assert 0.90 <= hits / 300 <= 0.98


def test_blocks_of_memory_do_not_show(monkeypatch):
    values = np.random.default_rng(4).random(50)
    whole = summarise(values, names(50), resamples=1000)
    monkeypatch.setattr("delineate.metrics.statistics._CHUNK", 50 * 64)
    assert summarise(values, names(50), resamples=1000) == whole


def test_paired_comparison_sees_what_unpaired_does_not():
    rng = np.random.default_rng(5)
    b = rng.uniform(0.3, 0.9, 30)
    a = b + rng.normal(0.02, 0.01, 30)
    found = compare_paired(a, b, names(30))
    assert found["difference"] == pytest.approx(float(np.mean(a - b)))
    assert 0 < found["ci_low"] < found["difference"] < found["ci_high"]
    assert found["p_value"] == pytest.approx(stats.wilcoxon(a, b).pvalue)
    assert found["wins"] + found["losses"] == found["n_subjects"] == 30
    assert stats.mannwhitneyu(a, b).pvalue > 0.05


def test_equal_models_and_few_subjects():
    same = compare_paired([0.5, 0.6, 0.7], [0.5, 0.6, 0.7], names(3))
    assert (same["difference"], same["p_value"]) == (0, 1)
    assert compare_paired([0.5], [0.4], ["a"])["n_subjects"] == 1
    # Exact test, six subjects, all better: 2 / 2**6.
    gains = np.array([0.01, 0.02, 0.03, 0.04, 0.05, 0.06])
    assert compare_paired(0.5 + gains, [0.5] * 6, names(6))["p_value"] == pytest.approx(2 / 64)


def test_a_case_that_one_model_lacks_is_left_out():
    found = compare_paired([0.5, math.nan, 0.8], [0.4, 0.9, 0.6], ["a", "b", "c"])
    assert found["n_subjects"] == 2
    assert found["difference"] == pytest.approx(0.15)


def test_few_draws_widen_the_interval():
    # Draws differ much, subjects within a draw little: the draws decide the uncertainty.
    rng = np.random.default_rng(6)
    table = np.array([0.00, 0.02, 0.05, -0.01, 0.04])[:, None] + rng.normal(0, 0.002, (5, 60))
    low, high = bootstrap_draws(table)
    pooled = summarise(table.ravel(), [str(i) for i in range(table.size)])
    assert high - low > 4 * (pooled["ci_high"] - pooled["ci_low"])
    assert low < table.mean() < high
    assert math.isnan(bootstrap_draws(table[:1])[0])


def test_a_difference_over_draws_has_a_p_value_that_agrees_with_its_interval() -> None:
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.02, 0.05, -0.05):
        table = shift + 0.05 * rng.normal(size=(5, 1)) + 0.01 * rng.normal(size=(5, 12))
        found = compare_draws(table)
        assert (found["ci_low"], found["ci_high"]) == bootstrap_draws(table)
        assert found["difference"] == pytest.approx(table.mean())
        assert (found["p_value"] < 0.05) == (not found["ci_low"] <= 0 <= found["ci_high"])
        assert found["n_subjects"] == 12
    assert compare_draws(np.zeros((3, 4)))["p_value"] == 1.0
    assert math.isnan(compare_draws([[0.1, 0.2]])["p_value"])
    assert math.isnan(compare_draws([[]])["difference"])


def test_holm_by_hand():
    # Sorted 0.01 0.02 0.03 0.04 times 4 3 2 1 = 0.04 0.06 0.06 0.04, made monotone.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    adjusted = holm([0.01, math.nan, 0.02])
    assert adjusted[[0, 2]] == pytest.approx([0.02, 0.02])
    assert math.isnan(adjusted[1])
    assert holm([]).size == 0


def test_lengths_that_do_not_match_are_told():
    with pytest.raises(InputError, match="one value a case"):
        summarise([0.5, 0.6], ["a"])
    with pytest.raises(InputError, match="same cases"):
        compare_paired([0.5], [0.5, 0.6], ["a"])
    with pytest.raises(InputError, match="full table"):
        bootstrap_draws([[0.1, math.nan]])
