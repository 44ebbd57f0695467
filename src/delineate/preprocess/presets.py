"""The preparation of a cohort: planned once, kept in the model file, applied to every image.

    orient -> crop -> normalise -> resample -> derive  (apply, apply_label)
    resample back -> put into the full field -> orient back            (home, home_labels)

Intensities are scaled before resampling, while a constant background is still constant.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core.errors import ConfigError, GeometryError, InputError
from delineate.core.image import Grid, Image
from delineate.preprocess import crop, derive, normalise, orient, resample
from delineate.preprocess.geometry import (
    apply_label,
    cropped_away,
    home,
    home_labels,
    stack_channels,
)

__all__ = [
    "Channel", "Preparation", "apply", "apply_label", "cropped_away", "home", "home_labels", "plan",
    "stack_channels",
]  # fmt: skip

#: Goes up when the same preparation would give other numbers.
ARITHMETIC = 1
#: Stacks with fewer slices than this and thick slices are treated slice by slice.
FEW_SLICES = 16


@dataclass(frozen=True)
class Channel:
    """How one channel is brought to a common scale.

    Args:
        name: Name in the cohort; ``"rgb.0"``, ``"rgb.1"`` … for sources of several channels.
        modality: MR, CT, PET, XR, US, OCT, RGB or unknown.
        rule: Member of ``normalise``.
        parameters: Of the rule.
    """

    name: str
    modality: str
    rule: str
    parameters: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        normalise.rule(self.rule)


@dataclass(frozen=True)
class Preparation:
    """Everything that is done to an image before a network sees it.

    Args:
        channels: One rule a channel, in order.
        ndim: 2 where a network sees slices or flat images, 3 where it sees volumes.
        spacing_mm: Target voxel size by axis after orientation; None for an axis keeps that axis,
            None keeps all. Axes within 1 % of it are left alone.
        crop: Cut off constant margins.
        slice_axis: Axis (after orientation) along which a stack is cut into slices; None for 3D
            and for flat images.
        orient: Bring the axes to RAS+; False where the files do not say how they lie.
        reasons: Why the plan is as it is, one sentence each.
        derived: Channels computed from these and appended to them, see ``derive``.
        clusters: How many, where they are derived.
    """

    channels: tuple[Channel, ...]
    ndim: int
    spacing_mm: tuple[float | None, ...] | None = None
    crop: bool = True
    slice_axis: int | None = None
    orient: bool = True
    reasons: tuple[str, ...] = ()
    derived: tuple[str, ...] = ()
    clusters: int = 3

    def __post_init__(self) -> None:
        if self.ndim not in (2, 3) or (self.ndim == 3 and self.slice_axis is not None):
            raise ConfigError(
                f"expected ndim 2, or 3 without slice_axis, got {self.ndim} and {self.slice_axis}"
            )
        if self.spacing_mm and any(mm is not None and not mm > 0 for mm in self.spacing_mm):
            raise ConfigError(f"expected positive spacings in mm, got {self.spacing_mm}")
        strange = sorted(set(self.derived) - set(derive.KINDS))
        if strange or len(set(self.derived)) != len(self.derived):
            raise ConfigError(
                f"expected each at most once of {', '.join(derive.KINDS)}, "
                f"got {', '.join(self.derived)}",
                where="derived",
                code="unknown-name",
            )
        ordered = tuple(kind for kind in derive.KINDS if kind in self.derived)
        object.__setattr__(self, "derived", ordered)  # those that show intensities come first
        if not 2 <= self.clusters <= 16:
            raise ConfigError(f"expected 2 to 16 clusters, got {self.clusters}", where="clusters")

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the channels that a network sees: those of the files, then the derived ones."""
        own = tuple(channel.name for channel in self.channels)
        return own + derive.names(own, self.derived, self.clusters)

    @property
    def sources(self) -> tuple[int | None, ...]:
        """Of every output the channel that it shows, None for those that show no intensities."""
        own = tuple(range(len(self.channels)))
        shown: dict[str, tuple[int | None, ...]] = {
            "equalised": own, "clusters": (None,) * self.clusters,
        }  # fmt: skip
        return sum((shown[kind] for kind in self.derived), start=own)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        data = dataclasses.asdict(self)
        lists = {k: list(v) for k, v in data.items() if isinstance(v, tuple)}
        return {**data, **lists, "channels": [dataclasses.asdict(c) for c in self.channels]}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Preparation:
        """The inverse of ``to_dict``.

        What older versions did not write has its default.

        Raises:
            ConfigError: A key is missing or unknown.
        """
        data = {"derived": (), "clusters": 3, **data}
        _same_keys(data, Preparation)
        for channel in data["channels"]:
            _same_keys(channel, Channel)
        spacing = data["spacing_mm"]
        return Preparation(
            **{
                **data,
                "channels": tuple(Channel(**c) for c in data["channels"]),
                "spacing_mm": None if spacing is None else tuple(spacing),
                "reasons": tuple(data["reasons"]),
                "derived": tuple(data["derived"]),
            }
        )


