"""Whether probabilities can be taken at their word, and whether sure answers are right ones.

Confidence is the probability of the answer, the largest of a sample. Samples of equal confidence
are kept, or left, together.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from delineate.core.errors import InputError
from delineate.metrics.statistics import FloatArray, Statistic, running_sums

#: Bins of equal width between 0 and 1 (Guo et al. 2017).
BINS = 15
#: Cases below which no temperature is fitted.
LEAST_CASES = 20
#: Bounds of the temperature.
TEMPERATURES = (0.05, 20.0)
_TINY = float(np.finfo(np.float64).eps)
_DRAWS = 200


def calibration_statistic(
    probabilities: FloatArray, truth: NDArray[np.intp], bins: int = BINS
) -> Statistic:
    """Calibration error, Brier score, log loss, risk–coverage and the reliability curve.

    * ``ece``: expected calibration error: over bins of confidence of equal width, the mean
      distance between confidence and accuracy (Naeini et al. 2015; Guo et al. 2017,
      arXiv:1706.04599). Noise makes it larger, see :func:`ece_by_chance`.
    * ``brier``: half the squared distance between the probabilities and the truth as 0 and 1
      (Brier 1950, halved: 0 to 1, and for two classes the mean of ``(p - y)**2``).
    * ``log_loss``: minus the logarithm of the probability of the truth, kept above 2e-16.
    * ``aurc``: area under the risk–coverage curve: the error among the surest, averaged over how
      many are kept (Geifman and El-Yaniv 2017, arXiv:1705.08500).
    * ``("confidence", b)``, ``("accuracy", b)``: means in bin b, NaN in an empty one.

    Args:
        probabilities: ``(N, K)``, rows sum to 1.
        truth: Class indices ``(N,)``.
        bins: Number of bins.

    Returns:
        For :func:`delineate.metrics.statistics.bootstrap_figures`.
    """
    confidence, correct, place = _binned(probabilities, truth, bins)
    of_truth = probabilities[np.arange(len(truth)), truth]
    brier = ((probabilities**2).sum(axis=1) - 2 * of_truth + 1) / 2
    loss = -np.log(np.maximum(of_truth, _TINY))
    used = np.unique(place)
    inside = (place == used[:, None]).astype(np.float64)
    order, ends = _surest_first(confidence)
    wrong = order[correct[order] == 0]
    mistakes = np.cumsum(correct[order] == 0)[ends - 1]

    def statistic(weights: FloatArray) -> dict[Any, FloatArray]:
        total = weights.sum(axis=0)
        counts, confident, right = (inside * v @ weights for v in (1.0, confidence, correct))
        covered = running_sums(weights, order, ends)
        risk = running_sums(weights, wrong, mistakes)
        np.divide(risk, covered, out=risk, where=covered > 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            figures: dict[Any, FloatArray] = {
                "ece": np.abs(confident - right).sum(axis=0) / total,
                "brier": brier @ weights / total,
                "log_loss": loss @ weights / total,
                "aurc": (np.diff(covered, axis=0, prepend=0) * risk).sum(axis=0) / total,
            }
            for row, b in enumerate(used.tolist()):
                figures["confidence", b] = confident[row] / counts[row]
                figures["accuracy", b] = right[row] / counts[row]
        return figures

    return statistic


def reliability_curve(
    probabilities: ArrayLike, truth: ArrayLike, bins: int = BINS
) -> list[dict[str, float]]:
    """Confidence against accuracy, bin by bin; bins without a sample are left out.

    Args:
        probabilities: ``(N, K)``, rows sum to 1.
        truth: Class indices ``(N,)``.
        bins: Number of bins of equal width; a bin holds its upper end.

    Returns:
        ``bin``, ``low``, ``high``, ``confidence``, ``accuracy``, ``n`` of each.
    """
    table, classes = np.asarray(probabilities, np.float64), np.asarray(truth, np.intp)
    confidence, correct, place = _binned(table, classes, bins)
    return [
        {
            "bin": b,
            "low": b / bins,
            "high": (b + 1) / bins,
            "confidence": float(confidence[place == b].mean()),
            "accuracy": float(correct[place == b].mean()),
            "n": int(np.count_nonzero(place == b)),
        }
        for b in np.unique(place).tolist()
    ]


def ece_by_chance(
    probabilities: ArrayLike, *, bins: int = BINS, seed: int = 0
) -> tuple[float, float]:
    """The ECE that perfect calibration would show on so few samples.

    Every answer is made right with its own confidence as chance, many times over, samples being
    independent. An ECE below the upper number says nothing against the probabilities.

    Args:
        probabilities: ``(N, K)``.
        bins: Number of bins.
        seed: Seed of the draws.

    Returns:
        Mean, and what 95 % of the draws stay below.
    """
    table = np.asarray(probabilities, np.float64)
    confidence, _, place = _binned(table, np.zeros(len(table), np.intp), bins)
    right = np.random.default_rng(seed).random((len(confidence), _DRAWS)) < confidence[:, None]
    inside = (place == np.unique(place)[:, None]).astype(np.float64)
    errors = np.abs(inside @ (confidence[:, None] - right)).sum(axis=0) / len(table)
    return float(errors.mean()), float(np.quantile(errors, 0.95))


def risk_coverage(probabilities: ArrayLike, truth: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Share of wrong answers among the surest, against the share of samples that they are.

    Args:
        probabilities: ``(N, K)``, rows sum to 1.
        truth: Class indices ``(N,)``.

    Returns:
        Coverage ``(T,)``, growing to 1, and risk ``(T,)``, at each of T levels of confidence.
    """
    table, classes = np.asarray(probabilities, np.float64), np.asarray(truth, np.intp)
    confidence, correct, _ = _binned(table, classes, BINS)
    order, covered = _surest_first(confidence)
    return covered / max(1, len(order)), np.cumsum(1 - correct[order])[covered - 1] / covered


