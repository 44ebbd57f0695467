"""Which clean-up of outlines earns its place on validation cases."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core.errors import GeometryError
from delineate.core.schema import IGNORED, Schema
from delineate.inference.postprocess import keep_largest
from delineate.metrics.overlap import binary_counts, joint_histogram, overlap_scores


def choose_rules(
    predictions: Iterable[NDArray[Any]], truths: Iterable[NDArray[Any]], schema: Schema
) -> dict[str, Any]:
    """Which labels gain in mean Dice on validation cases if only their largest part is kept.

    Cases in which a label is empty in prediction and truth say nothing of it and are left out.
    What is largest is decided on the whole prediction, as in use, and judged where the truth is
    not ``IGNORED``.

    Args:
        predictions: Label indices ``(*S)``, one array a case.
        truths: The same of the reference, on the same grids.
        schema: Names the labels.

    Returns:
        The model file's ``postprocess``: ``{"keep_largest": [names], "gains": {name: gain}}``.
        Gains are differences of mean Dice, of every label that was seen.
    """
    gains: dict[str, list[float]] = {label.name: [] for label in schema.labels}
    for prediction, truth in zip(predictions, truths, strict=True):
        if prediction.shape != truth.shape:
            raise GeometryError(
                f"expected a prediction of shape {truth.shape}, got {prediction.shape}"
            )
        known = truth != IGNORED
        for index, label in enumerate(schema.labels, start=1):
            mask, true_mask = prediction == index, truth == index
            if (mask & known).any() or true_mask.any():
                gain = _dice(keep_largest(mask) & known, true_mask) - _dice(mask & known, true_mask)
                gains[label.name].append(gain)
    means = {name: float(np.mean(values)) for name, values in gains.items() if values}
    return {"keep_largest": [name for name, gain in means.items() if gain > 0], "gains": means}


def _dice(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return overlap_scores(*binary_counts(joint_histogram(mask, truth, 2), [1]))["dice"]
