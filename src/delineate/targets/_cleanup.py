"""Which clean-up of outlines earns its place on validation cases."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core.errors import GeometryError
from delineate.core.schema import IGNORED, Schema
from delineate.data.cache import PreparedCase
from delineate.inference.postprocess import TOGETHER, keep_largest_components, without_specks
from delineate.metrics.overlap import binary_counts, joint_histogram, overlap_scores

#: A structure is taken for none below this share of the smallest that a training case has: so far
#: below all that was seen, it is rather a speck than the smallest yet.
SPECK = 0.1
#: ... of so many training cases that have it at least.
_ENOUGH = 5


def choose_rules(
    predictions: Iterable[NDArray[Any]], truths: Iterable[NDArray[Any]], schema: Schema
) -> dict[str, Any]:
    """Whose largest part alone is kept: what gains in mean Dice on validation cases.

    First of all structures as one, which takes islands away from structures that touch, then, of
    what is left, of each. Cases in which a label is empty in prediction and truth say nothing of it
    and are left out. What is largest is decided on the whole prediction, as in use, and judged
    where the truth is not ``IGNORED``.

    Args:
        predictions: Label indices ``(*S)``, one array a case.
        truths: The same of the reference, on the same grids.
        schema: Names the labels.

    Returns:
        The model file's ``postprocess``: ``{"keep_largest": [names], "gains": {name: gain}}``.
        Gains are differences of mean Dice, of every label that was seen; ``TOGETHER`` stands for
        all structures as one, where there are several.

    Raises:
        GeometryError: A prediction on another grid than its reference.
    """
    pairs = list(zip(predictions, truths, strict=True))
    for prediction, truth in pairs:
        if prediction.shape != truth.shape:
            raise GeometryError(
                f"expected a prediction of shape {truth.shape}, got {prediction.shape}"
            )
    names = [label.name for label in schema.labels]
    means: dict[str, float] = {}
    together = False
    if len(names) > 1:
        gains = [
            gain
            for prediction, truth in pairs
            for gain in _gains(
                prediction, keep_largest_components(prediction, (), True), truth, len(names)
            ).values()
        ]
        if gains:
            means[TOGETHER] = float(np.mean(gains))
            together = means[TOGETHER] > 0
    by_name: dict[str, list[float]] = {name: [] for name in names}
    for prediction, truth in pairs:
        before = keep_largest_components(prediction, (), together)
        after = keep_largest_components(before, range(1, len(names) + 1))
        for index, gain in _gains(before, after, truth, len(names)).items():
            by_name[names[index - 1]].append(gain)
    means |= {name: float(np.mean(values)) for name, values in by_name.items() if values}
    return {"keep_largest": [name for name, gain in means.items() if gain > 0], "gains": means}


def least_volumes(cases: Sequence[PreparedCase], schema: Schema) -> dict[str, float]:
    """Label -> the volume below which it can only be a speck, in mm to the number of axes.

    Args:
        cases: Prepared, that the model has learnt from. Of large structures a part of the voxels is
            counted, which errs to the careful side.
        schema: Names the labels.
    """
    if not all(case.grid.spacing_known for case in cases):
        return {}
    volumes: dict[str, list[float]] = {label.name: [] for label in schema.labels}
    for case in cases:
        voxel = math.prod(case.grid.spacing_mm)
        for index, label in enumerate(schema.labels, start=1):
            if count := len(case.samples.get(index, ())):
                volumes[label.name].append(count * voxel)
    return {
        name: float(f"{SPECK * min(sizes):.4g}")
        for name, sizes in volumes.items()
        if len(sizes) >= _ENOUGH
    }


def harmless(
    least: Mapping[str, float],
    predictions: Sequence[NDArray[Any]],
    cases: Sequence[PreparedCase],
    schema: Schema,
    keep_largest: Sequence[str],
) -> dict[str, float]:
    """Those of ``least_volumes`` that cost no Dice on validation cases; none without such cases.

    Args:
        least: As it gives them.
        predictions: Label indices ``(*S)`` of the cases.
        cases: Prepared, with labels.
        schema: Names the labels.
        keep_largest: What is kept of the largest component alone before, see ``choose_rules``.
    """
    names = [label.name for label in schema.labels]
    rules = [i for i, name in enumerate(names, start=1) if name in keep_largest]
    gains: dict[str, list[float]] = {name: [] for name in least} if cases else {}
    for prediction, case in zip(predictions, cases, strict=True):
        before = keep_largest_components(prediction, rules, TOGETHER in keep_largest)
        for name in gains:
            volume, voxel = {names.index(name) + 1: least[name]}, math.prod(case.grid.spacing_mm)
            after, removed = without_specks(before, volume, voxel)
            if removed:
                by_label = _gains(before, after, np.asarray(case.label), len(names))
                gains[name].append(sum(by_label.values()))
    return {name: least[name] for name, values in gains.items() if sum(values) >= 0}


def _gains(
    before: NDArray[Any], after: NDArray[Any], truth: NDArray[Any], count: int
) -> dict[int, float]:
    """What each label that is there gains in Dice, by its index from 1 to ``count``."""
    known = truth != IGNORED
    gains = {}
    for index in range(1, count + 1):
        mask, true_mask = before == index, truth == index
        if (mask & known).any() or true_mask.any():
            cleaned = (after == index) & known
            gains[index] = _dice(cleaned, true_mask) - _dice(mask & known, true_mask)
    return gains


def _dice(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return overlap_scores(*binary_counts(joint_histogram(mask, truth, 2), [1]))["dice"]
