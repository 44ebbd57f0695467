"""Weights that come along: learnt on phantoms alone, for a network that could have been theirs.

They shape no plan but that a network gets at least as many levels: width, patch and batch follow
from the budget, and a network that the weights do not fit starts from random ones.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from delineate.core import catalog, model_file
from delineate.networks._transfer import Weights
from delineate.settings import WEIGHTS_AUTO, RunConfig
from delineate.training import initial_weights

NOTE = "learnt on phantoms alone, they come along; --weights none starts from random ones"
#: Sequences of the cohort that the weights must know by name: one alone says too little of a scan.
_SHARED = 2
#: What others call the sequences of the phantoms, in small letters.
_SEQUENCES = {
    "t1": ("t1w", "t1n", "pre"),
    "t1gd": ("t1ce", "t1c", "t1post", "post"),
    "t2": ("t2w",),
    "flair": ("t2f", "t2flair"),
}
#: Settings of a network in which it may differ from the weights: they change no tensor they have.
_FREE = ("levels", "deep_supervision", "dropout")
#: Settings that decide the number of levels, where somebody gives one of them.
_DEPTH = ("levels", "strides", "kernels")


def suiting(chosen: RunConfig, channels: Sequence[str], ndim: int) -> Weights | None:
    """The weights that come along for scans of such sequences, where nobody chose others.

    Args:
        chosen: Settings of the run, target and network named.
        channels: Names of the sequences that the network sees.
        ndim: Of the network.
    """
    outlines = (catalog.title(chosen.target), catalog.title(chosen.network)) == ("outline", "unet")
    if chosen.weights != WEIGHTS_AUTO or not outlines:
        return None
    for path in sorted(initial_weights.FOLDER.glob("*.safetensors")):
        document = model_file.load(path).document
        known = len({*document["channels"]} & {*sequences(channels)}) >= _SHARED
        if known and document["network"]["config"]["ndim"] == ndim:
            return initial_weights.read(Path(path.stem))
    return None


def sequences(channels: Sequence[str]) -> list[str]:
    """Channels by the phantoms' names of their sequences, where they are known."""
    names = {other: name for name, others in _SEQUENCES.items() for other in (name, *others)}
    return [names.get(re.sub("[-_ ]", "", channel.lower()), channel) for channel in channels]


def depth(
    weights: Weights, derived: Mapping[str, Any], chosen: Mapping[str, Any]
) -> dict[str, Any]:
    """Levels of a network that would fit the weights, were it as deep; else nothing.

    Args:
        weights: See ``suiting``.
        derived: Settings of the network that follow from the plan.
        chosen: Settings that somebody gives.
    """
    trained = _trained(weights)
    settled = chosen.keys() & {*_DEPTH} or derived["strides"]
    if settled or derived["width"] != trained["width"] or derived["levels"] >= trained["levels"]:
        return {}
    return {name: trained[name] for name in ("levels", "deep_supervision")}


def fits(weights: Weights, config: Any) -> bool:
    """Whether a network of such settings is the one that the weights were learnt by, or deeper."""
    values, trained = dataclasses.asdict(config), _trained(weights)
    return values["levels"] >= trained["levels"] and all(
        name in _FREE or trained.get(name) == value or not (trained.get(name) or value)
        for name, value in values.items()
    )


def _trained(weights: Weights) -> Mapping[str, Any]:
    config: Mapping[str, Any] = (weights.document or {})["network"]["config"]
    return config
