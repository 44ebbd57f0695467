"""Overlap of a prediction with the truth: every number comes from one joint histogram.

Rule for what is undefined (0/0), written once: where truth and prediction are **both empty**, Dice,
IoU, precision and recall are 1, for a correct "nothing there" is full agreement; where only **one
is empty** they are 0. So every case counts for every model, and two models can be compared in
pairs. (BraTS scores this way; nnU-Net drops both-empty cases, so that a model's own false alarms
decide how many cases it is judged on.) Since the ones of empty cases lift a mean, summaries show
their number and a second mean over the cases in which the truth is not empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core.errors import GeometryError, LabelError

IntArray = NDArray[np.int64]


def joint_histogram(prediction: NDArray[Any], truth: NDArray[Any], outputs: int) -> IntArray:
    """Count voxels by (truth, prediction).

    Args:
        prediction: Label indices ``(*S)``, integers in ``[0, outputs)``.
        truth: Label indices ``(*S)``.
        outputs: Number of indices, background included.

    Returns:
        ``(outputs, outputs)``; entry ``[t, p]`` counts voxels of truth ``t`` predicted as ``p``.

    Raises:
        GeometryError: The shapes differ.
        LabelError: An array is not of integers, or an index is out of range.
    """
    if prediction.shape != truth.shape:
        raise GeometryError(
            f"expected a prediction of the truth's shape {truth.shape}, got {prediction.shape}"
        )
    for name, array in (("prediction", prediction), ("truth", truth)):
        if array.dtype.kind not in "biu":
            raise LabelError(f"expected integer label indices in the {name}, got {array.dtype}")
        if array.size and not 0 <= int(array.min()) <= int(array.max()) < outputs:
            raise LabelError(
                f"expected label indices 0 to {outputs - 1} in the {name}, "
                f"got {int(array.min())} to {int(array.max())}",
                fix="turn file values into indices with Schema.to_index",
            )
    # The code stays in the smallest type that holds it: memory traffic is the whole cost.
    dtype = np.min_scalar_type(outputs * outputs - 1)
    code = truth.astype(dtype)
    code *= dtype.type(outputs)
    code += prediction.astype(dtype, copy=False)
    counts = np.bincount(code.ravel(), minlength=outputs * outputs)
    return counts.reshape(outputs, outputs).astype(np.int64, copy=False)


def binary_counts(joint: IntArray, indices: Sequence[int]) -> tuple[int, int, int, int]:
    """Counts ``(tp, fp, fn, tn)`` of the union of some label indices, from a joint histogram."""
    inside = np.zeros(len(joint), dtype=bool)
    inside[list(indices)] = True
    tp = int(joint[np.ix_(inside, inside)].sum())
    fp = int(joint[np.ix_(~inside, inside)].sum())
    fn = int(joint[np.ix_(inside, ~inside)].sum())
    return tp, fp, fn, int(joint.sum()) - tp - fp - fn


def overlap_scores(tp: int, fp: int, fn: int, tn: int) -> dict[str, float]:
    """Dice, IoU, precision, recall, specificity and pixel accuracy.

    ``accuracy_background`` is the pixel accuracy of predicting nothing at all, on the same case:
    with small structures it is close to 1, which is why ``accuracy`` says little by itself.
    See the module for the rule on empty masks. Specificity without any background is 1.
    """
    total = tp + fp + fn + tn
    agreement = 1.0 if tp + fp + fn == 0 else 0.0

    def ratio(part: int, whole: int, undefined: float) -> float:
        return part / whole if whole else undefined

    return {
        "dice": ratio(2 * tp, 2 * tp + fp + fn, agreement),
        "iou": ratio(tp, tp + fp + fn, agreement),
        "precision": ratio(tp, tp + fp, agreement),
        "recall": ratio(tp, tp + fn, agreement),
        "specificity": ratio(tn, tn + fp, 1.0),
        "accuracy": ratio(tp + tn, total, 1.0),
        "accuracy_background": ratio(fp + tn, total, 1.0),
    }
