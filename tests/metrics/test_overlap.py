from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    jaccard_score,
    precision_score,
    recall_score,
)

from delineate.core.errors import GeometryError, LabelError
from delineate.core.schema import Label, Schema, brats_schema
from delineate.metrics.case import score_case, structures
from delineate.metrics.overlap import binary_counts, joint_histogram, overlap_scores

ONE = Schema(labels=(Label("tumour", 255),))


def test_hand_worked_four_voxels():
    # truth 1 1 0 0, prediction 1 0 1 0: one of each.
    joint = joint_histogram(np.array([1, 0, 1, 0]), np.array([1, 1, 0, 0]), 2)
    assert joint.tolist() == [[1, 1], [1, 1]]
    assert overlap_scores(*binary_counts(joint, [1])) == {
        "dice": 0.5,
        "iou": pytest.approx(1 / 3),
        "precision": 0.5,
        "recall": 0.5,
        "specificity": 0.5,
        "accuracy": 0.5,
        "accuracy_background": 0.5,
    }


@pytest.mark.parametrize("shape", [(40, 30), (12, 9, 15)])
@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_scikit_learn(shape, seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 4, shape).astype(np.uint8)
    noise = rng.integers(0, 4, shape).astype(np.uint8)
    prediction = np.where(rng.random(shape) < 0.7, truth, noise)
    joint = joint_histogram(prediction, truth, 4)
    assert np.array_equal(joint, confusion_matrix(truth.ravel(), prediction.ravel()))
    for row in score_case(prediction, truth, brats_schema(), (1.0,) * len(shape)):
        indices = {"WT": [1, 2, 3], "TC": [1, 3], "ET": [3]} | {
            "necrosis": [1], "oedema": [2], "enhancing": [3]
        }  # fmt: skip
        t = np.isin(truth, indices[row["region"]]).ravel()
        p = np.isin(prediction, indices[row["region"]]).ravel()
        assert row["dice"] == pytest.approx(f1_score(t, p))
        assert row["iou"] == pytest.approx(jaccard_score(t, p))
        assert row["precision"] == pytest.approx(precision_score(t, p))
        assert row["recall"] == pytest.approx(recall_score(t, p))
        assert row["specificity"] == pytest.approx(recall_score(~t, ~p))
        assert row["accuracy"] == pytest.approx(accuracy_score(t, p))
        assert row["accuracy_background"] == pytest.approx(accuracy_score(t, np.zeros_like(t)))


MASKS = hnp.arrays(np.uint8, (4, 5, 3), elements=st.integers(0, 1))


@settings(max_examples=60, deadline=None)
@given(MASKS, MASKS)
def test_symmetry_and_bounds(a, b):
    there, back = (score_case(x, y, ONE, (1, 2, 3))[0] for x, y in ((a, b), (b, a)))
    distances = ("hd95_mm_penalised", "hd_mm_penalised", "assd_mm_penalised")
    for symmetric in ("dice", "iou", "accuracy", *distances, "nsd", "nsd_voxels"):
        assert there[symmetric] == pytest.approx(back[symmetric])
    assert there["precision"] == pytest.approx(back["recall"])
    assert there["dice"] == pytest.approx(2 * there["iou"] / (1 + there["iou"]))
    hd95, hd, assd = (there[name] for name in distances)
    assert 0 <= assd <= hd
    assert hd95 <= hd <= np.linalg.norm([4, 10, 9])
    assert (there["dice"] == 1) == bool((a == b).all())


@pytest.mark.parametrize(
    ("truth", "prediction", "state", "one", "distance"),
    [(0, 0, "both empty", 1.0, 0.0), (1, 0, "missed", 0.0, 5.0), (0, 1, "false alarm", 0.0, 5.0)],
)
def test_the_rule_on_empty_masks(truth, prediction, state, one, distance):
    def mask(count):
        array = np.zeros((3, 2, 2), np.uint8)
        array.flat[:count] = 1
        return array

    # The diagonal of 3 x 2 x 2 voxels of 1 x 1.5 x sqrt(7)/2 mm is sqrt(9 + 9 + 7) = 5 mm.
    row = score_case(mask(prediction), mask(truth), ONE, (1, 1.5, 7**0.5 / 2))[0]
    assert row["state"] == state
    for metric in ("dice", "iou", "precision", "recall", "nsd"):
        assert row[metric] == one
    for metric in ("hd_mm", "hd95_mm", "assd_mm"):
        assert np.isnan(row[metric])
        assert row[f"{metric}_penalised"] == pytest.approx(distance)