def _same_keys(data: Mapping[str, Any], kind: type) -> None:
    expected = {f.name for f in dataclasses.fields(kind)}
    if set(data) != expected:
        raise ConfigError(
            f"expected the keys {sorted(expected)}, got unknown {sorted(set(data) - expected)} and "
            f"missing {sorted(expected - set(data))}",
            where=kind.__name__,
            code="unknown-key",
        )


# ---------------------------------------------------------------------------------- planning


def plan(
    grids: Sequence[Grid],
    modalities: Sequence[str],
    *,
    names: Sequence[str] | None = None,
    statistics: Mapping[int, Mapping[str, float]] | None = None,
    derived: Sequence[str] = (),
    clusters: int = 3,
) -> Preparation:
    """Decide how a cohort is prepared, and say why.

    The target voxel size is the cohort's median by axis; along the coarse axis of strongly
    anisotropic cohorts it is the 10th percentile, so that the sharper scans do not lose most of
    their slices (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z).

    Args:
        grids: Grid of each case.
        modalities: Of each channel.
        names: Of each channel; ``"0"``, ``"1"`` … if not given.
        statistics: By channel index, where measured: ``mean``, ``std``, ``p00_5``, ``p99_5``
            within the labelled voxels, ``maximum`` over all.
        derived: Channels to append, see ``derive``.
        clusters: How many, where they are derived.

    Raises:
        ConfigError: Nothing that can be derived is called so.
        GeometryError: Flat images and volumes in one cohort, or no case at all.
    """
    flat = {grid.ndim for grid in grids}
    if len(flat) != 1:
        raise GeometryError(
            "expected a cohort of flat images or of volumes, got "
            + ("both" if flat else "no case at all"),
            fix="give each kind a cohort of its own",
            code="cohort-mixed",
        )
    oriented = all(grid.oriented for grid in grids)
    ras = [orient.ras_grid(grid) for grid in grids] if oriented else grids
    channels, reasons = [], []
    for i, modality in enumerate(modalities):
        name = names[i] if names else str(i)
        channel, reason = _channel(name, modality, (statistics or {}).get(i))
        channels.append(channel)
        reasons.append(reason)
    ndim, slice_axis, spacing, why = _geometry(ras)
    if derived:
        reasons.append(f"channels derived from these: {', '.join(derived)}, as was asked for")
    return Preparation(
        channels=tuple(channels),
        ndim=ndim,
        spacing_mm=spacing,
        slice_axis=slice_axis,
        orient=oriented,
        reasons=(*why, *reasons),
        derived=tuple(derived),
        clusters=clusters,
    )


