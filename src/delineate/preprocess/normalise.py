"""Bring intensities to a common scale, one rule for each kind of image.

Each rule is a pure function ``(values (*S) float32, background) -> (values, facts)``; ``normalise``
applies one to each channel and records what was measured. ``background`` is the value of a constant
background (see ``crop.background``) or None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core.errors import ConfigError
from delineate.core.image import Image
from delineate.preprocess.crop import sparse

Array = NDArray[Any]
Facts = dict[str, Any]
#: Tissue begins at this share of the range from the darkest voxel to the 99th percentile.
TISSUE = 0.1


def normalise(
    image: Image,
    rules: Sequence[tuple[str, Mapping[str, float]]],
    backgrounds: Sequence[float | None],
) -> Image:
    """Apply one rule to each channel of ``(C, *S)``.

    Args:
        image: Any image.
        rules: ``(name of the rule, parameters)`` by channel.
        backgrounds: Value of the constant background by channel, None where there is none.
    """
    array = np.empty(image.array.shape, dtype=np.float32)
    done = []
    for i, (name, parameters) in enumerate(rules):
        values = np.asarray(image.array[i], dtype=np.float32)
        array[i], facts = rule(name)(values, backgrounds[i], **parameters)
        done.append({"rule": name, **parameters, **facts})
    return image.with_step("normalise", array, channels=done)


def tissue(values: Array, background: float | None, whole: bool) -> NDArray[np.bool_]:
    """What of ``(*S)`` is not background, see ``zscore``."""
    if background is not None:
        return np.asarray(values != background)
    if whole:
        return np.ones(values.shape, dtype=bool)
    bottom = float(values.min())
    top = float(np.percentile(sparse(values), 99))
    return np.asarray(values > bottom + TISSUE * (top - bottom))


def zscore(
    values: Array,
    background: float | None = None,
    *,
    low: float = 0.1,
    high: float = 99.9,
    whole: bool = False,
) -> tuple[Array, Facts]:
    """Zero mean and unit variance in the tissue, after clipping to percentiles of the tissue.

    Tissue is what differs from a constant background; the background itself becomes 0. Without a
    constant background (air with noise, scans cut around an organ) tissue is what lies above a
    tenth of the range to the 99th percentile, and every voxel takes the same linear scale.

    Args:
        values: ``(*S)``.
        background: Value of a constant background, None where there is none.
        low: Lower percentile of the tissue.
        high: Upper percentile of the tissue.
        whole: Measure over all voxels that are not background, dark ones too.
    """
    mask = tissue(values, background, whole)
    inside = values[mask] if mask.any() else values.reshape(-1)
    floor, ceiling = (float(v) for v in np.percentile(sparse(inside), (low, high)))
    inside = np.clip(inside, floor, ceiling)
    mean = float(inside.mean(dtype=np.float64))
    std = float(inside.std(dtype=np.float64))
    out = (np.clip(values, floor, ceiling) - np.float32(mean)) / np.float32(std or 1.0)
    if background is not None:
        out[~mask] = 0
    facts = {
        "floor": floor, "ceiling": ceiling, "mean": mean, "std": std, "background": background,
        "tissue_share": float(mask.mean()),
    }  # fmt: skip
    return out, facts


def window(
    values: Array,
    background: float | None = None,
    *,
    low: float,
    high: float,
    mean: float,
    std: float,
) -> tuple[Array, Facts]:
    """Clip to ``low`` … ``high``, subtract ``mean``, divide by ``std``: the same for every image.

    For values with a meaning of their own: Hounsfield units, the 0-255 of photographs.
    """
    out = (np.clip(values, low, high) - np.float32(mean)) / np.float32(std)
    return out, {}


def suv(
    values: Array, background: float | None = None, *, ceiling: float = 50.0
) -> tuple[Array, Facts]:
    """``log(1 + SUV)`` after clipping to 0 … ``ceiling``: the same for every scan."""
    return np.log1p(np.clip(values, 0, ceiling)), {}


_RULES: dict[str, Callable[..., tuple[Array, Facts]]] = {
    "zscore": zscore, "window": window, "suv": suv,
}  # fmt: skip

#: Modality -> rule and parameters, where nothing is known of the cohort's intensities.
MODALITIES: dict[str, tuple[str, dict[str, float]]] = {
    "MR": ("zscore", {"low": 0.1, "high": 99.9, "whole": False}),
    "CT": ("window", {"low": -1000.0, "high": 1000.0, "mean": 0.0, "std": 500.0}),
    "PET": ("suv", {"ceiling": 50.0}),
    "XR": ("zscore", {"low": 0.5, "high": 99.5, "whole": True}),
    "US": ("zscore", {"low": 0.0, "high": 99.9, "whole": True}),
    "OCT": ("zscore", {"low": 1.0, "high": 99.5, "whole": True}),
    "RGB": ("window", {"low": 0.0, "high": 255.0, "mean": 127.5, "std": 63.75}),
    "unknown": ("zscore", {"low": 0.1, "high": 99.9, "whole": False}),
}


def rule(name: str) -> Callable[..., tuple[Array, Facts]]:
    """A rule by name.

    Raises:
        ConfigError: No such rule.
    """
    if name not in _RULES:
        raise ConfigError(
            f"expected a rule of normalisation, got {name!r}",
            fix=f"choose one of: {', '.join(_RULES)}",
            code="unknown-name",
        )
    return _RULES[name]