def fit_temperature(logits: ArrayLike, truth: ArrayLike) -> float:
    """The temperature T for which ``softmax(logits / T)`` has the least log loss.

    One number, so that no answer changes, only how sure it is (Guo et al. 2017,
    arXiv:1706.04599). Fit it on cases that chose no weights, one row a case.

    Args:
        logits: ``(N, K)``; logarithms of probabilities serve as well.
        truth: Class indices ``(N,)``.

    Returns:
        Between 0.05 and 20: above 1 where the answers were too sure.

    Raises:
        InputError: Fewer than 20 cases, cases of one class alone, no wrong answer among them (the
            best temperature would be 0: sure of everything), or logits that are not finite.
    """
    from scipy.optimize import minimize_scalar

    table, classes = np.asarray(logits, np.float64), np.asarray(truth, np.intp)
    _refuse(table, classes)
    rows = np.arange(len(classes))

    def loss(log_temperature: float) -> float:
        scaled = table / np.exp(log_temperature)
        return float((_log_sum(scaled) - scaled[rows, classes]).mean())

    low, high = np.log(TEMPERATURES)
    optimum = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(optimum.x))


def _refuse(logits: FloatArray, truth: NDArray[np.intp]) -> None:
    if logits.ndim != 2 or truth.shape != logits.shape[:1] or not np.isfinite(logits).all():
        raise InputError(
            f"expected finite logits (N, K) and N classes, got {logits.shape} and {truth.shape}"
        )
    n_classes = len(np.unique(truth))
    reason = ""
    if len(truth) < LEAST_CASES:
        reason = f"{LEAST_CASES} cases or more, got {len(truth)}"
    elif n_classes < 2:
        reason = "cases of two classes or more, got one class"
    elif (logits.argmax(axis=1) == truth).all():
        reason = "a wrong answer among the cases, got none: the best temperature would be 0"
    if reason:
        raise InputError(
            f"to fit a temperature, expected {reason}",
            fix="keep the probabilities as they are (temperature 1)",
            code="calibration-cases",
        )


def _log_sum(logits: FloatArray) -> FloatArray:
    top = logits.max(axis=-1)
    return np.asarray(top + np.log(np.exp(logits - top[..., None]).sum(axis=-1)))


def _binned(
    probabilities: FloatArray, truth: NDArray[np.intp], bins: int
) -> tuple[FloatArray, FloatArray, NDArray[np.intp]]:
    """Confidence, 1 for a right answer, and bin of each sample."""
    confidence = probabilities.max(axis=1, initial=0)
    correct = (probabilities.argmax(axis=1) == truth).astype(np.float64)
    place = np.clip(np.ceil(confidence * bins - 1e-9).astype(np.intp) - 1, 0, bins - 1)
    return confidence, correct, place


def _surest_first(confidence: FloatArray) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Samples from the surest down, and how many there are down to each level of confidence."""
    order = np.argsort(-confidence, kind="stable")
    return order, 1 + np.flatnonzero(np.diff(confidence[order], append=np.nan) != 0)
