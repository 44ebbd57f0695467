"""All figures of a classifier, from one table of probabilities, with intervals over subjects.

Each sample has one true class, and its answer is the class of the largest probability (the first of
equals). Figures are over samples, as scikit-learn's; their intervals draw whole subjects, for two
slices of one person are not two observations.

Rules for what is undefined (0/0), written once. Nothing undefined is shown as 0:

* recall of a class without a sample, precision of a class that was never answered, specificity
  where every sample is of the class: NaN. F1 is ``2 TP / (true + answered)``: NaN only where the
  class is neither true nor answered, 0 where it is missed altogether.
* Averages over classes (macro) are over the classes that some sample has. A class among them that
  was never answered counts as precision 0 there, since leaving it out would reward ignoring it.
* In a resample that lacks one of these classes its figures and the averages are NaN; a figure that
  this befalls in more than 5 % of the resamples (a class of one or two subjects) has no interval.
  Nor has one that all resamples give alike, such as an accuracy of 1.
* Matthews' correlation where all samples are of one class, or all answers are: NaN (scikit-learn
  gives 0). Cohen's kappa: NaN only where all samples and answers are of one and the same class.
* With one class a sample, micro precision, recall and F1 all are the accuracy.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from delineate.core.errors import InputError
from delineate.metrics import calibration, ranking
from delineate.metrics.statistics import (
    LEVEL,
    Figure,
    FloatArray,
    Statistic,
    bootstrap_figures,
)

Indices = NDArray[np.intp]
RESAMPLES = 2000
#: Probabilities of a sample may miss 1 by so much (float16 does).
_TOLERANCE = 2e-3
#: A curve is written with at most so many points.
_POINTS = 200
_PER_CLASS = ("precision", "recall", "specificity", "f1")
_RANKED = ("roc_auc", "average_precision", "sensitivity_at_specificity")


def confusion_matrix(truth: ArrayLike, answers: ArrayLike, classes: int) -> NDArray[np.int64]:
    """Counts ``(K, K)``; entry ``[t, a]`` is of samples of class t that were answered a."""
    code = np.asarray(truth, np.intp) * classes + np.asarray(answers, np.intp)
    return np.bincount(code, minlength=classes**2).reshape(classes, classes).astype(np.int64)


def decision_statistic(truth: Indices, answers: Indices, classes: int) -> Statistic:
    """Figures of answers: accuracy, kappa, Matthews' correlation, and those of each class.

    Args:
        truth: Class indices ``(N,)``.
        answers: Class indices ``(N,)``.
        classes: Number of classes K.

    Returns:
        For :func:`delineate.metrics.statistics.bootstrap_figures`: ``accuracy``,
        ``balanced_accuracy`` (macro recall), ``precision_macro``, ``f1_macro``,
        ``specificity_macro``, ``mcc`` (Gorodkin 2004), ``kappa`` (Cohen 1960, unweighted), and
        ``(name, k)`` for precision, recall, specificity and F1 of class k.
    """
    class_indices = np.arange(classes)[:, None]
    of_truth, of_answer = (
        (truth == class_indices).astype(float),
        (answers == class_indices).astype(float),
    )
    hits = of_truth * of_answer
    present = of_truth.any(axis=1)

    def statistic(weights: FloatArray) -> dict[Any, FloatArray]:
        tp, true, called = (marks @ weights for marks in (hits, of_truth, of_answer))
        total, right = weights.sum(axis=0), tp.sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            scores = {
                "precision": tp / called,
                "recall": tp / true,
                "specificity": (total - true - called + tp) / (total - true),
                "f1": 2 * tp / (true + called),
            }
            counted = scores | {"precision": np.where((called == 0) & (true > 0), 0, tp / called)}
            accuracy = right / total
            chance = (true * called).sum(axis=0) / total**2
            spread = (total**2 - (true**2).sum(axis=0)) * (total**2 - (called**2).sum(axis=0))
            figures: dict[Any, FloatArray] = {
                "accuracy": accuracy,
                "mcc": (right * total - chance * total**2)
                / np.sqrt(np.where(spread > 0, spread, np.nan)),
                "kappa": (accuracy - chance) / np.where(chance < 1, 1 - chance, np.nan),
            }
        undefined_unless_all = np.where((true[present] > 0).all(axis=0), 1.0, np.nan)
        for name, values in counted.items():
            any_present = present.any()
            figures[f"{name}_macro"] = (
                undefined_unless_all * values[present].mean(axis=0)
                if any_present
                else undefined_unless_all * np.nan
            )
        figures["balanced_accuracy"] = figures.pop("recall_macro")
        figures |= {(name, k): scores[name][k] for name in scores for k in range(classes)}
        return figures

    return statistic


def classification_figures(
    probabilities: ArrayLike,
    truth: ArrayLike,
    subjects: Sequence[str],
    classes: Sequence[str],
    *,
    specificity: float = ranking.SPECIFICITY,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> dict[str, Any]:
    """Score a table of probabilities; see the module for what is undefined.

    Args:
        probabilities: ``(N, K)``, rows sum to 1.
        truth: Class indices ``(N,)``.
        subjects: The subject of each sample.
        classes: Names of the K classes. Of two, the second is the positive one.
        specificity: At which the sensitivity is told.
        seed: Seed of the bootstrap.
        resamples: Number of resamples.
        level: Coverage of the intervals.

    Returns:
        Plain data, a figure being ``{"value", "ci_low", "ci_high"}``:

        * ``n_samples``, ``n_subjects``, ``positive`` (None for more than two classes),
          ``specificity`` (as stated);
        * figures ``accuracy``, ``balanced_accuracy``, ``precision_macro``, ``recall_macro``,
          ``f1_macro``, ``specificity_macro``, the micro forms, ``mcc``, ``kappa``, ``ece``,
          ``brier``, ``log_loss``, ``aurc``, and ``roc_auc``, ``average_precision``,
          ``sensitivity_at_specificity``: of the positive class, or each class against the
          rest, averaged;
        * ``majority``: what being sure of the commonest class always would score (values), and
          ``gain``, the accuracy above it (a figure, paired);
        * ``per_class``: ``class``, ``n``, ``n_subjects``, ``n_answered`` and figures;
        * ``confusion`` ``[truth][answer]``, ``reliability`` (bins), ``ece_by_chance`` (what
          perfect calibration would show: ``mean``, and ``high``, its upper end);
        * ``curves``: points of ``roc`` and ``precision_recall`` by class, and ``risk_coverage``.

    Raises:
        InputError: Shapes do not fit, probabilities are none, or a class is out of range.
    """
    table, indices = _checked(probabilities, truth, subjects, classes)
    answers = table.argmax(axis=1)
    supports = np.bincount(indices, minlength=len(classes))
    commonest = int(supports.argmax())

    def statistic(weights: FloatArray) -> Mapping[Hashable, FloatArray]:
        figures_drawn = dict(all_figures(weights))
        always = (indices == commonest) @ weights / weights.sum(axis=0)
        return figures_drawn | {"gain": figures_drawn["accuracy"] - always}

    all_figures = _all_figures(table, indices, specificity)
    figures = bootstrap_figures(
        statistic, subjects, seed=seed, resamples=resamples, level=level, inflated=("ece",)
    )
    chance = calibration.ece_by_chance(table, seed=seed)
    if figures["ece"]["value"] <= chance[1] and not np.isnan(figures["ece"]["ci_low"]):
        figures["ece"]["ci_low"] = 0.0  # perfect calibration shows as much
    constant = np.tile(np.eye(len(classes))[commonest], (len(table), 1))
    always = _all_figures(constant, indices, specificity)(np.ones((len(table), 1)))
    baseline = {str(k): float(v[0]) for k, v in always.items() if isinstance(k, str)}
    del baseline["log_loss"]  # of a probability of 0
    if len(classes) == 2:
        figures["roc_auc", 0] = figures["roc_auc", 1]  # the same pairs, seen from the other side
    flat = {name: figure for name, figure in figures.items() if isinstance(name, str)}
    flat["recall_macro"] = flat["balanced_accuracy"]
    flat |= {f"{name}_micro": flat["accuracy"] for name in ("precision", "recall", "f1")}
    return {
        "n_samples": len(table),
        "n_subjects": len(set(subjects)),
        "positive": classes[1] if len(classes) == 2 else None,
        "specificity": specificity,
        **flat,
        "majority": {"class": classes[commonest], **baseline},
        "per_class": [
            {
                "class": name,
                "n": int(supports[k]),
                "n_subjects": len({s for s, c in zip(subjects, indices, strict=True) if c == k}),
                "n_answered": int(np.count_nonzero(answers == k)),
                **{m: figures[m, k] for m in (*_PER_CLASS, *_RANKED) if (m, k) in figures},
            }
            for k, name in enumerate(classes)
        ],
        "confusion": confusion_matrix(indices, answers, len(classes)).tolist(),
        "ece_by_chance": {"mean": chance[0], "high": chance[1]},
        "reliability": _reliability(table, indices, figures),
        "curves": _curves(table, indices, classes),
    }


def _all_figures(table: FloatArray, truth: Indices, specificity: float) -> Statistic:
    """All figures of a table, those of the ranking averaged over the classes that occur."""
    size = table.shape[1]
    ranked = {
        k: ranking.ranking_statistic(table[:, k], truth == k, specificity)
        for k in ([1] if size == 2 else range(size))
    }
    averaged = [k for k in ranked if size == 2 or (truth == k).any()]
    decided = decision_statistic(truth, table.argmax(axis=1), size)
    trusted = calibration.calibration_statistic(table, truth)

    def statistic(weights: FloatArray) -> Mapping[Hashable, FloatArray]:
        by_class = {k: of_class(weights) for k, of_class in ranked.items()}
        by_metric_and_class: dict[Any, FloatArray] = {
            (m, k): figures[m] for k, figures in by_class.items() for m in _RANKED
        }
        means: dict[Any, FloatArray] = {
            m: np.mean([by_metric_and_class[m, k] for k in averaged], axis=0) for m in _RANKED
        }
        return {**decided(weights), **by_metric_and_class, **means, **trusted(weights)}

    return statistic


def _reliability(
    table: FloatArray, truth: Indices, figures: Mapping[Hashable, Figure]
) -> list[dict[str, float]]:
    return [
        {**row, **{end: figures["accuracy", int(row["bin"])][end] for end in ("ci_low", "ci_high")}}
        for row in calibration.reliability_curve(table, truth)
    ]


def _curves(table: FloatArray, truth: Indices, classes: Sequence[str]) -> dict[str, Any]:
    class_indices = [1] if len(classes) == 2 else range(len(classes))
    roc, precision_recall = {}, {}
    for k in (k for k in class_indices if (truth == k).any() and (truth != k).any()):
        curve = ranking.roc_curve(table[:, k], truth == k)
        roc[classes[k]] = _thin(curve.x, curve.y)
        curve = ranking.precision_recall_curve(table[:, k], truth == k)
        precision_recall[classes[k]] = _thin(curve.x, curve.y)
    coverage, risk = calibration.risk_coverage(table, truth)
    return {
        "roc": roc,
        "precision_recall": precision_recall,
        "risk_coverage": _thin(coverage, risk),
    }


def _thin(x: FloatArray, y: FloatArray) -> list[list[float]]:
    """Points ``[x, y]``: those where the curve turns, then as many as a picture can show."""
    turns = np.ones(len(x), bool)
    step_x, step_y = np.diff(x), np.diff(y)
    turns[1:-1] = np.abs(step_x[1:] * step_y[:-1] - step_x[:-1] * step_y[1:]) > 1e-15
    points = np.flatnonzero(turns)
    if len(points) > _POINTS:
        points = points[np.unique(np.linspace(0, len(points) - 1, _POINTS).round().astype(int))]
    return [
        [round(float(a), 6), round(float(b), 6)] for a, b in zip(x[points], y[points], strict=True)
    ]


def _checked(
    probabilities: ArrayLike, truth: ArrayLike, subjects: Sequence[str], classes: Sequence[str]
) -> tuple[FloatArray, Indices]:
    table, indices = np.asarray(probabilities, np.float64), np.asarray(truth)
    size, count = len(subjects), len(classes)
    if count < 2 or len(set(classes)) < count:
        raise InputError(f"expected two classes or more, all unlike, got {list(classes)}")
    if table.shape != (size, count) or indices.shape != (size,) or not size:
        raise InputError(
            "expected probabilities (N, K), N true classes, N subjects and K names, got "
            f"{table.shape}, {indices.shape}, {size} and {count}"
        )
    if indices.dtype.kind not in "iu" or not 0 <= indices.min() <= indices.max() < count:
        raise InputError(f"expected class indices 0 to {count - 1}, got {np.unique(indices)[:8]}")
    wrong = ~np.isfinite(table).all(axis=1)
    wrong |= (table < 0).any(axis=1) | (np.abs(table.sum(axis=1) - 1) > _TOLERANCE)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise InputError(
            f"expected probabilities of 0 to 1 that sum to 1, got {table[row].tolist()} in row "
            f"{row} ({np.count_nonzero(wrong)} such rows)",
            fix="give probabilities, not logits",
            code="probabilities",
        )
    return table / table.sum(axis=1, keepdims=True), indices.astype(np.intp)
