"""What a model file says of itself: how to use it, where it comes from, what it is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from delineate.core import config as settings
from delineate.core.image import Grid
from delineate.data.cohort import Cohort
from delineate.preprocess import orient
from delineate.preprocess.presets import Preparation
from delineate.tasks._feed import Feed
from delineate.tasks._settings import RunConfig


def describe(
    chosen: RunConfig,
    cohort: Cohort,
    preparation: Preparation,
    record: Mapping[str, Any],
    feed: Feed,
    *,
    network: Mapping[str, Any],
    rules: Mapping[str, Any],
    grids: Sequence[Grid],
    steps: int,
) -> dict[str, Any]:
    """The document of a model file; see ``core.model_file``.

    Args:
        chosen: Settings of the run.
        cohort: What it was trained on.
        preparation: Of every image.
        record: The run's record so far.
        feed: Knows patch, neighbours and mirrored axes.
        network: Settings of the network.
        rules: The clean-up.
        grids: Original grids of the cases used, for the range of voxel sizes.
        steps: Optimiser steps done.
    """
    spacings = list(zip(*(orient.ras_grid(grid).spacing_mm for grid in grids), strict=True))
    return {
        "network": {"name": chosen.network, "config": dict(network)},
        "channels": [channel.name for channel in preparation.channels],
        "schema": cohort.schema.to_dict(),
        "preparation": preparation.to_dict(),
        "input": {
            "patch": list(feed.patch),
            "slice_axis": preparation.slice_axis,
            "neighbours": feed.neighbours,
            "mirror_axes": list(feed.mirror_axes),
        },
        "postprocess": dict(rules),
        "config": settings.to_dict(chosen),
        "provenance": {
            **{key: record[key] for key in ("started", "seed", "versions", "hashes")},
            "steps": steps,
            "training_cases": len(feed.cases),
            "training_range": {
                "spacing_mm": {
                    "min": [min(column) for column in spacings],
                    "max": [max(column) for column in spacings],
                }
            },
        },
        "card": {
            "name": record["name"],
            "intended_use": "Research use only; not a medical device.",
            "trained_on": f"{len(feed.cases)} cases, layout {cohort.layout}",
        },
    }