def _channel(
    name: str, modality: str, statistics: Mapping[str, float] | None
) -> tuple[Channel, str]:
    """Rule of one channel, and why."""
    rule, parameters = normalise.MODALITIES.get(modality, normalise.MODALITIES["unknown"])
    parameters = dict(parameters)
    if statistics and modality == "CT":
        low, high = statistics["p00_5"], statistics["p99_5"]
        parameters = {"low": low, "high": high, "mean": statistics["mean"],
                      "std": max(statistics["std"], 1e-3)}  # fmt: skip
        why = f"clipped to {low:.0f} … {high:.0f}, the range of the outlined structures"
    elif statistics and modality == "PET" and statistics["p99_5"] > 100:
        rule, parameters = normalise.MODALITIES["MR"]
        why = f"values up to {statistics['p99_5']:.0f} cannot be SUV, so each scan is scaled alone"
    elif statistics and modality == "RGB" and not 1 < statistics["maximum"] <= 255:
        full = 65535.0 if statistics["maximum"] > 255 else 1.0
        parameters = {"low": 0.0, "high": full, "mean": full / 2, "std": full / 4}
        why = f"values up to {statistics['maximum']:g}, so full scale is {full:g}"
    elif modality in normalise.MODALITIES and modality != "unknown":
        why = f"the usual rule for {modality}"
    else:
        why = "as for MR, since the kind of image is not known"
    return Channel(name, modality, rule, parameters), f"channel {name}: {rule}, {why}"


def _geometry(
    grids: Sequence[Grid],
) -> tuple[int, int | None, tuple[float | None, ...] | None, list[str]]:
    """Dimension, slice axis, target spacing and the reasons for them."""
    ndim = grids[0].ndim
    known = all(grid.spacing_known for grid in grids)
    spacings = np.array([grid.spacing_mm for grid in grids])
    target = np.median(spacings, axis=0)
    sizes = np.median([grid.shape for grid in grids], axis=0)
    coarse = int(np.argmax(target))
    others = np.delete(target, coarse)
    ratio = float(target[coarse] / others.max())
    if ndim == 2:
        slice_axis, why = None, "2D: the images are flat"
    elif not known:
        slice_axis = 2
        why = "2D, slice by slice: the distance between slices is not known"
    elif ratio > resample.ANISOTROPIC and sizes[coarse] < FEW_SLICES:
        slice_axis = coarse
        why = (
            f"2D, slice by slice: {sizes[coarse]:.0f} slices of {target[coarse]:.3g} mm, "
            f"{ratio:.1f} times the pixel size"
        )
    else:
        slice_axis = None
        why = f"3D: {ratio:.1f} times as coarse along the coarsest axis, {sizes[coarse]:.0f} slices"
    reasons = [why]
    thin = sizes[coarse] * 3 < np.delete(sizes, coarse).min()
    if ndim == 3 and ratio > resample.ANISOTROPIC and thin:
        target[coarse] = max(float(np.percentile(spacings[:, coarse], 10)), others.max())
        reasons.append("the finer tenth of the cohort decides the distance between slices")
    # Four digits, so that the hair's breadth between two splits of a cohort makes no difference.
    spacing: list[float | None] = [float(f"{mm:.4g}") for mm in target]
    if slice_axis is not None:
        spacing[slice_axis] = None
    ndim = 2 if slice_axis is not None else ndim
    shown = " × ".join("kept" if mm is None else f"{mm:.3g}" for mm in spacing) + " mm"
    alike = all(
        to is None or np.all(np.abs(spacings[:, a] / to - 1) <= resample.SAME_SPACING)
        for a, to in enumerate(spacing)
    )
    if not known:
        return ndim, slice_axis, None, [*reasons, "not resampled: the voxel size is not known"]
    if alike:
        reasons.append(f"every case has {shown}, give or take 1 %; other scans are brought to it")
    else:
        reasons.append(f"resampled to {shown}; the cohort has {_ranges(spacings)} mm")
    return ndim, slice_axis, tuple(spacing), reasons


