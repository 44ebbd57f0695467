"""The scale of an image that a model is to give, and the way back to the units of the scans.

A prepared target keeps its own values; ``prepare`` says where those of its tissue lie, and a
``Scale`` brings all of a training set together. Two kinds of image come home in two ways:

- What has units of its own (Hounsfield units, SUV, the 0 to 255 of photographs) is shifted and
  stretched alike in every scan, so that the way back is exact.
- MR has none: every scan has a gain that no input tells. Each training scan is scaled by the mean
  and standard deviation of its own tissue, and predictions get those of a typical training scan.

Where all inputs have their constant background, nothing is learned and nothing predicted: there an
image has the value that training scans have there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from delineate.core.errors import InputError
from delineate.core.image import Image
from delineate.preprocess import crop, normalise
from delineate.preprocess.geometry import apply_image
from delineate.preprocess.preparation import Channel

#: Share of a resampled voxel that must lie within the foreground.
_INSIDE = 0.5
#: ``mean``, ``std`` and ``outside`` of a prepared target.
Facts = Mapping[str, float | None]


def prepare(
    values: NDArray[Any], channel: Channel, inputs: NDArray[Any], like: Image
) -> tuple[NDArray[np.float32], Facts]:
    """A target on the grid of its prepared inputs, and what a ``Scale`` is made from.

    Args:
        values: ``(*S)``, on the grid of the inputs before they were prepared.
        channel: What it is.
        inputs: ``(C, *S)`` before they were prepared.
        like: The same prepared.

    Returns:
        ``(1, *S')`` in the values of the file, NaN where the inputs have their background;
        ``mean`` and ``std`` of the tissue, and ``outside``, the median of the values there (None
        where there is no such place).

    Raises:
        InputError: A voxel that is no number, or one single value in every voxel.
    """
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)) or low == high:
        raise InputError(
            f"channel {channel.name}: expected an image of finite numbers to learn from, got "
            f"{'one single value' if low == high else 'voxels that are NaN or infinite'}",
            fix="check that the file is what its name says, or leave the case out: --exclude FILE",
            code="target-values",
        )
    tissue = values[normalise.tissue(values, crop.background(values), whole=False)]
    inside = foreground(inputs)
    facts: Facts = {
        "mean": float(tissue.mean(dtype=np.float64)),
        "std": float(tissue.std(dtype=np.float64)) or 1.0,
        "outside": float(np.median(values[~inside])) if not inside.all() else None,
    }
    target = apply_image(values[None], like)
    target[apply_image(inside[None].astype(np.float32), like) < _INSIDE] = np.nan
    return target, facts


def foreground(inputs: NDArray[Any]) -> NDArray[np.bool_]:
    """Voxels ``(*S)`` of inputs ``(C, *S)`` as read, of which something is learned and told."""
    return crop.foreground(inputs, [crop.background(channel) for channel in inputs])


@dataclass(frozen=True)
class Scale:
    """How the values of a target are brought to zero mean and unit variance, and home again.

    Args:
        channel: Name of the target.
        units: ``"scan"``: the values mean the same in every scan, and the way back is exact;
            ``"typical"``: they have no unit, and what comes home has the mean and standard
            deviation of a typical training scan.
        mean: Of the tissue, median over the training scans.
        std: Likewise.
        outside: Value where the inputs have their background; likewise. None where they have none.
    """

    channel: str
    units: Literal["scan", "typical"]
    mean: float
    std: float
    outside: float | None

    @staticmethod
    def of(channel: Channel, training: Sequence[Facts]) -> Scale:
        """The scale of a training set.

        Args:
            channel: The target.
            training: What ``prepare`` said of each training case.
        """
        mean, std = (
            float(np.median([facts[name] for facts in training])) for name in ("mean", "std")
        )
        outside = [facts["outside"] for facts in training if facts["outside"] is not None]
        return Scale(
            channel.name,
            "typical" if channel.rule == "zscore" else "scan",
            mean,
            std,
            float(np.median(outside)) if outside else None,
        )

    @staticmethod
    def mean_of(scales: Sequence[Scale]) -> Scale:
        """Of the mean of what several models give."""
        mean, std = np.mean([(scale.mean, scale.std) for scale in scales], axis=0).tolist()
        known = [scale.outside for scale in scales if scale.outside is not None]
        outside = float(np.mean(known)) if known else None
        return dataclasses.replace(scales[0], mean=mean, std=std, outside=outside)

    def apply(self, values: Any, facts: Facts) -> Any:
        """Bring values of a case (an array or a tensor) to the scale that a network learns on."""
        if self.units == "scan":
            return (values - self.mean) / self.std
        return (values - facts["mean"]) / facts["std"]

    def undo(self, values: Any) -> Any:
        """Give what a network says (an array or a tensor) its units."""
        return values * self.std + self.mean

    @property
    def meaning(self) -> str:
        """What the values of a predicted image are, in words."""
        if self.units == "scan":
            return f"the units of {self.channel}, exactly"
        return (
            f"{self.channel} has no unit: values have the mean ({self.mean:.4g}) and standard "
            f"deviation ({self.std:.4g}) of the tissue of a typical training scan"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, with what the values mean."""
        return {**asdict(self), "meaning": self.meaning}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Scale:
        """The inverse of ``to_dict``."""
        return Scale(**{key: value for key, value in data.items() if key != "meaning"})
