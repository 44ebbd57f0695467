"""Whether a scan is of the kind that a model was trained on, as far as its numbers can tell.

What a file's own tag says (DICOM Modality) is held against the modality of the model's channel.
Beyond that only units speak: Hounsfield units have a shape that no other scan has (air at -1000,
water at 0), and SUV, Hounsfield units and grey levels of photographs a scale. MR has no unit: its
ranges differ a thousandfold between scanners, and are never compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core.image import Image
from delineate.preprocess.crop import sparse

Facts = dict[str, Any]

#: DICOM Modality -> modality as channels name it; what is not here (OT, SC, …) tells nothing.
_TAGS = {
    "MR": "MR", "CT": "CT", "PT": "PET", "US": "US", "IVUS": "US", "OPT": "OCT",
    "CR": "XR", "DX": "XR", "MG": "XR", "RG": "XR", "RF": "XR", "XA": "XR",
}  # fmt: skip
#: Hounsfield units: where the lowest and the highest half percent begin, the median, the span.
_LOWEST, _HIGHEST, _MIDDLE, _SPAN = (-3100, -200), (-150, 4500), (-2100, 400), (300, 7500)
#: Fat begins below minus this; interpolation undershoots zero by up to this share of the range.
_FAT, _OVERSHOOT = 50.0, 0.05
#: A scan whose scale is so many times another is in other units.
_TIMES = 50.0
#: Training scans whose brightest voxels are below this have no scale that could be told apart.
_LEAST_SCALE = 1.0


def measure(image: Image) -> list[Facts]:
    """Of each channel of an image as read: what its file says it is, and three percentiles."""
    tags = image.meta.get("modalities") or [image.meta.get("modality")] * image.channels
    return [
        {"modality": _TAGS.get(str(tag)), **_percentiles(channel)}
        for tag, channel in zip(tags, image.array, strict=True)
    ]


def training_range(measured: Iterable[Sequence[Mapping[str, Any]]]) -> list[Facts]:
    """What a model file keeps of its training scans, by channel.

    Args:
        measured: Of each scan, as :func:`measure` gives it.

    Returns:
        ``modalities`` seen, ``scans``, how many of them are in Hounsfield units, and the smallest
        and largest of each percentile.
    """
    ranges = []
    for channel in zip(*measured, strict=True):
        known = [facts for facts in channel if facts["p50"] is not None]
        if not known:
            return []
        ranges.append(
            {
                "modalities": sorted({scan["modality"] for scan in known if scan["modality"]}),
                "scans": len(known),
                "hounsfield": sum(map(_is_hounsfield, known)),
                **{p: [min(scan[p] for scan in known), max(scan[p] for scan in known)]
                   for p in ("p00_5", "p50", "p99_5")},
            }
        )  # fmt: skip
    return ranges


def contradictions(document: Mapping[str, Any], measured: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why a scan is not of the kind that a model was trained on; nothing where it may be.

    Args:
        document: Of the model file. Of one that an older version wrote, only tags are compared.
        measured: Of the scan, see :func:`measure`.
    """
    channels = document["preparation"]["channels"]
    ranges = (document.get("provenance", {}).get("training_range") or {}).get("intensity")
    ranges = ranges if ranges and len(ranges) == len(channels) else [None] * len(channels)
    reasons = []
    for channel, range_, facts in zip(channels, ranges, measured, strict=True):
        reason = _by_tag(channel["modality"], range_, facts["modality"])
        if reason is None and range_ is not None and facts["p50"] is not None:
            reason = _by_unit(channel, range_, facts)
        if reason is not None:
            reasons.append(f"channel {channel['name']}: {reason}")
    return reasons


def _by_tag(channel: str, range_: Mapping[str, Any] | None, tag: str | None) -> str | None:
    """A tag that contradicts the tags of the training scans, or else the channel's modality."""
    trained_on = list(range_["modalities"]) if range_ else []
    expected = trained_on or ([channel] if channel in _TAGS.values() else [])
    if tag is None or not expected or tag in expected:
        return None
    return f"expected {' or '.join(expected)} as in training, got {tag} by the file's own tag"


def _by_unit(
    channel: Mapping[str, Any], range_: Mapping[str, Any], facts: Mapping[str, Any]
) -> str | None:
    low, high = facts["p00_5"], facts["p99_5"]
    span = f"values of {low:.4g} to {high:.4g}"
    all_, units = range_["scans"], range_["hounsfield"]
    if units == 0 and _is_hounsfield(facts):
        return f"{span} look like Hounsfield units (CT), which none of {all_} training scans has"
    airless = low >= -max(_FAT, _OVERSHOOT * high)
    if units == all_ and (airless or high - low < _SPAN[0] / 2):
        return (
            f"{span} are no Hounsfield units, which each of {all_} training scans has: "
            f"{'no air, no fat' if airless else 'a span too small'}"
        )
    if channel["rule"] == "zscore" or units:  # each scan has a scale of its own
        return None
    lowest, highest = range_["p99_5"]
    if highest >= _LEAST_SCALE and (high > _TIMES * highest or _TIMES * high < lowest):
        return f"{span} are in other units than the training scans, which end at {lowest:.4g} to " \
            f"{highest:.4g}"  # fmt: skip
    return None


def _is_hounsfield(facts: Mapping[str, Any]) -> bool:
    low, middle, high = facts["p00_5"], facts["p50"], facts["p99_5"]
    inside = zip((low, high, middle, high - low), (_LOWEST, _HIGHEST, _MIDDLE, _SPAN), strict=True)
    return all(least <= value <= most for value, (least, most) in inside)


def _percentiles(channel: NDArray[Any]) -> Facts:
    values = sparse(np.ascontiguousarray(channel))
    values = values[np.isfinite(values)]
    if not values.size:
        return {"p00_5": None, "p50": None, "p99_5": None}
    low, middle, high = (float(v) for v in np.percentile(values, (0.5, 50, 99.5)))
    return {"p00_5": low, "p50": middle, "p99_5": high}
