"""Linear classifiers of features, ``(N, F) -> (K, F), (K,)``: z-score, selection, SVM, scale.

Everything that is learned from features, means and selection among it, is learned from the training
part alone where something is chosen: in every inner fold anew, and folds never part a subject.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.spatial.distance import cdist

from delineate.core.errors import ConfigError

Array = NDArray[np.float64]
Index = NDArray[np.int64]

#: Costs C that are tried, from the smoothest boundary on.
COSTS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
#: Of the machines that features are ranked by: far more features than pictures want a small one.
_RANKING_COST = 1e-2
_FOLDS = 5
#: Features kept at most, where their number is not given (Toğaçar et al. 2020).
_MOST = 200
#: Spread, in shares of the largest value, below which a feature counts as constant.
_CONSTANT = 1e-5


@dataclass(frozen=True)
class Recipe:
    """How a linear classifier is made of features."""

    select: Literal["rfe", "boosting", "none"] = field(
        default="rfe",
        metadata={
            "help": "features: by recursive elimination, by the importances of boosted trees, all"
        },
    )
    keep: int | None = field(
        default=None, metadata={"help": "features kept; null: root of their number, at most 200"}
    )
    head: Literal["svm", "logistic"] = field(
        default="svm", metadata={"help": "linear support vector machine or logistic regression"}
    )
    smote: bool = field(
        default=False, metadata={"help": "invent features of rare classes, up to the largest"}
    )

    def __post_init__(self) -> None:
        if self.select not in ("rfe", "boosting", "none") or self.head not in ("svm", "logistic"):
            raise ConfigError(
                "expected select rfe, boosting or none, and head svm or logistic, "
                f"got {self.select!r} and {self.head!r}"
            )
        if self.keep is not None and self.keep < 1:
            raise ConfigError(f"expected at least one feature to keep, got {self.keep}")


class Samples(NamedTuple):
    """Pictures to learn from.

    Args:
        features: ``(N, F)``.
        class_index: ``(N,)`` indices 0 to K - 1.
        subject: ``(N,)`` a number for each subject.
        weight: ``(N,)`` what each picture counts.
    """

    features: Array
    class_index: Index
    subject: Index
    weight: Array

    def part(self, index: Index) -> Samples:
        """Some of the pictures."""
        x, class_index, subject, weight = self
        return Samples(x[index], class_index[index], subject[index], weight[index])


class Fitted(NamedTuple):
    """Logits ``features @ weight.T + bias``, and how they were come by.

    Args:
        weight: ``(K, F)``, 0 where a feature was left out.
        bias: ``(K,)``.
        cost: C.
        scale: By which decisions became logits.
        folds: In which both were chosen; 0: they were not.
        accuracy: Balanced, of pictures in folds whose subjects were not learned from; NaN: unknown.
    """

    weight: Array
    bias: Array
    cost: float
    scale: float
    folds: int
    accuracy: float


def fit(samples: Samples, classes: int, recipe: Recipe) -> Fitted:
    """Choose C and the scale in folds of subjects, then fit on everything.

    Args:
        samples: Every class is among them.
        classes: K.
        recipe: What to do.
    """
    parts = folds(samples, classes)
    cost, scale, accuracy = 1.0, 1.0, math.nan
    if parts:
        decided = np.full((len(COSTS), len(samples.class_index), classes), np.nan)
        for train, test in parts:
            for row, (weight, bias) in zip(
                decided, affine(samples.part(train), recipe, COSTS), strict=True
            ):
                row[test] = samples.features[test] @ weight.T + bias
        tested = np.isfinite(decided[0, :, 0])
        class_index, counted = samples.class_index[tested], samples.weight[tested]
        calibrated = [scaled(row[tested], class_index, counted) for row in decided]
        best = min(range(len(COSTS)), key=lambda i: calibrated[i][1])
        cost, scale = COSTS[best], calibrated[best][0]
        right = decided[best, tested].argmax(1) == class_index
        accuracy = float(np.mean([right[class_index == k].mean() for k in np.unique(class_index)]))
    ((weight, bias),) = affine(samples, recipe, [cost])
    return Fitted(scale * weight, scale * bias, cost, scale, len(parts), accuracy)


def folds(samples: Samples, classes: int) -> list[tuple[Index, Index]]:
    """Training and test parts that share no subject; none where there are too few subjects."""
    from sklearn.model_selection import StratifiedGroupKFold

    holders = [len(np.unique(samples.subject[samples.class_index == k])) for k in range(classes)]
    count = min(_FOLDS, *holders)
    if count < 2 or len(np.unique(samples.subject)) < 3:
        return []
    split = StratifiedGroupKFold(count, shuffle=True, random_state=0)
    parts = split.split(samples.features, samples.class_index, samples.subject)
    return [(a, b) for a, b in parts if len(np.unique(samples.class_index[a])) == classes]


def affine(samples: Samples, recipe: Recipe, costs: Sequence[float]) -> list[tuple[Array, Array]]:
    """Weights ``(K, F)`` and biases ``(K,)`` of the features as they are, for every C.

    Features that are constant get no weight.
    """
    mean, spread = samples.features.mean(0), samples.features.std(0)
    spread[spread <= _CONSTANT * np.abs(samples.features).max(0)] = np.inf
    x, class_index, weight = (samples.features - mean) / spread, samples.class_index, samples.weight
    if recipe.smote:
        x, class_index = smote(x, class_index, np.random.default_rng(0))
        weight = np.ones(len(class_index))
    features = selected(x, class_index, weight, recipe)
    models = []
    for cost in costs:
        slope, bias = _head(x[:, features], class_index, weight, recipe.head, cost)
        whole = np.zeros((len(bias), x.shape[1]))
        whole[:, features] = slope / spread[features]
        models.append((whole, bias - whole @ mean))
    return models


def smote(
    features: Array, class_index: Index, rng: np.random.Generator, neighbours: int = 5
) -> tuple[Array, Index]:
    """Invent members of rare classes until all have as many as the largest.

    Each new one lies somewhere between a member and one of its nearest neighbours of the same class
    (Chawla et al. 2002, arXiv:1106.1813). A class with a single member is left alone.

    Args:
        features: ``(N, F)``, of comparable scales.
        class_index: ``(N,)``.
        rng: Draws members, neighbours and places.
        neighbours: Of each member, if there are as many.

    Returns:
        Features and classes, the given ones first.
    """
    names, counts = np.unique(class_index, return_counts=True)
    xs, ks = [features], [class_index]
    for name, count in zip(names, counts, strict=True):
        missing, members = int(counts.max() - count), features[class_index == name]
        if missing == 0 or count < 2:
            continue
        distances = cdist(members, members)
        np.fill_diagonal(distances, np.inf)
        neighbours_of = distances.argsort(1, kind="stable")[:, : min(neighbours, count - 1)]
        turns = np.concatenate([rng.permutation(count) for _ in range(-(-missing // count))])
        first = turns[:missing]
        second = neighbours_of[first, rng.integers(neighbours_of.shape[1], size=missing)]
        xs.append(members[first] + rng.random((missing, 1)) * (members[second] - members[first]))
        ks.append(np.full(missing, name))
    return np.concatenate(xs), np.concatenate(ks)


def selected(x: Array, class_index: Index, weight: Array, recipe: Recipe) -> Index:
    """Indices of the features to keep, of ``(N, F)`` with mean 0 and spread 1.

    ``rfe`` leaves out a tenth of all features at a time, those with the least weights in a linear
    SVM (Guyon et al. 2002, doi:10.1023/A:1012487302797). ``boosting`` keeps those by which boosted
    trees gain most (Friedman 2001, doi:10.1214/aos/1013203451).
    """
    count = x.shape[1]
    keep = min(count, recipe.keep or min(_MOST, max(1, round(math.sqrt(count)))))
    if recipe.select == "none" or keep == count:
        return np.arange(count)
    if recipe.select == "boosting":
        from sklearn.ensemble import GradientBoostingClassifier

        trees = GradientBoostingClassifier(max_features="sqrt", random_state=0)
        trees.fit(x, class_index, sample_weight=weight)
        ranked = np.argsort(-trees.feature_importances_, kind="stable")
        return np.sort(ranked[:keep])
    from sklearn.feature_selection import RFE

    search = RFE(_machine(_RANKING_COST), n_features_to_select=keep, step=0.1)
    return np.flatnonzero(search.fit(x, class_index, sample_weight=weight).support_)


def _machine(cost: float) -> Any:
    """A linear support vector machine; the primal form converges whatever there is more of."""
    from sklearn.svm import LinearSVC

    return LinearSVC(C=cost, dual=False, tol=1e-3, max_iter=10_000)


def _head(
    x: Array, class_index: Index, weight: Array, head: str, cost: float
) -> tuple[Array, Array]:
    """Slopes ``(K, F)`` and biases ``(K,)``; of two classes one the negative of the other."""
    from sklearn.linear_model import LogisticRegression

    machine = _machine(cost) if head == "svm" else LogisticRegression(C=cost, max_iter=10_000)
    machine.fit(x, class_index, sample_weight=weight)
    slope, bias = machine.coef_, machine.intercept_
    if len(slope) == 1:
        slope, bias = np.concatenate([-slope, slope]) / 2, np.concatenate([-bias, bias]) / 2
    return slope, bias


def scaled(decisions: Array, class_index: Index, weight: Array) -> tuple[float, float]:
    """The scale that makes decisions logits, and their cross-entropy then.

    One positive number: what is decided stays. Targets are those of Platt 1999, a little inside of
    0 and 1, or classes that part perfectly would want an infinite scale.

    Args:
        decisions: ``(N, K)`` of pictures that were not learned from.
        class_index: ``(N,)``.
        weight: ``(N,)``.
    """
    classes = decisions.shape[1]
    inside = 1 / (np.bincount(class_index, minlength=classes)[class_index] + 2.0)
    target = np.repeat(inside[:, None] / (classes - 1), classes, 1)
    target[np.arange(len(class_index)), class_index] = 1 - inside

    def loss(exponent: float) -> float:
        logits = math.exp(exponent) * decisions
        logits = logits - logits.max(1, keepdims=True)
        logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        return float(np.average(-(target * logs).sum(1), weights=weight))

    optimum = minimize_scalar(loss, bounds=(-7.0, 7.0), method="bounded")
    return math.exp(optimum.x), float(optimum.fun)
