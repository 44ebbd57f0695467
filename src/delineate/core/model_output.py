"""What a model file says of its answers: what the network gives, and for which target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Softmax over labels, background first.
PROBABILITIES = "probabilities"
#: One image, on the scale of ``preprocess.rescale``.
IMAGE = "image"
#: Of a classifier, before softmax and temperature: one number a class, and no map.
LOGITS = "logits"


@dataclass(frozen=True)
class Output:
    """What a network gives.

    Args:
        map: Name of its map: ``"probabilities"``, ``"logits"`` …
        names: Of its channels.
    """

    map: str
    names: tuple[str, ...]


def output(document: Mapping[str, Any]) -> Output:
    """What the network of a model file gives; older files say it by their classes and labels."""
    if declared := document.get("output"):
        return Output(str(declared["map"]), tuple(declared["names"]))
    if names := document.get("classes", {}).get("names"):
        return Output(LOGITS, tuple(names))
    labels = (label["name"] for label in document["schema"]["labels"])
    return Output(PROBABILITIES, ("background", *labels))


def target(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """``name`` and ``config`` of the target of a model file, or of ``predictions.json``.

    Older ones say it by their classes, or not at all: then it is outlines.
    """
    if declared := document.get("target"):
        return dict(declared)
    return {"name": (document.get("classes") or {}).get("target", "outline"), "config": {}}
