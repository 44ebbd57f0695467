from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from delineate.metrics.plausibility import contradictions, most_dice, most_f1, repetitions


def test_dice_of_averages_is_bounded_by_the_iou():
    rng = np.random.default_rng(0)
    for _ in range(50):
        iou = rng.random(20)
        assert (2 * iou / (1 + iou)).mean() <= most_dice(iou.mean()) + 1e-12
    assert most_dice(0.5) == pytest.approx(2 / 3)


@pytest.mark.parametrize("average", ["macro", "weighted"])
def test_f1_of_any_average_is_bounded(average):
    rng = np.random.default_rng(1)
    for _ in range(50):
        truth, guess = rng.integers(0, 4, (2, 60))
        given = {"average": average, "zero_division": 0}
        bound = most_f1(precision_score(truth, guess, **given), recall_score(truth, guess, **given))
        assert f1_score(truth, guess, **given) <= bound + 1e-12


def verdicts(rounding=1e-4, **row):
    return [f["verdict"] for f in contradictions({"method": "x", **row}, rounding)]


def test_what_the_documents_print():
    # S2's best row, S0's best row, the VGG row of both, and a sound one of S2
    assert verdicts(precision=0.9990, recall=0.9899, f1=0.9999) == ["impossible, however averaged"]
    assert verdicts(precision=0.9926, recall=0.9842, f1=0.9936) == ["impossible, however averaged"]
    assert "unlike classes" in verdicts(precision=0.92, recall=0.921, f1=0.6708)[0]
    assert verdicts(precision=0.9918, recall=0.9790, f1=0.9853, rounding=1e-3) == []
    # S1: the FCN row breaks the bound, U-Net's does not; all pixel accuracies are below background
    fcn = verdicts(iou=0.2591, dice=0.4119, pixel_accuracy=0.5321)
    assert fcn == ["impossible for one set of units", "not plain pixel accuracy"]
    assert verdicts(iou=0.2787, dice=0.4355) == []


def test_rounding_is_given_the_benefit_of_the_doubt():
    assert verdicts(iou=0.50, dice=0.67, rounding=0.01) == []
    assert verdicts(iou=0.50, dice=0.69, rounding=0.01) == ["impossible for one set of units"]


def test_no_honest_table_is_accused_of_its_rounding():
    rng = np.random.default_rng(2)
    for p, r in rng.uniform(0.02, 1, (5000, 2)):
        row = {"precision": round(p, 2), "recall": round(r, 2), "f1": round(2 * p * r / (p + r), 2)}
        assert verdicts(**row, rounding=0.01) == []


def test_rows_of_two_studies_with_the_same_digits_are_told():
    rows = [
        {"method": "A: CNN", "accuracy": 0.9539, "precision": 0.91, "recall": 0.95, "f1": 0.93},
        {"method": "A: VGG", "accuracy": 0.9369, "precision": 0.91, "recall": 0.95, "f1": 0.93},
        {"method": "B: CNN", "accuracy": 0.9544, "precision": 0.91, "recall": 0.95, "f1": 0.93},
        {"method": "B: VGG", "accuracy": 0.9374, "precision": 0.92, "recall": 0.94, "f1": 0.93},
    ]
    told = [finding["claim"] for finding in repetitions(rows)]
    assert told == ["A: CNN and B: CNN, on unlike data", "A: VGG and B: CNN, on unlike data"]
