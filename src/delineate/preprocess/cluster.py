"""K-means: voxels of like intensity, as a first guess of tissues without any label.

Images of one channel take the exact optimum, by dynamic programming over a histogram; others
k-means++ and Lloyd's iterations on voxels drawn with a seed. Clusters are ordered by brightness, so
that a number means the same from scan to scan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from delineate.core.errors import ConfigError, InputError
from delineate.preprocess import _levels

Array = NDArray[Any]
Mask = NDArray[np.bool_]
#: What the elbow chooses from.
ELBOW = range(2, 9)
#: The literal reading of DL-GAN-CNN's equation 4: clusters of coordinates, blind to the image.
COORDINATES = float("inf")
#: Voxels assigned at a time.
_BLOCK = 1 << 18
#: Share at either end of the values that the bins of a histogram do not reach.
_TAIL = 0.001


@dataclass(frozen=True, eq=False)
class Clusters:
    """What K-means found.

    Args:
        labels: ``(*S)`` uint8: 0 outside the mask, then from 1 in order of brightness.
        centres: ``(k, C)`` mean of each cluster, in the units of the values.
        inertia: Mean squared distance of a voxel to its centre, each feature in units of its
            standard deviation: one cluster has as much as there are features.
        curve: The same by number of clusters, on the voxels drawn, where the elbow chose.
    """

    labels: NDArray[np.uint8]
    centres: NDArray[np.float64]
    inertia: float
    curve: Mapping[int, float] = field(default_factory=dict)

    @property
    def k(self) -> int:
        """Number of clusters."""
        return len(self.centres)

    def one_hot(self, k: int | None = None) -> NDArray[np.float32]:
        """``(k, *S)``, 1 where a voxel belongs to the cluster; all 0 outside the mask."""
        return np.stack([self.labels == i for i in range(1, (k or self.k) + 1)]).astype(np.float32)


def kmeans(
    values: Array,
    mask: Mask | None = None,
    *,
    k: int | Literal["elbow"] = 3,
    order_by: int | None = None,
    coord_weight: float = 0.0,
    spacing_mm: Sequence[float] | None = None,
    update: Literal["mean", "printed"] = "mean",
    seed: int = 0,
    voxels: int = 50_000,
    iterations: int = 20,
    restarts: int = 3,
) -> Clusters:
    """Part the voxels of ``(C, *S)`` inside a mask into ``k`` clusters.

    Args:
        values: Channels, of any scale: each is brought to mean 0 and variance 1 inside the mask.
        mask: ``(*S)``; everything by default.
        k: Number of clusters, or ``elbow``: the one of 2 to 8 whose inertia lies farthest below the
            chord from 2 clusters to 8. Fewer where there are fewer different values.
        order_by: Channel whose mean orders the clusters (FLAIR, say); by default the mean of all.
        coord_weight: Weight of the coordinates beside the intensities; ``COORDINATES`` leaves
            nothing but them.
        spacing_mm: Of the axes, for coordinates; ones by default.
        update: ``printed`` divides the sum of a cluster by k and not by its size, as DL-VAE-CNN's
            equation 3 has it; it exists so that a test can show the fault.
        seed: Of the voxels drawn and of the first centres.
        voxels: Drawn at most, to fit on.
        iterations: At most, of Lloyd's.
        restarts: Of which the best counts.

    Raises:
        ConfigError: A number of clusters that is not from 1 to 255, or a negative weight.
        InputError: No voxel inside the mask.
    """
    if k != "elbow" and not 1 <= k <= 255:
        raise ConfigError(f"expected 1 to 255 clusters, or elbow, got {k}")
    if coord_weight < 0:
        raise ConfigError(f"expected a weight of coordinates from 0 on, got {coord_weight}")
    if mask is not None and not mask.any():
        raise InputError("expected voxels inside the mask, got none", code="mask-empty")
    if len(values) == 1 and coord_weight == 0 and update == "mean":
        return _by_histogram(values[0], mask, k)
    inside = np.ones(values.shape[1:], dtype=bool) if mask is None else mask
    features = _features(values, inside, coord_weight, spacing_mm)
    numbers = ELBOW if k == "elbow" else (k,)
    fits = _best_fits(features, numbers, seed, voxels, iterations, restarts, update)
    curve = {n: inertia for n, (_, inertia) in fits.items()} if k == "elbow" else {}
    centres = fits[elbow(curve) if k == "elbow" else k][0]
    return _ordered(values, inside, features, centres, order_by, curve)


def inertias(
    values: Array, mask: Mask | None = None, *, seed: int = 0, voxels: int = 20_000
) -> dict[int, float]:
    """The curve in which the elbow is looked for: inertia by number of clusters, from 2 to 8.

    Args:
        values: ``(C, *S)``.
        mask: ``(*S)``; everything by default.
        seed: Of the voxels drawn and of the first centres.
        voxels: Drawn at most.

    Returns:
        Ends early where there are fewer different values.
    """
    inside = np.ones(values.shape[1:], dtype=bool) if mask is None else mask
    if not inside.any():
        return {}
    if len(values) == 1:
        return dict(_by_histogram(values[0], mask, "elbow").curve)
    fits = _best_fits(_features(values, inside, 0.0, None), ELBOW, seed, voxels, 20, 2, "mean")
    return {n: inertia for n, (centres, inertia) in fits.items() if len(centres) == n}


def elbow(curve: Mapping[int, float]) -> int:
    """The number whose inertia lies farthest below the chord between the ends of the curve."""
    n = np.array(list(curve))
    inertia = np.array(list(curve.values()))
    chord = np.interp(n, n[[0, -1]], inertia[[0, -1]])
    return int(n[np.argmax(chord - inertia)])


def _best_fits(
    features: Array,
    numbers: Iterable[int],
    seed: int,
    voxels: int,
    iterations: int,
    restarts: int,
    update: str,
) -> dict[int, tuple[Array, float]]:
    """Centres ``(k, F)`` and mean squared distance by number of clusters, on voxels drawn."""
    sampled = features
    if features.shape[1] > voxels:
        chosen = np.random.default_rng(seed).choice(features.shape[1], voxels, replace=False)
        sampled = features[:, np.sort(chosen)]

    def fit(n: int) -> tuple[Array, float]:
        candidates = [
            _lloyd(sampled, _first(sampled, n, generator), iterations, update)
            for generator in np.random.default_rng(seed).spawn(restarts)
        ]
        return min(candidates, key=lambda candidate: candidate[1])

    return {n: fit(n) for n in numbers}


# ------------------------------------------------------------------------------ one channel


def _by_histogram(values: Array, mask: Mask | None, k: int | Literal["elbow"]) -> Clusters:
    """The best clusters of one channel ``(*S)``.

    They are intervals, so that dynamic programming over the bins finds the optimum (Wang and Song
    2011, doi:10.32614/RJ-2011-015). Bytes have a bin a value; of other numbers, 256 bins
    lie between the values that all but a thousandth at either end lie within.
    """
    import cv2

    if values.dtype == np.uint8:
        grey, low, width = values, 0.0, 1.0
    else:
        values = np.asarray(values, np.float32)
        low, high = _trimmed(values, mask)
        grey, width = _levels.to_bytes(values, low, high), (high - low) / 255
    counts = _levels.count(grey, 256, mask)
    bins = np.flatnonzero(counts)
    cuts = _optimum(
        counts[bins], low + width * bins.astype(np.float64), ELBOW[-1] if k == "elbow" else k
    )
    curve = {n: cuts[1][n] for n in ELBOW if n in cuts[1]} if k == "elbow" else {}
    k_asked = k if k != "elbow" else elbow(curve) if curve else 1
    k_used = min(len(cuts[0]), k_asked)
    table = np.zeros(256, np.uint8)
    for start in cuts[0][k_used - 1]:
        table[bins[start] :] += 1
    assigned: Any = cv2.LUT(_levels.flat(grey), table)
    labels: NDArray[np.uint8] = assigned.reshape(grey.shape)
    labels = labels if mask is None else labels * mask
    flat_values = _levels.flat(values)
    shares = np.bincount(table[bins], weights=counts[bins])[1:] / counts.sum()
    if values.dtype == np.uint8:  # the bins are the values
        sums = np.bincount(table[bins], weights=counts[bins] * bins)[1:]
        centres = sums / (shares * counts.sum())
    else:
        means = [cv2.mean(flat_values, _levels.flat(labels == i))[0] for i in range(1, k_used + 1)]
        centres = np.array(means)
    mean, std = cv2.meanStdDev(flat_values, mask=None if mask is None else _levels.flat(mask))
    between = float(shares @ (centres - mean.item()) ** 2)
    inertia = max(0.0, 1 - between / (std.item() ** 2 or 1.0))
    return Clusters(labels, centres[:, None], inertia, curve)


def _trimmed(values: Array, mask: Mask | None) -> tuple[float, float]:
    """Range of ``(*S)`` inside the mask without the tails, on some voxels of a large image."""
    step = -(-values.size // 500_000)
    sample = values.reshape(-1)[::step]
    if mask is not None:
        sample = sample[mask.reshape(-1)[::step]]
        sample = values[mask] if sample.size < 1000 else sample
    low, high = np.quantile(np.sort(sample), (_TAIL, 1 - _TAIL))  # sorting first halves the time
    return (float(low), float(high)) if high > low else _levels.span(values, mask)


def _optimum(
    counts: NDArray[np.int64], places: NDArray[np.float64], largest_k: int
) -> tuple[list[list[int]], dict[int, float]]:
    """Best partition of weighted places on a line into 1, 2 … ``largest_k`` intervals.

    Returns:
        For each number the first place of every interval, and its inertia in units of the variance.
    """
    n = len(counts)
    middle = float(counts @ places / counts.sum())
    weight = np.concatenate([[0], np.cumsum(counts)]).astype(np.float64)
    moment = np.concatenate([[0], np.cumsum(counts * (places - middle))])
    # What an interval from i up to j takes off the sum of squares, by (j, i): best if largest.
    size = weight[1:, None] - weight[None, :-1]
    gain = np.full((n, n), -np.inf)
    np.divide((moment[1:, None] - moment[None, :-1]) ** 2, size, out=gain, where=size > 0)
    total = float(counts @ (places - middle) ** 2) or 1.0
    best, chosen = gain[:, 0], []
    partitions, curve = [[0]], {1: 1 - float(gain[-1, 0]) / total}
    for number in range(2, min(largest_k, n) + 1):
        options = gain[:, 1:] + best[:-1]  # the last interval begins at 1 at the earliest
        chosen.append(options.argmax(axis=1) + 1)
        best = options[np.arange(n), chosen[-1] - 1]
        starts, end = [], n - 1
        for back in reversed(chosen):
            starts.append(int(back[end]))
            end = starts[-1] - 1
        partitions.append([0, *reversed(starts)])
        curve[number] = max(0.0, 1 - float(best[-1]) / total)
    return partitions, curve


# ------------------------------------------------------------------------- several channels


def _features(
    values: Array, mask: Mask, coord_weight: float, spacing_mm: Sequence[float] | None
) -> NDArray[np.float32]:
    """``(F, N)`` of the voxels inside the mask: intensities, then weighted coordinates."""
    rows = []
    if coord_weight != COORDINATES:
        rows = [_standard(channel[mask]) for channel in values]
    if coord_weight > 0:
        weight = 1.0 if coord_weight == COORDINATES else coord_weight
        spacing = np.array(spacing_mm or (1.0,) * mask.ndim)[:, None]
        places = np.stack(np.nonzero(mask)) * spacing
        places -= places.mean(axis=1, keepdims=True)
        # One scale for all axes, so that distances in the body keep their proportions.
        spread = float(np.sqrt(np.mean(places**2))) or 1.0
        rows += list((places * (weight / spread)).astype(np.float32))
    return np.stack(rows)


def _standard(values: Array) -> NDArray[np.float32]:
    mean = values.mean(dtype=np.float64)
    std = values.std(dtype=np.float64) or 1.0
    return ((values - np.float32(mean)) / np.float32(std)).astype(np.float32)


def _first(x: Array, k: int, generator: np.random.Generator) -> NDArray[np.float32]:
    """Centres by k-means++ (Arthur and Vassilvitskii 2007): far ones are likelier."""
    centres = [x[:, generator.integers(x.shape[1])]]
    squared_distance = np.full(x.shape[1], np.inf)
    while len(centres) < k:
        squared_distance = np.minimum(
            squared_distance, ((x - centres[-1][:, None]) ** 2).sum(axis=0)
        )
        total = np.cumsum(squared_distance, dtype=np.float64)
        if total[-1] <= 0:  # as many centres as there are different voxels
            break
        centres.append(x[:, np.searchsorted(total, generator.random() * total[-1], side="right")])
    return np.stack(centres)


def _nearest(x: Array, centres: Array) -> tuple[NDArray[np.intp], float]:
    """The nearest centre of every voxel of ``(F, N)``, and the sum of squared distances."""
    squared_distance = (centres**2).sum(axis=1)[:, None] - 2 * (centres @ x)
    nearest = squared_distance.argmin(axis=0)
    total = np.take_along_axis(squared_distance, nearest[None], axis=0).sum(dtype=np.float64)
    return nearest, max(0.0, float(total) + float(np.square(x).sum(dtype=np.float64)))


def _lloyd(x: Array, centres: Array, iterations: int, update: str) -> tuple[Array, float]:
    """Lloyd's iterations on ``(F, N)``: the centres ``(k, F)`` and the mean squared distance."""
    k, before = len(centres), None
    for _ in range(iterations):
        assigned, _ = _nearest(x, centres)
        if before is not None and np.array_equal(assigned, before):
            break
        before = assigned
        sums = np.stack([np.bincount(assigned, weights=row, minlength=k) for row in x], axis=1)
        sizes = np.bincount(assigned, minlength=k)[:, None]
        if update == "printed":
            centres = (sums / k).astype(np.float32)
        else:  # a centre that lost all its voxels stays where it was
            centres = np.where(sizes > 0, sums / np.maximum(sizes, 1), centres).astype(np.float32)
    return centres, _nearest(x, centres)[1] / x.shape[1]


