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
from delineate.training import status
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
            "training_range": _training_range(cases),
        },
        "card": {
            "name": record["name"],
            "intended_use": "Research use only; not a medical device.",
            "trained_on": _trained_on(training_cases, record, cohort.layout),
            **({"figures": words} if (words := record.get("no_figures")) else {}),
            **({"does_not_find": ", ".join(unlearnt)} if unlearnt else {}),
            **({"weights": lineage.sentence(transfer)} if transfer else {}),
            **({"training": trained} if (trained := record["trained"]["sentence"]) else {}),
        },
    }


def after_last_fit(
    earlier: Mapping[str, Any],
    resolved: Resolved,
    cohort: Cohort,
    record: Mapping[str, Any],
    *,
    cases: Sequence[PreparedCase],
    unlabelled: Sequence[PreparedCase],
    subjects: Mapping[str, Any],
    figures: str,
    parts: Mapping[str, Any],
) -> dict[str, Any]:
    """The document of a model that went on learning, with all subjects, from an earlier one.

    What the earlier one chose on validation cases stays.

    Args:
        earlier: Its document.
        resolved: Settings of the run, nothing left open.
        cohort: What it was trained on.
        record: Of the run; ``steps`` are all.
        cases: Prepared ones that it has learnt from.
        unlabelled: Likewise without labels.
        subjects: Marks of its subjects and their key, see ``lineage.subjects``.
        figures: Which model the figures of the run are of, in words.
        parts: See ``describe_parts``.
    """
    drawn = {name for case in cases for name, n in case.meta.get("voxels", {}).items() if n}
    unlearnt = [name for name in earlier["unlearnt"] if name not in drawn]
    trained = status.describe(record["steps"], 1.0)["sentence"]
    card = {k: v for k, v in earlier["card"].items() if k not in ("does_not_find", "training")}
    return {
        **{key: value for key, value in earlier.items() if key not in ("format", "sha256")},
        "unlearnt": unlearnt,
        "config": resolved.to_dict(),
        "provenance": {
            **earlier["provenance"],
            "steps": record["steps"],
            "training_cases": len(cases),
            **subjects,
            "last_fit": {"from": earlier["sha256"]["document"]},
            "training_range": _training_range([*cases, *unlabelled]),
        },
        "card": {
            **card,
            "trained_on": _trained_on(len(cases), record, cohort.layout),
            "figures": figures,
            **({"does_not_find": ", ".join(unlearnt)} if unlearnt else {}),
            **({"training": trained} if trained else {}),
        },
        "parts": parts,
    }


def _trained_on(count: int, record: Mapping[str, Any], layout: str) -> str:
    others = record.get("unlabelled")
    without = f" and {others['cases']} without labels" if others else ""
    return f"{count} cases{without}, layout {layout}"


def _training_range(cases: Sequence[PreparedCase]) -> dict[str, Any]:
    """Voxel sizes and intensities of the cases that a model has seen."""
    grids = [orient.ras_grid(case.original) for case in cases]
    spacings = list(zip(*(grid.spacing_mm for grid in grids), strict=True))
    measured = [case.meta["intensity"] for case in cases if "intensity" in case.meta]
    return {
        "spacing_mm": {
            "min": [min(column) for column in spacings],
            "max": [max(column) for column in spacings],
        },
        "intensity": _contract.training_range(measured),
    }
