from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics as referee

from delineate.core.errors import ConfigError, InputError
from delineate.metrics.ranking import (
    SPECIFICITY,
    precision_recall_curve,
    ranking_statistic,
    roc_curve,
)
from delineate.metrics.statistics import bootstrap_figures


def names(count):
    return [f"s{i:04d}" for i in range(count)]


def figures(scores, positive, subjects=None, specificity=SPECIFICITY, **options):
    statistic = ranking_statistic(scores, positive, specificity)
    options = {"resamples": 200} | options
    return bootstrap_figures(statistic, subjects or names(len(scores)), **options)


def value(scores, positive, key="roc_auc", **options):
    return figures(scores, positive, **options)[key]["value"]


def test_six_scores_by_hand():
    # Pairs of a positive (.9 .6 .4) and another (.7 .4 .1): 3 + 2 + 1.5 of 9 are in order.
    scores, positive = [0.9, 0.7, 0.6, 0.4, 0.4, 0.1], [1, 0, 1, 1, 0, 0]
    assert value(scores, positive) == pytest.approx(6.5 / 9)
    # Precision 1/1, 2/3, 3/5 where recall grows by a third each.
    expected = (1 + 2 / 3 + 3 / 5) / 3
    assert value(scores, positive, "average_precision") == pytest.approx(expected)
    # One of three others may be called: thresholds .9 and .6 do, and .4 calls two.
    for specificity, sensitivity in ((1, 1 / 3), (2 / 3, 2 / 3), (0.5, 2 / 3), (1 / 3, 1), (0, 1)):
        found = value(scores, positive, "sensitivity_at_specificity", specificity=specificity)
        assert found == pytest.approx(sensitivity), specificity
    curve = roc_curve(scores, positive)
    assert curve.x == pytest.approx([0, 0, 1 / 3, 1 / 3, 2 / 3, 1])
    assert curve.y == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3, 1, 1])
    assert curve.thresholds.tolist() == [math.inf, 0.9, 0.7, 0.6, 0.4, 0.1]


def test_constant_scores_are_chance_and_perfect_ones_are_one():
    assert value([0.5] * 4, [0, 1, 0, 1]) == 0.5
    assert value([0.1, 0.9], [0, 1]) == 1
    assert value([0.9, 0.1], [0, 1]) == 0
    assert value([0.9, 0.9, 0.1], [1, 0, 0], "sensitivity_at_specificity") == 0


@pytest.mark.parametrize("decimals", [1, 2, 12])
def test_agrees_with_scikit_learn_with_and_without_ties(decimals):
    rng = np.random.default_rng(decimals)
    positive = rng.random(300) < 0.3
    scores = np.round(rng.normal(positive, 1.5), decimals)
    assert value(scores, positive) == pytest.approx(referee.roc_auc_score(positive, scores))
    expected = referee.average_precision_score(positive, scores)
    assert value(scores, positive, "average_precision") == pytest.approx(expected)
    fpr, tpr, thresholds = referee.roc_curve(positive, scores, drop_intermediate=False)
    curve = roc_curve(scores, positive)
    assert curve.x == pytest.approx(fpr)
    assert curve.y == pytest.approx(tpr)
    assert curve.thresholds == pytest.approx(thresholds)
    for specificity in (0.5, 0.8, 0.9, 0.99):
        found = value(scores, positive, "sensitivity_at_specificity", specificity=specificity)
        assert found == pytest.approx(tpr[fpr <= 1 - specificity].max())
    precision, recall, _ = referee.precision_recall_curve(positive, scores)
    curve = precision_recall_curve(scores, positive)
    assert curve.y[::-1] == pytest.approx(precision[:-1])
    assert curve.x[::-1] == pytest.approx(recall[:-1])


def test_what_cannot_be_ranked_is_undefined():
    for marks, ranked in (([0, 0, 0], False), ([1, 1, 1], True)):
        found = figures([0.1, 0.2, 0.3], marks)
        assert math.isnan(found["roc_auc"]["value"])
        assert math.isnan(found["roc_auc"]["ci_low"])
        assert math.isnan(found["sensitivity_at_specificity"]["value"])
        assert math.isnan(found["average_precision"]["value"]) is not ranked
    assert np.isnan(roc_curve([0.1, 0.2], [0, 0]).y).all()
    assert np.isnan(precision_recall_curve([0.1, 0.2], [0, 0]).x).all()


def test_weights_are_worth_copies():
    # The value under a resample is that of the resample written out.
    from delineate.metrics.ranking import ranking_statistic

    rng = np.random.default_rng(1)
    scores, positive = np.round(rng.random(30), 1), rng.random(30) < 0.5
    times = rng.integers(0, 3, (30, 5))
    found = ranking_statistic(scores, positive)(times.astype(float))
    for column in range(5):
        drawn = np.repeat(np.arange(30), times[:, column])
        for key in found:
            expected = value(scores[drawn], positive[drawn], key, resamples=0)
            assert found[key][column] == pytest.approx(expected), key


def delong(scores, positive):
    """Variance of the area by DeLong et al. 1988, written out as in the paper."""
    x, y = scores[positive], scores[~positive]
    psi = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    area = psi.mean()
    return area, psi.mean(1).var(ddof=1) / len(x) + psi.mean(0).var(ddof=1) / len(y)


def test_interval_is_as_wide_as_delongs_and_covers_the_truth():
    rng = np.random.default_rng(2)
    truth = 0.760250  # of normal scores one standard deviation apart: Phi(1 / sqrt 2)
    hits, widths = 0, []
    trials = 200
    for trial in range(trials):
        positive = np.arange(80) < 30
        scores = rng.normal(positive, 1.0)
        found = figures(scores, positive, seed=trial, resamples=300)["roc_auc"]
        hits += found["ci_low"] <= truth <= found["ci_high"]
        area, variance = delong(scores, positive)
        assert found["value"] == pytest.approx(area)
        widths.append((found["ci_high"] - found["ci_low"]) / (2 * 1.96 * math.sqrt(variance)))
    assert 0.89 <= hits / trials <= 0.985
    assert np.mean(widths) == pytest.approx(1, abs=0.06)


def test_wrong_input_is_told():
    with pytest.raises(InputError, match="not finite"):
        roc_curve([0.1, math.nan], [0, 1])
    with pytest.raises(InputError, match="a mark for each sample"):
        roc_curve([0.1, 0.2], [0])
    with pytest.raises(ConfigError, match="specificity of 0 to 1"):
        figures([0.1, 0.2], [0, 1], specificity=95)
