"""Time of one case's metrics at 240x240x155 with three labels, beside MONAI and SciPy.

    python benchmarks/metrics_speed.py [--repeats 5] [--size 240 240 155]

All run in this process, in turns, on the same synthetic tumour; the best of the repeats counts.
Numbers depend on the machine: quote the ratios.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from delineate.core.schema import Label, Schema
from delineate.metrics.case import score_case
from delineate.metrics.overlap import binary_counts, joint_histogram, overlap_scores
from delineate.metrics.surface import surface_scores

SCHEMA = Schema(labels=(Label("necrosis", 1), Label("oedema", 2), Label("enhancing", 4)))
SPACING = (1.0, 1.0, 1.0)
Masks = NDArray[np.uint8]
#: Dice, HD95, surface Dice, and the share of surface voxels; NaN where a tool is not asked for it.
Scores = list[tuple[float, float, float, float]]


def tumour(shape: tuple[int, ...], shift: float, roughness: float) -> Masks:
    """Nested bumpy balls: oedema around an enhancing rim around necrosis."""
    bumps = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(shape), 4)
    centre = np.array(shape) * (0.5, 0.42, 0.52) + (shift, 0, 0)
    place = np.indices(shape, dtype=np.float32) - np.reshape(centre, (3, 1, 1, 1))
    distance = np.sqrt((place**2).sum(axis=0)) + roughness * bumps / bumps.std()
    scale = min(shape) / 155
    radii = [(34 * scale, 2), (22 * scale, 3), (12 * scale, 1)]
    labels = np.zeros(shape, np.uint8)
    for radius, index in radii:
        labels[distance < radius] = index
    return labels


def scipy_way(prediction: Masks, truth: Masks) -> Scores:
    """The same of voxels, by the textbook: erosion and distance transforms of the whole image."""
    found = []
    for i in range(1, SCHEMA.num_outputs):
        p, t = prediction == i, truth == i
        dice = 2 * np.count_nonzero(p & t) / (np.count_nonzero(p) + np.count_nonzero(t))
        a, b = p & ~ndimage.binary_erosion(p), t & ~ndimage.binary_erosion(t)
        there = ndimage.distance_transform_edt(~b, sampling=SPACING)[a]
        back = ndimage.distance_transform_edt(~a, sampling=SPACING)[b]
        hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
        close = np.mean(np.concatenate([there, back]) <= 1)
        found.append((dice, hd95, np.nan, close))
    return found


def monai_way(prediction: Masks, truth: Masks) -> Scores:
    """The same by MONAI, one-hot encoding included."""
    import torch
    from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice
    from monai.networks.utils import one_hot

    p, t = (
        one_hot(torch.from_numpy(m)[None, None], SCHEMA.num_outputs) for m in (prediction, truth)
    )
    options = {"include_background": False, "spacing": SPACING}
    dice = compute_dice(p, t, include_background=False)[0]
    hd95 = compute_hausdorff_distance(p, t, percentile=95, **options)[0]
    nsd = compute_surface_dice(
        p, t, class_thresholds=[1.0] * len(SCHEMA.labels), use_subvoxels=True, **options
    )[0]
    figures = zip(dice.tolist(), hd95.tolist(), nsd.tolist(), strict=True)
    return [(*three, np.nan) for three in figures]


def our_way(prediction: Masks, truth: Masks) -> Scores:
    """All metrics of a row, of which four are shown."""
    rows = score_case(prediction, truth, SCHEMA, SPACING)
    return [(row["dice"], row["hd95_mm"], row["nsd"], row["nsd_voxels"]) for row in rows]


def our_overlap(prediction: Masks, truth: Masks) -> None:
    joint = joint_histogram(prediction, truth, SCHEMA.num_outputs)
    for i in range(1, SCHEMA.num_outputs):
        overlap_scores(*binary_counts(joint, [i]))


def our_surfaces(prediction: Masks, truth: Masks) -> None:
    for i in range(1, SCHEMA.num_outputs):
        surface_scores(prediction == i, truth == i, SPACING)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, nargs=3, default=(240, 240, 155))
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    shape = tuple(chosen.size)
    truth, prediction = tumour(shape, 0, 2), tumour(shape, 3, -2)
    ways: dict[str, Callable[[Masks, Masks], object]] = {
        "delineate, everything (score_case)": our_way,
        "  of which overlap, whole image": our_overlap,
        "  of which surfaces, whole image": our_surfaces,
        "MONAI Dice + HD95 + NSD": monai_way,
        "SciPy Dice + HD95 + NSD": scipy_way,
    }
    best = dict.fromkeys(ways, float("inf"))
    results = {}
    for repeat in range(chosen.repeats):
        for name, way in ways.items():
            if way is scipy_way and repeat > 1:
                continue  # seconds each, and steady
            start = time.perf_counter()
            results[name] = way(prediction, truth)
            best[name] = min(best[name], time.perf_counter() - start)
    ours = best["delineate, everything (score_case)"]
    print(f"{'x'.join(map(str, shape))}, {len(SCHEMA.labels)} labels, best of {chosen.repeats}")
    for name, seconds in best.items():
        print(f"{name:36s} {seconds * 1000:8.1f} ms   {seconds / ours:6.1f} x")
    values = [np.array(results[n]) for n in ways if results[n] is not None]
    apart = (np.nanmax(values, axis=0) - np.nanmin(values, axis=0)).max(axis=0)
    print(f"largest difference in Dice, HD95, NSD, NSD of voxels: {apart}")


if __name__ == "__main__":
    main()
