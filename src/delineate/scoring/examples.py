"""Cases for the pictures of a report: which ones, and in which sequence they are shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from delineate.core.case import Case
from delineate.core.errors import DelineateError
from delineate.core.image import Grid
from delineate.data.siblings import suspect
from delineate.metrics.case import structures
from delineate.metrics.ignored import without_ignored
from delineate.metrics.surface import bounding_box
from delineate.scoring.pairs import Pairs, load

#: Width in voxels of the ring around a structure that its contrast is measured against.
RING = 3

Row = Mapping[str, Any]
Array = NDArray[Any]


def examples(summary: Mapping[str, Any], rows: Iterable[Row], pairs: Pairs) -> list[dict[str, Any]]:
    """Worst, median and best case by mean Dice over the headline's structures.

    Returns:
        Arguments of ``reports.overlays.overlay``, the worst first; no subject twice.
    """
    dice: dict[str, list[float]] = {}
    for row in rows:
        if row["region"] in summary["structures"]:
            dice.setdefault(row["case"], []).append(row["dice"])
    means = {name: float(np.mean(values)) for name, values in dice.items()}
    cases = {case.id: case for case in pairs.cases}
    pictures = []
    for place, name in chosen(means, cases):
        prediction, truth, grid = load(pairs, cases[name], missing_as_empty=True)
        prediction, truth, _ = without_ignored(prediction, truth)
        sequence, image = _sequence(cases[name], grid, truth if truth.any() else prediction, pairs)
        pictures.append(
            {
                "title": f"{place}: {name}, mean Dice {means[name]:.3f}",
                "image": image,
                "sequence": sequence,
                "truth": pairs.schema.to_values(truth),
                "prediction": pairs.schema.to_values(prediction),
                "grid": grid,
                "schema": pairs.schema,
            }
        )
    return pictures


def chosen(means: Mapping[str, float], cases: Mapping[str, Case]) -> list[tuple[str, str]]:
    """``(place, case)``, the worst first; of other people each, by name as well as by subject."""
    ranked = sorted(means, key=lambda name: (means[name], name))
    person = {name: cases[name].subject for name in ranked}
    suspicion = suspect(person)
    for group in suspicion.groups if suspicion else ():
        person = {
            name: group[0] if subject in group else subject for name, subject in person.items()
        }
    middle = (len(ranked) - 1) // 2
    by_rank = sorted(range(len(ranked)), key=lambda rank: abs(rank - middle))
    orders = {
        "Worst": ranked,
        "Best": ranked[::-1],
        "Median": [ranked[rank] for rank in by_rank],
    }
    chosen: dict[str, str] = {}
    for place, order in orders.items():
        taken = {person[name] for name in chosen.values()}
        other = next((name for name in order if person[name] not in taken), None)
        if other is not None:
            chosen[place] = other
    if len(chosen) == 1:
        return [("The only case" if len(ranked) == 1 else "Worst", ranked[0])]
    return [(place, chosen[place]) for place in ("Worst", "Median", "Best") if place in chosen]


def _sequence(case: Case, grid: Grid, labels: Array, pairs: Pairs) -> tuple[str, Array | None]:
    """The channel in which what is outlined stands out most, and its name; "" where it has none.

    Args:
        case: Whose images are read; those that cannot be, or lie on another grid, are left out.
        grid: Of the labels.
        labels: Label indices ``(*S)``.
        pairs: Names the structures.

    Returns:
        The name and the channel ``(*S)``; None where there is no image.
    """
    masks = [np.isin(labels, indices) for _, _, indices in structures(pairs.schema, labels=False)]
    best: tuple[float, str, Array | None] = (-1.0, "", None)
    for name, channel in _channels(case, grid):
        contrasts = [c for c in (contrast(channel, mask) for mask in masks) if c is not None]
        mean = float(np.mean(contrasts)) if contrasts else 0.0
        if mean > best[0]:
            best = mean, name, channel
    name = "" if best[1] == "image" else best[1]  # so called where the data have no name for it
    return name, best[2]


def contrast(image: Array, mask: Array) -> float | None:
    """How far a structure stands out from the ring around it, in standard deviations.

    Args:
        image: ``(*S)``.
        mask: ``(*S)`` boolean.

    Returns:
        ``|mean inside - mean of the ring| / sqrt(mean of both variances)``; None where there is
        no structure or no ring.
    """
    box = tuple(slice(max(0, side.start - RING), side.stop + RING) for side in bounding_box(mask))
    image, mask = image[box], mask[box]
    if not mask.any():
        return None
    ring = binary_dilation(mask, iterations=RING) & ~mask
    inside, outside = (part[np.isfinite(part)] for part in (image[mask], image[ring]))
    if not (inside.size and outside.size):
        return None
    spread = np.sqrt((inside.var(dtype=np.float64) + outside.var(dtype=np.float64)) / 2)
    apart = abs(inside.mean(dtype=np.float64) - outside.mean(dtype=np.float64))
    return float(apart / spread) if spread > 0 else (np.inf if apart > 0 else 0.0)


def _channels(case: Case, grid: Grid) -> Iterator[tuple[str, Array]]:
    """Names and channels ``(*S)`` of a case's images that lie on a grid."""
    from delineate.data.readers import read

    for source_name, source in case.images.items():
        try:
            image = read(source, case.reading)
        except DelineateError:
            continue
        if image.grid.shape != grid.shape:
            continue
        if image.channels == 3 and image.grid.ndim == 2:  # a photograph
            yield source_name, image.array.mean(axis=0)
            continue
        names = case.channel_names(source_name, image.channels)
        yield from zip(names, image.array, strict=True)
