"""All segmentation metrics of one case: one row for every region and label of the schema."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core.errors import ConfigError, GeometryError
from delineate.core.schema import Schema
from delineate.metrics.ignored import without_ignored
from delineate.metrics.overlap import binary_counts, joint_histogram, overlap_scores
from delineate.metrics.surface import (
    Spacing,
    SurfaceScores,
    bounding_box,
    surface_scores,
    voxel_size,
)

#: What can happen to a structure in a case.
STATES = ("ok", "both empty", "missed", "false alarm")


def structures(schema: Schema, *, labels: bool = True) -> list[tuple[str, str, tuple[int, ...]]]:
    """What is scored: ``(name, kind, label indices)``, kind ``"region"`` or ``"label"``.

    Regions come first where the schema declares any; labels follow unless ``labels`` is False (a
    schema without regions always gives its labels). A label that bears the name of a region is
    called ``"label NAME"``, unless it is the same structure.
    """
    index = {label.name: i + 1 for i, label in enumerate(schema.labels)}
    listed = [
        (name, "region", tuple(sorted(index[part] for part in parts)))
        for name, parts in schema.regions.items()
    ]
    if labels or not listed:
        regions = {name: parts for name, _, parts in listed}
        for name, i in index.items():
            if regions.get(name) != (i,):
                listed.append((f"label {name}" if name in regions else name, "label", (i,)))
    return listed


def score_case(
    prediction: NDArray[Any],
    truth: NDArray[Any],
    schema: Schema,
    spacing_mm: Spacing,
    tolerance_mm: float = 1.0,
    *,
    labels: bool = True,
) -> list[dict[str, Any]]:
    """Score one case.

    Args:
        prediction: Label **indices** of the schema, ``(*S)``, 2D or 3D.
        truth: Label indices, ``(*S)``; where it is ``IGNORED``, voxels count on neither side.
        schema: Names the labels and regions.
        spacing_mm: Voxel size along each axis, or, for a grid that may be sheared, the step from
            a voxel to the next along each axis as columns ``(3, ndim)``: an affine's.
        tolerance_mm: Tolerance of the surface Dice (NSD).
        labels: Score single labels also where the schema declares regions.

    Returns:
        One row a structure: ``region`` (its name), ``kind``, ``state``, ``dice``, ``iou``,
        ``precision``, ``recall``, ``specificity``, ``accuracy``, ``accuracy_background``,
        ``hd95_mm``, ``hd_mm``, ``assd_mm``, the same with ``_penalised``, ``nsd``,
        ``nsd_voxels``, ``volume_ml_truth``, ``volume_ml_prediction``, ``volume_ml_difference``
        (prediction - truth). Volumes are NaN in 2D; distances are NaN where a mask is empty,
        the penalised ones are not. Rules for empty masks: see
        :mod:`delineate.metrics.overlap` and :mod:`delineate.metrics.surface`.

    Raises:
        GeometryError: The shapes differ, or do not fit the spacing.
        LabelError: An array is not of integers, or an index is not in the schema.
        ConfigError: The tolerance is negative or not finite.
    """
    if not (np.isfinite(tolerance_mm) and tolerance_mm >= 0):
        raise ConfigError(f"expected a tolerance in mm of 0 or more, got {tolerance_mm}")
    if prediction.shape != truth.shape:
        raise GeometryError(
            f"expected a prediction of the truth's shape {truth.shape}, got {prediction.shape}"
        )
    prediction, truth, ignored = without_ignored(prediction, truth)
    # Outside the box there is only background on both sides: count it without looking at it.
    box = bounding_box(np.logical_or(prediction, truth))
    cut, cut_truth = (
        array.view(np.uint8) if array.dtype == bool else array
        for array in (prediction[box], truth[box])
    )
    joint = joint_histogram(cut, cut_truth, schema.num_outputs)
    joint[0, 0] += truth.size - cut_truth.size - ignored
    voxel_ml = voxel_size(spacing_mm, truth.shape) / 1000 if truth.ndim == 3 else float("nan")

    rows = []
    done: dict[tuple[int, ...], dict[str, Any]] = {}  # ET and "enhancing" are one set of voxels
    for name, kind, indices in structures(schema, labels=labels):
        if indices not in done:
            tp, fp, fn, tn = binary_counts(joint, indices)
            chosen = np.isin(np.arange(schema.num_outputs), indices)
            surfaces = surface_scores(
                chosen[cut], chosen[cut_truth], spacing_mm, tolerance_mm, image_shape=truth.shape
            )
            done[indices] = {
                "state": _state(tp + fp, tp + fn),
                **overlap_scores(tp, fp, fn, tn),
                **_distances(surfaces, defined=bool(tp + fp and tp + fn)),
                "nsd": surfaces.nsd,
                "nsd_voxels": surfaces.nsd_voxels,
                "volume_ml_truth": (tp + fn) * voxel_ml,
                "volume_ml_prediction": (tp + fp) * voxel_ml,
                "volume_ml_difference": (fp - fn) * voxel_ml,
            }
        rows.append({"region": name, "kind": kind, **done[indices]})
    return rows


def _distances(scores: SurfaceScores, defined: bool) -> dict[str, float]:
    """Distances where both have the structure, and with the penalty for missing ones."""
    names = ("hd95_mm", "hd_mm", "assd_mm")
    distances = {name: getattr(scores, name) for name in names}
    return {
        **{name: value if defined else float("nan") for name, value in distances.items()},
        **{f"{name}_penalised": value for name, value in distances.items()},
    }


def _state(predicted: int, true: int) -> str:
    if predicted and true:
        return "ok"
    if predicted:
        return "false alarm"
    return "missed" if true else "both empty"
