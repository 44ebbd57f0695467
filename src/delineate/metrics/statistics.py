"""From numbers per case to statements about subjects: intervals and paired comparisons.

The unit is the subject. Cases of one subject are averaged first, and resampling draws subjects,
never cases: two scans of one person are not two independent observations. Intervals are
percentile bootstrap intervals (Efron 1979); with fewer than about 15 subjects they are somewhat
too narrow. All functions are pure in their seed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from delineate.core.errors import InputError

FloatArray = NDArray[np.float64]
RESAMPLES = 5000
LEVEL = 0.95
#: Resampled values held in memory at once.
_CHUNK = 4_000_000
#: Weights of samples held at once: small enough to stay near the processor.
_WEIGHTS = 500_000
#: A figure that more of the resamples leave undefined has no interval. A class with fewer than
#: three subjects is lacking in more of them, so that nothing is said of it.
MOST_UNDEFINED = 0.05
_SAME = 1e-12  # numbers that differ by their rounding alone

#: Weights of samples ``(N, R)`` -> name -> figure under each of the R weightings ``(R,)``.
Statistic = Callable[[FloatArray], Mapping[Hashable, FloatArray]]
#: ``value``, ``ci_low``, ``ci_high``.
Figure = dict[str, float]


def by_subject(values: ArrayLike, subjects: Sequence[str]) -> tuple[list[str], FloatArray]:
    """Average the cases of every subject; NaN (undefined) cases are left out.

    Args:
        values: One number a case ``(N,)``.
        subjects: The subject of each case, ``N`` of them.

    Returns:
        Sorted subject names and their means; a subject without any defined case is not listed.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or len(numbers) != len(subjects):
        raise InputError(f"expected one value a case, got {numbers.shape} for {len(subjects)}")
    defined = ~np.isnan(numbers)
    names_of_cases = [name for name, ok in zip(subjects, defined, strict=True) if ok]
    names, index = (
        np.unique(names_of_cases, return_inverse=True)
        if names_of_cases
        else (np.array([]), np.array([]))
    )
    index = index.astype(np.intp)
    sums = np.bincount(index, weights=numbers[defined], minlength=len(names))
    return [str(name) for name in names], sums / np.bincount(index, minlength=len(names))


