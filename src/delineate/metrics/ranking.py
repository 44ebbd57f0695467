"""How well scores put the positive samples before the others: ROC and precision–recall.

Rules for what is undefined, written once: without a positive sample, or without any other, the
area under the ROC curve and the sensitivity at a specificity are NaN; average precision is NaN
without a positive sample. They are never 0, for nothing was tried. Equal scores are one threshold,
so samples that tie are half won and half lost.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from delineate.core.errors import ConfigError, InputError
from delineate.metrics.statistics import (
    FloatArray,
    Statistic,
    running_sums,
)

#: Specificity at which the sensitivity is told, unless another is stated.
SPECIFICITY = 0.9
_ROUNDING = 1e-9
_SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")


class Curve(NamedTuple):
    """Points of a curve, one a threshold: samples with ``score >= threshold`` count as positive."""

    x: FloatArray
    y: FloatArray
    thresholds: FloatArray


def roc_curve(scores: ArrayLike, positive: ArrayLike) -> Curve:
    """False-positive rate against true-positive rate, from (0, 0) to (1, 1).

    Args:
        scores: Larger is more likely positive ``(N,)``.
        positive: Whether it is ``(N,)``.

    Returns:
        x = 1 - specificity, y = sensitivity. NaN where a rate is undefined.

    Raises:
        InputError: The arrays are not of one length, or a score is not finite.
    """
    tp, fp, thresholds = _counts(scores, positive)
    with np.errstate(invalid="ignore"):
        fpr, tpr = (np.concatenate([[0.0], counts]) / counts[-1:].sum() for counts in (fp, tp))
    return Curve(fpr, tpr, np.concatenate([[np.inf], thresholds]))


def precision_recall_curve(scores: ArrayLike, positive: ArrayLike) -> Curve:
    """Recall against precision, from the highest threshold down.

    Interpolation between the points is a step, not a line (Davis and Goadrich 2006).

    Args:
        scores: Larger is more likely positive ``(N,)``.
        positive: Whether it is ``(N,)``.

    Returns:
        x = recall (NaN without a positive sample), y = precision.

    Raises:
        InputError: The arrays are not of one length, or a score is not finite.
    """
    tp, fp, thresholds = _counts(scores, positive)
    with np.errstate(invalid="ignore"):
        return Curve(tp / tp[-1:].sum(), tp / (tp + fp), thresholds)


def ranking_statistic(
    scores: ArrayLike, positive: ArrayLike, specificity: float = SPECIFICITY
) -> Statistic:
    """Area under the ROC curve, average precision and sensitivity at a specificity.

    * ``roc_auc``: the chance that a positive sample scores higher than another one, ties half
      (Hanley and McNeil 1982).
    * ``average_precision``: precision at every threshold, weighted by the recall gained there.
    * ``sensitivity_at_specificity``: the largest sensitivity of all thresholds that reach the
      specificity, without interpolation. The threshold is chosen on the samples themselves, in
      every resample anew.

    Args:
        scores: ``(N,)``.
        positive: ``(N,)``.
        specificity: 0 to 1.

    Returns:
        For :func:`delineate.metrics.statistics.bootstrap_figures`.

    Raises:
        InputError: The arrays are not of one length, or a score is not finite.
        ConfigError: The specificity is not a share.
    """
    if not 0 <= specificity <= 1:
        raise ConfigError(f"expected a specificity of 0 to 1, got {specificity}")
    numbers, marks = _checked(scores, positive)
    ranks = -numbers  # from the highest score down
    hits, misses = (rows[np.argsort(ranks[rows], kind="stable")]
                    for rows in (np.flatnonzero(marks), np.flatnonzero(~marks)))  # fmt: skip
    thresholds = np.unique(ranks[hits])  # no other threshold changes the sensitivity
    detected = np.searchsorted(ranks[hits], thresholds, "right")
    above, alarms = (np.searchsorted(ranks[misses], thresholds, side) for side in _SIDES)

    def statistic(weights: FloatArray) -> dict[Any, FloatArray]:
        tp, fp = running_sums(weights, hits, detected), running_sums(weights, misses, alarms)
        positives, negatives = weights[hits].sum(axis=0), weights[misses].sum(axis=0)
        gained = np.diff(tp, axis=0, prepend=0)
        beaten = fp if (above == alarms).all() else (fp + running_sums(weights, misses, above)) / 2
        called = tp + fp
        precision = np.divide(tp, called, out=np.zeros_like(tp), where=called > 0)
        allowed = fp <= (1 - specificity) * negatives + _ROUNDING
        reached = np.where(allowed, tp, 0).max(axis=0, initial=0)
        return {
            "roc_auc": _share((gained * (negatives - beaten)).sum(axis=0), positives * negatives),
            "average_precision": _share((gained * precision).sum(axis=0), positives),
            "sensitivity_at_specificity": _share(reached * negatives, positives * negatives),
        }

    return statistic


def _counts(scores: ArrayLike, positive: ArrayLike) -> tuple[FloatArray, FloatArray, FloatArray]:
    """True positives, false positives and score at every threshold, from the highest down."""
    numbers, marks = _checked(scores, positive)
    order = np.argsort(-numbers, kind="stable")
    ends = np.flatnonzero(np.diff(numbers[order], append=np.nan) != 0)
    tp = np.cumsum(marks[order])[ends].astype(np.float64)
    return tp, 1 + ends - tp, numbers[order][ends]


def _checked(scores: ArrayLike, positive: ArrayLike) -> tuple[FloatArray, NDArray[np.bool_]]:
    numbers, marks = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=np.bool_)
    if numbers.ndim != 1 or numbers.shape != marks.shape or not np.isfinite(numbers).all():
        raise InputError(
            "expected a finite score and a mark for each sample, got "
            f"{numbers.shape} and {marks.shape}, {np.count_nonzero(~np.isfinite(numbers))} of the "
            "scores not finite"
        )
    return numbers, marks


def _share(part: FloatArray, whole: FloatArray) -> FloatArray:
    ratio: FloatArray = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return ratio
