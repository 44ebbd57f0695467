"""Which clean-up of outlines earns its place on validation cases."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core.errors import GeometryError
from delineate.core.schema import IGNORED, Schema
from delineate.inference.postprocess import TOGETHER, keep_largest_components
from delineate.metrics.overlap import binary_counts, joint_histogram, overlap_scores


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
