"""MONAI as a referee: its eroded surface for distances, its subvoxels for the surface Dice."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from delineate.core.schema import Label, Schema
from delineate.metrics.case import score_case

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
SCHEMA = Schema(labels=(Label("a", 1), Label("b", 2)))


def drawn(shape, seed):
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2.5)
    return np.digitize(field, np.quantile(field, [0.7, 0.9])).astype(np.uint8)


@pytest.mark.parametrize(
    ("shape", "spacing"), [((64, 48), (1.0, 0.7)), ((30, 28, 16), (1.0, 1.0, 1.0)),
                           ((30, 28, 16), (0.9, 1.1, 5.0))],
)  # fmt: skip
@pytest.mark.parametrize("seed", [0, 1])
def test_dice_iou_hd95_and_surface_dice(shape, spacing, seed):
    import torch
    from monai.metrics import (
        compute_average_surface_distance,
        compute_dice,
        compute_hausdorff_distance,
        compute_iou,
        compute_surface_dice,
    )

    truth, prediction = drawn(shape, seed), drawn(shape, seed)
    prediction = np.roll(prediction, 2, axis=0)
    prediction[: shape[0] // 3] = 0
    t, p = (
        torch.from_numpy(np.stack([m == i for i in range(3)])[None].astype(np.float32))
        for m in (truth, prediction)
    )
    rows = score_case(prediction, truth, SCHEMA, spacing, 1.5)
    surfaces = {"include_background": False, "spacing": spacing}
    referees = {
        "dice": compute_dice(p, t, include_background=False),
        "iou": compute_iou(p, t, include_background=False),
        "hd_mm": compute_hausdorff_distance(p, t, **surfaces),
        "hd95_mm": compute_hausdorff_distance(p, t, percentile=95, **surfaces),
        "assd_mm": compute_average_surface_distance(p, t, symmetric=True, **surfaces),
        "nsd": compute_surface_dice(
            p, t, class_thresholds=[1.5] * 2, use_subvoxels=True, **surfaces
        ),
        "nsd_voxels": compute_surface_dice(p, t, class_thresholds=[1.5] * 2, **surfaces),
    }
    for metric, values in referees.items():
        found = [row[metric] for row in rows]
        assert found == pytest.approx(values[0].tolist(), rel=1e-5), metric
