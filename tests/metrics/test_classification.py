from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest
from sklearn import metrics as referee

from delineate.core.errors import InputError
from delineate.metrics.classification import classification_figures, confusion_matrix


def names(count):
    return [f"s{i:04d}" for i in range(count)]


def made(samples, classes, seed=0, strength=0.4, subjects=None):
    """Probabilities that lean towards the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(classes, size=samples)
    table = rng.dirichlet(np.ones(classes), samples)
    table[np.arange(samples), truth] += strength
    table /= table.sum(axis=1, keepdims=True)
    return table, truth, [f"s{i % (subjects or samples):04d}" for i in range(samples)]


def hot(answers, classes):
    return np.eye(classes)[answers]


def score(table, truth, subjects=None, classes="abcdefghij", **options):
    options = {"resamples": 200} | options
    table = np.asarray(table)
    return classification_figures(
        table,
        truth,
        names(len(table)) if subjects is None else subjects,
        list(classes[: table.shape[1]]),
        **options,
    )


def values(found, key):
    return [row[key]["value"] for row in found["per_class"]]


def test_six_samples_by_hand():
    # truth a a a b b c, answers a a b b c c
    found = score(hot([0, 0, 1, 1, 2, 2], 3), [0, 0, 0, 1, 1, 2])
    assert found["confusion"] == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]
    assert found["accuracy"]["value"] == pytest.approx(4 / 6)
    assert values(found, "recall") == pytest.approx([2 / 3, 1 / 2, 1])
    assert values(found, "precision") == pytest.approx([1, 1 / 2, 1 / 2])
    assert values(found, "f1") == pytest.approx([4 / 5, 1 / 2, 2 / 3])
    assert values(found, "specificity") == pytest.approx([1, 3 / 4, 4 / 5])
    assert found["balanced_accuracy"]["value"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    # kappa: chance is (3*2 + 2*2 + 1*2) / 36 = 1/3
    assert found["kappa"]["value"] == pytest.approx((4 / 6 - 1 / 3) / (2 / 3))
    # Matthews: (4*6 - 12) / sqrt((36 - 14) (36 - 12))
    assert found["mcc"]["value"] == pytest.approx(12 / math.sqrt(22 * 24))
    assert found["majority"]["class"] == "a"
    assert found["majority"]["accuracy"] == pytest.approx(1 / 2)
    assert found["majority"]["balanced_accuracy"] == pytest.approx(1 / 3)
    assert found["majority"]["kappa"] == pytest.approx(0)
    assert found["gain"]["value"] == pytest.approx(1 / 6)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_agrees_with_scikit_learn(classes):
    table, truth, subjects = made(400, classes, seed=classes)
    found = score(table, truth, subjects)
    answers = table.argmax(axis=1)
    assert found["confusion"] == referee.confusion_matrix(truth, answers).tolist()
    for name, function in (
        ("accuracy", referee.accuracy_score),
        ("balanced_accuracy", referee.balanced_accuracy_score),
        ("mcc", referee.matthews_corrcoef),
        ("kappa", referee.cohen_kappa_score),
    ):
        assert found[name]["value"] == pytest.approx(function(truth, answers)), name
    for average in ("macro", "micro"):
        expected = referee.precision_recall_fscore_support(truth, answers, average=average)
        for name, value in zip(("precision", "recall", "f1"), expected[:3], strict=True):
            assert found[f"{name}_{average}"]["value"] == pytest.approx(value)
    precision, recall, f1, support = referee.precision_recall_fscore_support(truth, answers)
    assert values(found, "precision") == pytest.approx(precision)
    assert values(found, "recall") == pytest.approx(recall)
    assert values(found, "f1") == pytest.approx(f1)
    assert [row["n"] for row in found["per_class"]] == support.tolist()
    for k, value in enumerate(values(found, "specificity")):
        assert value == pytest.approx(referee.recall_score(truth != k, answers != k))
    area = referee.roc_auc_score(
        truth, table[:, 1] if classes == 2 else table, multi_class="ovr", average="macro"
    )
    assert found["roc_auc"]["value"] == pytest.approx(area)
    assert found["log_loss"]["value"] == pytest.approx(referee.log_loss(truth, table))
    half = 1 if classes == 2 else 2
    assert found["brier"]["value"] == pytest.approx(
        referee.brier_score_loss(truth, table[:, 1] if classes == 2 else table) / half
    )


def test_a_class_without_a_sample_is_undefined_and_left_out_of_averages():
    # Four samples of a and b; c is answered once and never true.
    found = score(hot([0, 0, 1, 2], 3), [0, 0, 1, 1], resamples=0)
    recall, precision, f1 = (values(found, key) for key in ("recall", "precision", "f1"))
    assert math.isnan(recall[2])
    assert (precision[2], f1[2]) == (0, 0)  # it was answered, wrongly
    assert found["balanced_accuracy"]["value"] == pytest.approx((1 + 1 / 2) / 2)
    assert found["f1_macro"]["value"] == pytest.approx((1 + 2 / 3) / 2)
    assert math.isnan(found["per_class"][2]["roc_auc"]["value"])
    assert found["roc_auc"]["value"] == pytest.approx((1 + 3 / 4) / 2)
    # Never true and never answered: nothing can be said.
    never = score(hot([0, 0, 1, 1], 3), [0, 0, 1, 1], resamples=0)["per_class"][2]
    assert all(math.isnan(never[key]["value"]) for key in ("precision", "recall", "f1"))
    assert never["specificity"]["value"] == 1


def test_a_class_never_answered_has_no_precision_but_costs_the_average():
    found = score(hot([0, 0, 0, 0], 2), [0, 0, 0, 1], resamples=0)
    assert math.isnan(values(found, "precision")[1])
    assert found["precision_macro"]["value"] == pytest.approx((3 / 4 + 0) / 2)
    assert values(found, "f1") == pytest.approx([6 / 7, 0])
    assert math.isnan(found["mcc"]["value"])  # scikit-learn: 0
    assert found["kappa"]["value"] == 0
    assert found["gain"]["value"] == 0


def test_samples_of_one_class_only():
    found = score(hot([0, 0, 1], 2), [0, 0, 0])
    assert found["accuracy"]["value"] == pytest.approx(2 / 3)
    assert found["balanced_accuracy"]["value"] == pytest.approx(2 / 3)
    for key in ("mcc", "roc_auc", "average_precision", "sensitivity_at_specificity"):
        assert math.isnan(found[key]["value"]), key
    assert math.isnan(found["per_class"][0]["specificity"]["value"])
    assert found["curves"]["roc"] == {}
    perfect = score(hot([0, 0], 2), [0, 0])
    assert math.isnan(perfect["kappa"]["value"])


def test_a_class_of_two_subjects_has_no_interval_and_one_of_many_has():
    table, truth, _ = made(60, 2, seed=4)
    truth = np.where(np.arange(60) < 2, 1, 0)
    found = score(table, truth, resamples=1000)
    assert not math.isnan(found["per_class"][1]["recall"]["value"])
    assert math.isnan(found["per_class"][1]["recall"]["ci_low"])
    assert math.isnan(found["balanced_accuracy"]["ci_low"])
    assert not math.isnan(found["accuracy"]["ci_low"])
    assert not math.isnan(found["per_class"][0]["recall"]["ci_low"])
    assert not math.isnan(score(*made(60, 2, seed=4)[:2])["balanced_accuracy"]["ci_low"])


def test_copies_of_samples_do_not_narrow_the_intervals():
    table, truth, subjects = made(40, 3, seed=1)
    once = score(table, truth, subjects, seed=2)
    tenfold = score(np.repeat(table, 10, 0), np.repeat(truth, 10), np.repeat(subjects, 10), seed=2)
    for key in ("accuracy", "balanced_accuracy", "mcc", "roc_auc", "average_precision", "brier"):
        assert tenfold[key] == pytest.approx(once[key]), key
    # Taken for independent, the same samples would look much better known.
    naive = score(np.repeat(table, 10, 0), np.repeat(truth, 10))["accuracy"]
    wide, narrow = (f["ci_high"] - f["ci_low"] for f in (tenfold["accuracy"], naive))
    assert wide > 2 * narrow


def test_interval_covers_the_truth_when_samples_of_a_subject_go_together():
    # Each of 30 subjects has 8 samples, all right or all wrong: 30 observations, not 240.
    rng = np.random.default_rng(5)
    by_subject, by_sample = 0, 0
    trials = 100
    for trial in range(trials):
        truth = np.tile([0, 1], 120)
        right = np.repeat(rng.random(30) < 0.7, 8)
        table = hot(np.where(right, truth, 1 - truth), 2)
        subjects = np.repeat(names(30), 8).tolist()
        low, high = (score(table, truth, subjects, seed=trial)["accuracy"][k]
                     for k in ("ci_low", "ci_high"))  # fmt: skip
        by_subject += low <= 0.7 <= high
        low, high = (score(table, truth, seed=trial)["accuracy"][k] for k in ("ci_low", "ci_high"))
        by_sample += low <= 0.7 <= high
    assert 0.88 <= by_subject / trials <= 0.99
    assert by_sample / trials < 0.7


def test_seed_decides_and_blocks_of_memory_do_not_show(monkeypatch):
    table, truth, subjects = made(50, 3, seed=6, subjects=20)
    first = score(table, truth, subjects, seed=3)
    np.random.seed(0)
    assert repr(score(table, truth, subjects, seed=3)) == repr(first)
    assert score(table, truth, subjects, seed=4)["mcc"] != first["mcc"]
    monkeypatch.setattr("delineate.metrics.statistics._WEIGHTS", 50 * 7)
    again = score(table, truth, subjects, seed=3)
    for key in ("accuracy", "roc_auc", "ece", "aurc"):
        assert again[key] == pytest.approx(first[key])


def test_order_of_samples_does_not_matter():
    table, truth, subjects = made(80, 3, seed=7, subjects=30)
    table = np.round(table, 1) + 1e-3  # with ties
    table /= table.sum(axis=1, keepdims=True)
    turn = np.random.default_rng(0).permutation(80)
    one = score(table, truth, subjects)
    other = score(table[turn], truth[turn], [subjects[i] for i in turn])
    for key in ("accuracy", "roc_auc", "average_precision", "ece", "aurc", "log_loss"):
        assert other[key] == pytest.approx(one[key]), key


def test_thousands_of_samples_take_seconds_not_minutes():
    table, truth, subjects = made(4000, 4, seed=8)
    best = math.inf
    for _ in range(3):  # the machine may be busy
        start = time.perf_counter()
        score(table, truth, subjects, resamples=2000)
        best = min(best, time.perf_counter() - start)
        if best < 2:
            break
    assert best < 6


def test_curves_are_thin_and_plain_data():
    found = score(*made(3000, 2, seed=9, strength=0.1))
    assert found["positive"] == "b"
    for points in (found["curves"]["roc"]["b"], found["curves"]["risk_coverage"]):
        assert 20 < len(points) <= 200
    assert found["curves"]["roc"]["b"][0] == [0, 0]
    assert found["curves"]["roc"]["b"][-1] == [1, 1]
    json.dumps(found)
    area = np.trapezoid(*np.array(found["curves"]["roc"]["b"]).T[::-1])
    assert area == pytest.approx(found["roc_auc"]["value"], abs=2e-3)


def test_confusion_rows_are_truth():
    assert confusion_matrix([0, 0, 1], [1, 1, 1], 2).tolist() == [[0, 2], [0, 1]]


@pytest.mark.parametrize(
    ("table", "truth", "classes", "words"),
    [
        ([[0.5, 0.6]], [0], "ab", "sum to 1"),
        ([[1.5, -0.5]], [0], "ab", "sum to 1"),
        ([[math.nan, 1]], [0], "ab", "sum to 1"),
        ([[0.5, 0.5]], [2], "ab", "class indices 0 to 1"),
        ([[0.5, 0.5]], [0.0], "ab", "class indices"),
        ([[0.5, 0.5]], [0, 1], "ab", "N true classes"),
        ([[0.5, 0.5]], [0], "aa", "all unlike"),
        ([[1.0]], [0], "a", "two classes or more"),
        (np.zeros((0, 2)), [], "ab", "N true classes"),
    ],
)
def test_what_is_no_table_of_probabilities_is_told(table, truth, classes, words):
    with pytest.raises(InputError, match=words):
        score(table, truth, classes=classes)


def test_real_probabilities_of_a_plain_model(real_data):
    from sklearn.linear_model import LogisticRegression

    files = np.load(real_data("pneumoniamnist") / "pneumoniamnist.npz")
    images, labels = files["train_images"], files["train_labels"].ravel()
    x = images.reshape(len(images), -1) / 255.0
    turn = np.random.default_rng(0).permutation(len(x))
    learnt, held = turn[:800], turn[800:2000]
    model = LogisticRegression(C=0.01, max_iter=200).fit(x[learnt], labels[learnt])
    table, truth = model.predict_proba(x[held]), labels[held].astype(int)
    found = score(table, truth, classes=("normal", "pneumonia"), resamples=500)
    assert found["accuracy"]["value"] == pytest.approx((table.argmax(1) == truth).mean())
    assert found["roc_auc"]["value"] == pytest.approx(referee.roc_auc_score(truth, table[:, 1]))
    assert found["majority"]["accuracy"] == pytest.approx(truth.mean())
    assert found["gain"]["ci_low"] > 0
    width = found["accuracy"]["ci_high"] - found["accuracy"]["ci_low"]
    share = found["accuracy"]["value"]
    assert width == pytest.approx(2 * 1.96 * math.sqrt(share * (1 - share) / 1200), rel=0.2)
