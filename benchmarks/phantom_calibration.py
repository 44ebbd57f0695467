"""Is the phantom hard enough to be worth segmenting, and quick enough to be the default?

Scores, subject by subject, the best threshold that one could have chosen with the labels in hand
(an upper bound of thresholding): FLAIR for the whole tumour, T1Gd for the enhancing tumour, and the
best sequence and direction for the core. Prints volumes and seconds beside it.

    python benchmarks/phantom_calibration.py --subjects 48 --spacing 2
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
from numpy.typing import NDArray

from delineate.phantoms._anatomy import template_folder
from delineate.phantoms._draw import Recipe
from delineate.phantoms.generate import simulate

REGIONS = {"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)}


def oracle_dice(image: NDArray[np.int16], truth: NDArray[np.bool_]) -> float:
    """Dice of ``image > t`` at the best threshold t.

    Args:
        image: ``(*S)``, 0 outside the brain.
        truth: ``(*S)``.
    """
    inside = image > 0
    values = np.sort(image[inside])
    hits = np.sort(image[inside & truth])
    thresholds = np.unique(np.quantile(values, np.linspace(0, 0.9995, 400)))
    taken = values.size - np.searchsorted(values, thresholds, side="right")
    right = hits.size - np.searchsorted(hits, thresholds, side="right")
    return float((2 * right / np.maximum(taken + truth.sum(), 1)).max())


def measure(recipe: Recipe, index: int) -> dict[str, float | str]:
    """Volumes in ml, oracle Dice and seconds of one subject."""
    start = time.perf_counter()
    volumes = simulate(recipe, index)
    seconds = time.perf_counter() - start
    tumour = volumes.plan.tumour
    row: dict[str, float | str] = {
        "id": volumes.plan.id,
        "grade": tumour.grade if tumour else "control",
        "seconds": seconds,
        "brain_l": float((volumes.images["t1"] > 0).sum() * recipe.spacing_mm**3 / 1e6),
    }
    masks = {name: np.isin(volumes.labels, values) for name, values in REGIONS.items()}
    row |= {f"{n}_ml": float(m.sum() * recipe.spacing_mm**3 / 1000) for n, m in masks.items()}
    images = volumes.images
    if tumour:
        row["WT"] = oracle_dice(images["flair"], masks["WT"])
        both = (*images.values(), *((image > 0) * (32767 - image) for image in images.values()))
        row["TC"] = max(oracle_dice(image.astype(np.int16), masks["TC"]) for image in both)
        if masks["ET"].any():
            row["ET"] = oracle_dice(images["t1gd"], masks["ET"])
    return row


def main() -> None:
    """Measure a cohort and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--subjects", type=int, default=48)
    parser.add_argument("--spacing", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    anatomy = "icbm152" if template_folder() else "ellipsoid"
    recipe = Recipe(spacing_mm=given.spacing, seed=given.seed, anatomy=anatomy)
    simulate(recipe, 0)  # loads the atlas, which is done once
    rows = [measure(recipe, index) for index in range(given.subjects)]
    write = sys.stdout.write
    grades = [str(row["grade"]) for row in rows]
    write(f"{anatomy}, {given.spacing:g} mm, seed {given.seed}: ")
    write(", ".join(f"{grades.count(g)} {g}" for g in ("HGG", "LGG", "control")) + "\n")
    write("measure       n    min    p10    p50    p90    max\n")
    for key in ("seconds", "brain_l", "WT_ml", "TC_ml", "ET_ml", "WT", "TC", "ET"):
        for grade in ("HGG", "LGG") if key.isupper() or key.endswith("_ml") else ("all",):
            picked = [r[key] for r in rows if key in r and grade in ("all", r["grade"])]
            if picked:
                figures = np.quantile(np.array(picked, dtype=float), [0, 0.1, 0.5, 0.9, 1])
                numbers = "".join(f"{f:7.2f}" for f in figures)
                write(f"{key:8}{grade:4}{len(picked):3}{numbers}\n")
    whole = np.array([row["WT"] for row in rows if "WT" in row], dtype=float)
    write(f"WT oracle threshold, all: median {np.median(whole):.3f}, ")
    write(f"{whole.min():.2f} to {whole.max():.2f}\n")


if __name__ == "__main__":
    main()