def bootstrap(
    values: FloatArray, *, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Percentile bootstrap intervals of the mean and of the median.

    Args:
        values: One number a subject ``(N,)``, none NaN.
        seed: Same seed and ``N``, same resamples.
        resamples: Number of resamples.
        level: Coverage.

    Returns:
        ``(low, high)`` of the mean and of the median; NaN below two subjects.
    """
    size = len(values)
    if size < 2:
        return (float("nan"),) * 2, (float("nan"),) * 2
    rng = np.random.default_rng(seed)
    means, medians = [], []
    for start in range(0, resamples, rows := max(1, _CHUNK // size)):
        drawn = values[rng.integers(size, size=(min(rows, resamples - start), size))]
        means.append(drawn.mean(axis=1))
        medians.append(np.median(drawn, axis=1))
    return _interval(np.concatenate(means), level), _interval(np.concatenate(medians), level)


def summarise(
    values: ArrayLike,
    subjects: Sequence[str],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> dict[str, Any]:
    """Describe one metric over subjects.

    Returns:
        ``mean``, ``ci_low``, ``ci_high`` (of the mean), ``median``, ``median_ci_low``,
        ``median_ci_high``, ``sd`` (between subjects), ``min``, ``max``, ``n_cases``,
        ``n_subjects``. NaN where there is nothing to say.
    """
    _, means = by_subject(values, subjects)
    nan = float("nan")
    mean_ci, median_ci = bootstrap(means, seed=seed, resamples=resamples, level=level)
    has_values = len(means) > 0
    return {
        "mean": float(means.mean()) if has_values else nan,
        "ci_low": mean_ci[0],
        "ci_high": mean_ci[1],
        "median": float(np.median(means)) if has_values else nan,
        "median_ci_low": median_ci[0],
        "median_ci_high": median_ci[1],
        "sd": float(means.std(ddof=1)) if len(means) > 1 else nan,
        "min": float(means.min()) if has_values else nan,
        "max": float(means.max()) if has_values else nan,
        "n_cases": int(np.count_nonzero(~np.isnan(np.asarray(values, dtype=np.float64)))),
        "n_subjects": len(means),
    }


def bootstrap_figures(
    statistic: Statistic,
    subjects: Sequence[str],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    inflated: Collection[Hashable] = (),
) -> dict[Hashable, Figure]:
    """Figures of a whole table of samples, with intervals over subjects.

    A figure such as the area under a curve is no mean over subjects; so subjects are drawn with
    all their samples, and it is worked out anew, as a function of how often each sample was drawn.

    Args:
        statistic: Weights of samples ``(N, R)`` -> name -> ``(R,)``; NaN where a figure is
            undefined.
        subjects: The subject of each of N samples.
        seed: Same seed and subjects, same resamples.
        resamples: Number of resamples; 0 for values alone.
        level: Coverage.
        inflated: Names of figures that noise makes larger, as it does a calibration error.
            Resampling adds noise once more, so their interval also holds the one reflected about
            the value (the basic bootstrap), down to 0.

    Returns:
        Name -> ``value``, ``ci_low``, ``ci_high``. No interval (NaN) below two subjects, where more
        than 5 % of the resamples leave a figure undefined, or where all give the same: that none
        of few is wrong does not mean that none ever will be.
    """
    names, index = np.unique(np.asarray(subjects, dtype=np.str_), return_inverse=True)
    nan = float("nan")
    values = {k: float(v[0]) for k, v in statistic(np.ones((len(index), 1))).items()}
    figures = {k: {"value": v, "ci_low": nan, "ci_high": nan} for k, v in values.items()}
    size = len(names)
    if size < 2 or resamples < 1:
        return figures
    rng = np.random.default_rng(seed)
    resampled: dict[Hashable, list[FloatArray]] = {key: [] for key in values}
    for start in range(0, resamples, rows := max(1, _WEIGHTS // len(index))):
        count = min(rows, resamples - start)
        draw = rng.integers(size, size=(count, size)) + size * np.arange(count)[:, None]
        times = np.bincount(draw.ravel(), minlength=count * size).reshape(count, size)
        for key, figure in statistic(times.T.astype(np.float64, order="C")[index]).items():
            resampled[key].append(figure)
    for key, parts in resampled.items():
        all_values = np.concatenate(parts)
        defined = all_values[~np.isnan(all_values)]
        if len(defined) < (1 - MOST_UNDEFINED) * len(all_values) or np.isnan(values[key]):
            continue
        if np.ptp(defined) < _SAME:
            continue
        low, high = _interval(defined, level)
        if key in inflated:
            low, high = max(0.0, min(low, 2 * values[key] - high)), max(high, 2 * values[key] - low)
        figures[key] |= {"ci_low": low, "ci_high": high}
    return figures


def running_sums(
    weights: FloatArray, rows: NDArray[np.intp], counts: NDArray[np.intp]
) -> FloatArray:
    """Sums of the first ``counts`` (T,) of ``rows`` of weights ``(N, R)``: ``(T, R)``."""
    sums = np.zeros((len(rows) + 1, weights.shape[1]))
    np.cumsum(weights[rows], axis=0, out=sums[1:])
    return sums[counts]


def compare_paired(
    a: ArrayLike,
    b: ArrayLike,
    subjects: Sequence[str],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> dict[str, Any]:
    """Compare two models on the same cases: ``a - b`` within each subject.

    Cases in which either is NaN are left out. The test is Wilcoxon's signed-rank test over
    subjects, two-sided (exact for few subjects without ties); equal models give p = 1.

    Args:
        a: One number a case ``(N,)``, of the first model.
        b: The same cases, of the second model.
        subjects: The subject of each case.
        seed: Seed of the bootstrap.
        resamples: Number of resamples.
        level: Coverage of the interval.

    Returns:
        ``difference`` (mean), ``ci_low``, ``ci_high``, ``median_difference``, ``p_value``,
        ``n_subjects``, ``wins``, ``losses`` (subjects with a > b, a < b).
    """
    from scipy.stats import wilcoxon  # 0.6 s that only this function needs

    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise InputError(f"expected the same cases for both, got {first.shape} and {second.shape}")
    _, deltas = by_subject(first - second, subjects)
    (low, high), _ = bootstrap(deltas, seed=seed, resamples=resamples, level=level)
    has_values = len(deltas) > 0
    p_value = float("nan")
    if has_values:
        p_value = float(wilcoxon(deltas).pvalue) if np.any(deltas != 0) else 1.0
    return {
        "difference": float(deltas.mean()) if has_values else float("nan"),
        "ci_low": low,
        "ci_high": high,
        "median_difference": float(np.median(deltas)) if has_values else float("nan"),
        "p_value": p_value,
        "n_subjects": len(deltas),
        "wins": int(np.count_nonzero(deltas > 0)),
        "losses": int(np.count_nonzero(deltas < 0)),
    }


def bootstrap_draws(
    differences: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> tuple[float, float]:
    """Interval of a mean paired difference over repeated trainings: draws, then subjects.

    Args:
        differences: ``(draws, subjects)``: models trained on several labelled subsets, judged on
            the same subjects. Draws are resampled first, then subjects within each drawn one.
        seed: Seed of the bootstrap.
        resamples: Number of resamples.
        level: Coverage.

    Returns:
        ``(low, high)``; NaN below two draws or two subjects.
    """
    means = _means_of_draws(differences, seed, resamples)
    return (float("nan"), float("nan")) if means is None else _interval(means, level)


def compare_draws(
    differences: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> dict[str, Any]:
    """A mean paired difference over repeated trainings, resampled as by ``bootstrap_draws``.

    Args:
        differences: ``(draws, subjects)``.
        seed: Seed of the bootstrap.
        resamples: Number of resamples.
        level: Coverage of the interval.

    Returns:
        ``difference`` (mean), ``ci_low``, ``ci_high``, ``p_value`` (two-sided: twice the share of
        resamples on the other side of 0, which agrees with the interval; 1 where all are alike)
        and ``n_subjects``; NaN where there is nothing to say.
    """
    table = np.asarray(differences, dtype=np.float64)
    means = _means_of_draws(table, seed, resamples)
    nan = float("nan")
    low, high = (nan, nan) if means is None else _interval(means, level)
    p_value = nan
    if means is not None:
        tail = min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0))
        p_value = min(1.0, 2 * (float(tail) + 1) / (len(means) + 1))
    return {
        "difference": float(table.mean()) if table.size else nan,
        "ci_low": low, "ci_high": high, "p_value": p_value,
        "n_subjects": table.shape[1] if table.size else 0,
    }  # fmt: skip


def _means_of_draws(differences: ArrayLike, seed: int, resamples: int) -> FloatArray | None:
    """Means of resampled draws and, within them, subjects; None below two of either."""
    table = np.asarray(differences, dtype=np.float64)
    if table.ndim != 2 or np.isnan(table).any():
        raise InputError(f"expected a full table (draws, subjects), got shape {table.shape}")
    if min(table.shape) < 2:
        return None
    draws, size = table.shape
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, resamples, rows := max(1, _CHUNK // table.size)):
        count = min(rows, resamples - start)
        draw = rng.integers(draws, size=(count, draws, 1))
        subject = rng.integers(size, size=(count, draws, size))
        means.append(table[draw, subject].mean(axis=(1, 2)))
    return np.concatenate(means)


def holm(p_values: ArrayLike) -> FloatArray:
    """Holm's step-down correction of a family of p-values (Holm 1979).

    Args:
        p_values: ``(M,)``; NaN entries (no test) stay NaN and do not count.

    Returns:
        Adjusted p-values in the same order: reject where ``<= alpha``.
    """
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    order = np.argsort(p, kind="stable")[: np.count_nonzero(~np.isnan(p))]  # NaN sorts last
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def _interval(values: FloatArray, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