def _ordered(
    values: Array,
    mask: Mask,
    features: Array,
    centres: Array,
    order_by: int | None,
    curve: Mapping[int, float],
) -> Clusters:
    """Assign every voxel, drop empty clusters, and number the others from dark to bright."""
    assigned = np.empty(features.shape[1], np.intp)
    inertia = 0.0
    for start in range(0, assigned.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        assigned[block], inertia_of_block = _nearest(features[:, block], centres)
        inertia += inertia_of_block
    sizes = np.bincount(assigned, minlength=len(centres))
    inside = [channel[mask] for channel in values]
    means = np.stack(
        [np.bincount(assigned, weights=row, minlength=len(centres)) for row in inside], axis=1
    ) / np.maximum(sizes, 1)[:, None]  # fmt: skip
    spread = np.array([row.std(dtype=np.float64) or 1.0 for row in inside])
    key = (means / spread).mean(axis=1) if order_by is None else means[:, order_by]
    order = [i for i in np.argsort(key, kind="stable") if sizes[i]]
    table = np.zeros(len(centres), np.uint8)
    table[order] = np.arange(1, len(order) + 1)
    labels = np.zeros(mask.shape, np.uint8)
    labels[mask] = table[assigned]
    return Clusters(labels, means[order], inertia / assigned.size, curve)
