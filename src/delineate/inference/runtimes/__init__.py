"""What computes a network: one file a runtime, each with ``load(path, device, parts) -> Runtime``.

All else in the room works on arrays and knows no torch. A runtime gives *named maps*, as they are
to be averaged: the activation is its own business, and ``core.model_output.output`` says which map
the network gives.

``load`` opens a model file, whose network ``inference._loading`` builds, or a file of the runtime's
own. ``parts`` are those beside the predictor (a critic) whose maps are wanted too; no other is
built. It raises a ConfigError with the code ``map-unknown`` for a part that it does not have, and
one with ``extra-missing`` where a package is not installed; a ResourceError with the code
``device`` where the device is not here. ``delineate predict --runtime NAME`` takes any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core.model_output import LOGITS, PROBABILITIES

#: By name ``(B, K, *patch)`` float32; of a classifier ``(B, K)``.
Maps = Mapping[str, NDArray[np.float32]]
#: ``(B, C, *patch)`` float32 -> maps. No state: the same windows give the same maps.
Infer = Callable[[NDArray[np.float32]], Maps]

__all__ = ["ATTENTION", "LOGITS", "PROBABILITIES", "Infer", "Maps", "Runtime"]
#: Of a classifier that weighs slices: the weight of each, ``(B, slices)``, summing to one.
ATTENTION = "attention"


@dataclass(frozen=True)
class Runtime:
    """A network made ready.

    Args:
        document: Of the model file.
        infer: Computes the maps.
        maps: Name -> K of every map that ``infer`` gives for every voxel.
        device: Where it computes, ``cpu`` or for instance ``cuda:0``.
        peak_bytes: Most memory of the device that was in use; 0 where it has none of its own.
    """

    document: Mapping[str, Any]
    infer: Infer
    maps: Mapping[str, int]
    device: str
    peak_bytes: Callable[[], int] = lambda: 0
