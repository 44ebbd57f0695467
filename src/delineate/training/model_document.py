"""What a model file says of itself: how to use it, where it comes from, what it is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from delineate.core import catalog
from delineate.core import config as settings
from delineate.data.cache import PreparedCase
from delineate.data.cohort import Cohort
from delineate.inference import _contract
from delineate.methods._plan import Part
from delineate.preprocess import orient
from delineate.preprocess.presets import Preparation
from delineate.provenance import lineage
from delineate.training.resolving import Resolved


def describe_parts(keeps: Mapping[str, Part]) -> dict[str, Any]:
    """What the document says of the parts beside the predictor, see ``core.model_file``."""
    return {
        name: {
            "network": _entry("networks", part.network, part.config),
            "channels": part.channels,
            "outputs": part.outputs,
            "sees": settings.to_dict(part.sees),
        }
        for name, part in keeps.items()
    }


def _entry(room: str, name: str, config: Any) -> dict[str, Any]:
    """A part: by its name and, where it is not of the package, by the hash of its file too."""
    return {
        "name": catalog.title(name),
        "config": settings.to_dict(config),
        **catalog.origin(room, name),
    }


def describe(
    resolved: Resolved,
    cohort: Cohort,
    preparation: Preparation,
    record: Mapping[str, Any],
    training_cases: int,
    *,
    target: Mapping[str, Any],
    cases: Sequence[PreparedCase],
    steps: int,
    subjects: Mapping[str, Any],
) -> dict[str, Any]:
    """The document of a model file; see ``core.model_file``.

    Args:
        resolved: Settings of the run, nothing left open.
        cohort: What it was trained on.
        preparation: Of every image.
        record: The run's record so far; ``trained`` is from ``_trained.describe``.
        training_cases: How many.
        target: What the target adds: shape of the input, clean-up or calibration.
        cases: Prepared ones that were used, for the range of voxel sizes and intensities.
        steps: Optimiser steps done.
        subjects: Marks of its subjects and their key, see ``lineage.subjects``.
    """
    grids = [orient.ras_grid(case.original) for case in cases]
    spacings = list(zip(*(grid.spacing_mm for grid in grids), strict=True))
    measured = [case.meta["intensity"] for case in cases if "intensity" in case.meta]
    transfer = record.get("transfer")
    unlearnt = list(record.get("unlearnt", ()))
    own = resolved.own()
    others = record.get("unlabelled")
    return {
        "network": _entry("networks", resolved.chosen.network, resolved.network),
        "channels": [channel.name for channel in preparation.channels],
        "schema": cohort.schema.to_dict(),
        "preparation": preparation.to_dict(),
        "target": _entry("targets", resolved.chosen.target, resolved.target),
        **target,
        "unlearnt": unlearnt,
        "config": resolved.to_dict(),
        "provenance": {
            **{key: record[key] for key in ("started", "seed", "versions")},
            # but that of a model which a stopped run left here before
            "hashes": {name: value for name, value in record["hashes"].items() if name != "model"},
            "steps": steps,
            "training_cases": training_cases,
            **({"unlabelled_cases": others["cases"]} if others else {}),
            **subjects,
            **({"own": own} if own else {}),
            **({"transfer": lineage.brief(transfer)} if transfer else {}),
            "training_range": {
                "spacing_mm": {
                    "min": [min(column) for column in spacings],
                    "max": [max(column) for column in spacings],
                },
                "intensity": _contract.training_range(measured),
            },
        },
        "card": {
            "name": record["name"],
            "intended_use": "Research use only; not a medical device.",
            "trained_on": f"{training_cases} cases"
            + (f" and {others['cases']} without labels" if others else "")
            + f", layout {cohort.layout}",
            **({"does_not_find": ", ".join(unlearnt)} if unlearnt else {}),
            **({"weights": lineage.sentence(transfer)} if transfer else {}),
            **({"training": trained} if (trained := record["trained"]["sentence"]) else {}),
        },
    }