def test_nothing_found_still_has_an_impressive_accuracy():
    truth = np.zeros((100, 100), np.uint8)
    truth[:10, :10] = 1
    row = score_case(np.zeros_like(truth), truth, ONE, (1, 1))[0]
    assert row["dice"] == 0
    assert row["accuracy"] == row["accuracy_background"] == 0.99


def test_volumes_are_millilitres_in_3d_and_undefined_in_2d():
    truth = np.zeros((20, 20, 20), np.uint8)
    truth[:10, :10, :10] = 1
    prediction = np.zeros_like(truth)
    prediction[:10, :10, :5] = 1
    row = score_case(prediction, truth, ONE, (1, 2, 3))[0]
    assert row["volume_ml_truth"] == pytest.approx(6.0)
    assert row["volume_ml_prediction"] == pytest.approx(3.0)
    assert row["volume_ml_difference"] == pytest.approx(-3.0)
    assert np.isnan(score_case(prediction[0], truth[0], ONE, (2, 3))[0]["volume_ml_truth"])


def test_regions_are_unions_of_labels_and_come_first():
    assert [(n, k) for n, k, _ in structures(brats_schema())] == [
        ("WT", "region"), ("TC", "region"), ("ET", "region"),
        ("necrosis", "label"), ("oedema", "label"), ("enhancing", "label"),
    ]  # fmt: skip
    assert [n for n, _, _ in structures(brats_schema(), labels=False)] == ["WT", "TC", "ET"]
    assert [n for n, _, _ in structures(ONE, labels=False)] == ["tumour"]


def test_label_with_the_name_of_another_region_is_told_apart():
    labels = (Label("core", 1), Label("rim", 2))
    schema = Schema(labels=labels, regions={"core": ("core", "rim"), "rim": ("rim",)})
    assert [n for n, _, _ in structures(schema)] == ["core", "rim", "label core"]


def test_swapping_labels_inside_a_region_costs_the_labels_alone():
    truth = np.zeros((8, 8), np.uint8)
    truth[2:6, 2:6] = 1
    rows = {r["region"]: r for r in score_case(truth * 2, truth, brats_schema(), (1, 1))}
    assert rows["WT"]["dice"] == 1
    assert rows["WT"]["hd95_mm"] == 0
    assert rows["necrosis"]["state"] == "missed"
    assert rows["oedema"]["state"] == "false alarm"
    assert rows["ET"]["state"] == rows["enhancing"]["state"] == "both empty"


def test_many_labels_do_not_overflow():
    schema = Schema(labels=tuple(Label(f"organ {i}", i) for i in range(1, 105)))
    truth = np.arange(105, dtype=np.uint8).reshape(7, 5, 3)
    rows = score_case(truth, truth, schema, (1, 1, 1))
    assert len(rows) == 104
    assert all(row["dice"] == 1 for row in rows)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, bool])
def test_any_integer_type(dtype):
    truth = np.zeros((5, 5), dtype)
    truth[1:3, 1:3] = 1
    assert score_case(truth, truth.astype(np.uint8), ONE, (1, 1))[0]["dice"] == 1


def test_bad_input_is_told():
    good = np.zeros((4, 4), np.uint8)
    with pytest.raises(GeometryError, match=r"\(4, 4\).*\(4, 5\)"):
        score_case(np.zeros((4, 5), np.uint8), good, ONE, (1, 1))
    with pytest.raises(LabelError, match="0 to 1 in the prediction, got 0 to 7"):
        joint_histogram(np.array([0, 7]), np.array([0, 1]), 2)
    with pytest.raises(LabelError, match="0 to 1 in the truth, got -1"):
        joint_histogram(np.array([0, 1]), np.array([0, -1]), 2)
    with pytest.raises(LabelError, match="integer label indices in the prediction, got float"):
        joint_histogram(np.array([0.5, 1]), np.array([0, 1]), 2)
    with pytest.raises(LabelError, match="integer"):
        score_case(good.astype(np.float32), good, ONE, (1, 1))
