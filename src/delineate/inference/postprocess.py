"""Post-processing that earned its place on validation data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from delineate.core.errors import GeometryError
from delineate.core.schema import IGNORED, Schema


def keep_largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected component of ``(*S)``; neighbours may touch at a corner.

    Of components of one size the first in array order is kept; an empty mask stays empty.
    """
    parts, count = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
    if count < 2:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    kept: NDArray[np.bool_] = parts == sizes.argmax()
    return kept


def keep_largest_components(labels: NDArray[Any], rules: Sequence[int]) -> NDArray[Any]:
    """Set every voxel outside the largest component of its label to background.

    Args:
        labels: ``(*S)`` label indices, 0 is background.
        rules: Label indices to which this applies.

    Returns:
        ``(*S)`` of the same type; the input itself is not changed.
    """
    cleaned = labels.copy()
    for index in rules:
        mask = labels == index
        cleaned[mask & ~keep_largest(mask)] = 0
    return cleaned


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
            mask, wanted = prediction == index, truth == index
            if (mask & known).any() or wanted.any():
                gain = _dice(keep_largest(mask) & known, wanted) - _dice(mask & known, wanted)
                gains[label.name].append(gain)
    means = {name: float(np.mean(values)) for name, values in gains.items() if values}
    return {"keep_largest": [name for name, gain in means.items() if gain > 0], "gains": means}


def _dice(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return 2 * int((mask & truth).sum()) / (int(mask.sum()) + int(truth.sum()) or 1)