def _ranges(spacings: NDArray[np.float64]) -> str:
    """Smallest and largest spacing by axis, for people."""
    return " × ".join(
        f"{a:.3g}-{b:.3g}" for a, b in zip(spacings.min(0), spacings.max(0), strict=True)
    )


# ---------------------------------------------------------------------------------- forwards


def apply(preparation: Preparation, image: Image) -> Image:
    """Prepare one image ``(C, *S)``: RAS+, cropped, normalised, resampled; all in its history.

    Derived channels are computed last, on the grid that the network sees.

    Raises:
        InputError: Another number of channels, a voxel that is no number, or an image of one
            single value.
        GeometryError: Another number of axes than was planned for, or no voxel size.
    """
    if image.channels != len(preparation.channels):
        raise InputError(
            f"expected {len(preparation.channels)} channels "
            f"({', '.join(c.name for c in preparation.channels)}), got {image.channels}",
            code="channels-differ",
        )
    spacing = _spacing_for(preparation, image.grid)
    _check_values(preparation, image)
    if preparation.orient:
        image = orient.to_ras(image)
    backgrounds = [crop.background(channel) for channel in image.array]
    if preparation.crop:
        image = crop.crop_foreground(image, crop.foreground_box(image, backgrounds))
    tissue = _tissue(preparation, image, backgrounds) if preparation.derived else None
    image = normalise.normalise(
        image, [(c.rule, c.parameters) for c in preparation.channels], backgrounds
    )
    before = image
    image = image if spacing is None else resample.resample(image, spacing, order=3)
    if tissue is None:
        return image
    if image is not before:
        tissue = resample.replay(tissue.view(np.uint8), image.history[-1], order=0).view(np.bool_)
    channels = [(c.name, c.modality) for c in preparation.channels]
    return derive.append(image, tissue, preparation.derived, channels, preparation.clusters)


def _tissue(
    preparation: Preparation, image: Image, backgrounds: Sequence[float | None]
) -> NDArray[np.bool_]:
    """What is not background in each channel, as its normalisation has it."""
    whole = [bool(c.parameters.get("whole", c.modality == "RGB")) for c in preparation.channels]
    return derive.tissue(image.array, backgrounds, whole)


def _spacing_for(preparation: Preparation, grid: Grid) -> Sequence[float | None] | None:
    """Target spacing of an image by its axes; one slice of a stack is taken for a stack of one."""
    spacing = preparation.spacing_mm
    if spacing and grid.ndim == 2 and preparation.slice_axis is not None:
        spacing = spacing[: preparation.slice_axis] + spacing[preparation.slice_axis + 1 :]
    if grid.ndim < preparation.ndim or (spacing and len(spacing) != grid.ndim):
        raise GeometryError(
            f"expected {'volumes' if preparation.ndim == 3 else 'flat images'}, got an image of "
            f"{grid.ndim} axes",
            fix="give the kind of image that the model was trained on",
            code="dimensions",
        )
    if spacing and not grid.spacing_known:
        raise GeometryError(
            "expected an image of known voxel size, got one that does not state it",
            fix="the model was trained at a set voxel size; give files that state theirs",
            code="spacing-unknown",
        )
    return spacing


def _check_values(preparation: Preparation, image: Image) -> None:
    constant = True
    for channel, values in zip(preparation.channels, image.array, strict=True):
        low, high = float(values.min()), float(values.max())
        # The smallest and largest are finite only if every value is: NaN passes through both.
        if not (np.isfinite(low) and np.isfinite(high)):
            raise InputError(
                f"channel {channel.name}: expected finite numbers, got "
                f"{int((~np.isfinite(values)).sum())} voxels that are NaN or infinite",
                fix="export the scan again, or set such voxels yourself",
                code="voxels-not-finite",
            )
        constant = constant and low == high
    if constant:
        raise InputError(
            "expected an image, got one single value in every voxel",
            fix="check that the file is what its name says",
            code="image-constant",
        )
