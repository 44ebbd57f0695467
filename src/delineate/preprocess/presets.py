"""The preparation of a cohort: planned once, kept in the model file, applied to every image.

    orient -> crop -> bias correction -> denoise -> normalise -> resample -> derive  (apply)
    resample back -> put into the full field -> orient back                        (Inverse)

Bias correction and denoising are done where they are asked for, in this order (see ``restore``).
Intensities are scaled before resampling, while a constant background is still constant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from delineate.core.errors import GeometryError, InputError
from delineate.core.image import Grid, Image
from delineate.preprocess import crop, derive, normalise, orient, resample, restore, slicing
from delineate.preprocess.geometry import (
    apply_image,
    apply_label,
    cropped_away,
    stack_channels,
)
from delineate.preprocess.inverse import Inverse
from delineate.preprocess.preparation import Channel, Preparation
from delineate.preprocess.thickness import Thickness

__all__ = [
    "Channel", "Inverse", "Preparation", "apply", "apply_image", "apply_label", "cropped_away",
    "plan", "stack_channels",
]  # fmt: skip

#: Goes up when the same preparation would give other numbers.
ARITHMETIC = 1


# ---------------------------------------------------------------------------------- planning


def plan(
    grids: Sequence[Grid],
    modalities: Sequence[str],
    *,
    names: Sequence[str] | None = None,
    statistics: Mapping[int, Mapping[str, float]] | None = None,
    derived: Sequence[str] = (),
    clusters: int = 3,
    bias_correction: bool = False,
    denoise: str = "none",
    target: str | None = None,
    dimensions: Literal["auto", 2, 3] = "auto",
    thickness: Thickness | None = None,
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
        bias_correction: Take the shading of MR off (N4).
        denoise: Member of ``restore.NAMES``; the autoencoder has to be learned first.
        target: Name of the channel that a model is to give instead of being shown it.
        dimensions: That a network is to see; ``auto``: the data decide.
        thickness: Of slices by the labels, where that was measured.

    Raises:
        ConfigError: Nothing that can be derived or take noise off is called so, N4 for anything but
            MR, or three dimensions of flat images or single slices.
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
    channels, reasons, target_channel = list[Channel](), list[str](), None
    for i, modality in enumerate(modalities):
        name = names[i] if names else str(i)
        if name == target:
            target_channel, reason = _target(name, modality, (statistics or {}).get(i))
        else:
            channel, reason = _channel(name, modality, (statistics or {}).get(i))
            channels.append(channel)
        reasons.append(reason)
    cut = slicing.decide(ras, dimensions, thickness)
    spacing, geometry_reasons = _geometry(ras, cut.axis)
    if bias_correction:
        reasons.append("shading of the coils taken off by N4, as was asked for")
    if denoise != "none":
        reasons.append(f"noise taken off: {denoise}, as was asked for")
    if derived:
        reasons.append(f"channels derived from these: {', '.join(derived)}, as was asked for")
    return Preparation(
        channels=tuple(channels),
        ndim=2 if cut.axis is not None else ras[0].ndim,
        spacing_mm=spacing,
        slice_axis=cut.axis,
        orient=oriented,
        reasons=(cut.reason, *geometry_reasons, *reasons),
        derived=tuple(derived),
        clusters=clusters,
        bias_correction=bias_correction,
        denoise=denoise,
        single_slices=cut.single,
        target=target_channel,
    )


def _target(
    name: str, modality: str, statistics: Mapping[str, float] | None
) -> tuple[Channel, str]:
    """The channel that a model is to give, never clipped, and whether it has units of its own."""
    channel, _ = _channel(name, modality, statistics if modality == "PET" else None)
    reason = "every scan is scaled alone, for its values have no unit"
    if channel.rule != "zscore":
        reason = "all scans on one scale, that of their unit"
    return channel, f"target {name}: {reason} ({modality})"


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
        reason = f"clipped to {low:.0f} … {high:.0f}, the range of the outlined structures"
    elif statistics and modality == "PET" and statistics["p99_5"] > 100:
        rule, parameters = normalise.MODALITIES["MR"]
        reason = (
            f"values up to {statistics['p99_5']:.0f} cannot be SUV, so each scan is scaled alone"
        )
    elif statistics and modality == "RGB" and not 1 < statistics["maximum"] <= 255:
        full = 65535.0 if statistics["maximum"] > 255 else 1.0
        parameters = {"low": 0.0, "high": full, "mean": full / 2, "std": full / 4}
        reason = f"values up to {statistics['maximum']:g}, so full scale is {full:g}"
    elif modality in normalise.MODALITIES and modality != "unknown":
        reason = f"the usual rule for {modality}"
    else:
        reason = "as for MR, since the kind of image is not known"
    return Channel(name, modality, rule, parameters), f"channel {name}: {rule}, {reason}"


def _geometry(
    grids: Sequence[Grid], slice_axis: int | None
) -> tuple[tuple[float | None, ...] | None, list[str]]:
    """Target spacing, and the reasons for it."""
    known = all(grid.spacing_known for grid in grids)
    spacings = np.array([grid.spacing_mm for grid in grids])
    target = np.median(spacings, axis=0)
    sizes = np.median([grid.shape for grid in grids], axis=0)
    coarse = int(np.argmax(target))
    others = np.delete(target, coarse)
    reasons = list[str]()
    thin = sizes[coarse] * 3 < np.delete(sizes, coarse).min()
    anisotropic = target[coarse] / others.max() > resample.ANISOTROPIC
    if len(target) == 3 and slice_axis is None and anisotropic and thin:
        target[coarse] = max(float(np.percentile(spacings[:, coarse], 10)), others.max())
        reasons.append("the finer tenth of the cohort decides the distance between slices")
    # Four digits, so that the hair's breadth between two splits of a cohort makes no difference.
    spacing: list[float | None] = [float(f"{mm:.4g}") for mm in target]
    if slice_axis is not None:
        spacing[slice_axis] = None
    spacing_in_words = " × ".join("kept" if mm is None else f"{mm:.3g}" for mm in spacing) + " mm"
    same_spacing = all(
        to is None or np.all(np.abs(spacings[:, a] / to - 1) <= resample.SAME_SPACING)
        for a, to in enumerate(spacing)
    )
    if not known:
        return None, [*reasons, "not resampled: the voxel size is not known"]
    if same_spacing and slice_axis is not None:
        within = " × ".join(f"{mm:.3g}" for mm in spacing if mm is not None)
        reasons.append(
            f"every slice has {within} mm, give or take 1 %; other scans are brought to it, and "
            "their distance between slices is kept"
        )
    elif same_spacing:
        reasons.append(
            f"every case has {spacing_in_words}, give or take 1 %; other scans are brought to it"
        )
    else:
        reasons.append(f"resampled to {spacing_in_words}; the cohort has {_ranges(spacings)} mm")
    return tuple(spacing), reasons


def _ranges(spacings: NDArray[np.float64]) -> str:
    """Smallest and largest spacing by axis, for people."""
    return " × ".join(
        f"{a:.3g}-{b:.3g}" for a, b in zip(spacings.min(0), spacings.max(0), strict=True)
    )


# ---------------------------------------------------------------------------------- forwards


def apply(preparation: Preparation, image: Image) -> Image:
    """Prepare one image ``(C, *S)``, step by step; all steps are in its history.

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
    image, backgrounds = before_denoising(preparation, image)
    if preparation.denoise != "none":
        image = restore.remove_noise(
            image, preparation.denoise, [c.modality for c in preparation.channels], backgrounds,
            slice_axis=preparation.slice_axis if image.grid.ndim == 3 else None,
            learned=preparation.denoiser,
        )  # fmt: skip
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


def before_denoising(preparation: Preparation, image: Image) -> tuple[Image, list[float | None]]:
    """Oriented, cropped, and its shading taken off; and the background of each channel.

    Raises:
        InputError: A voxel that is no number, an image of one single value, or shading of negative
            values.
    """
    _check_values(preparation, image)
    if preparation.orient:
        image = orient.to_ras(image)
    backgrounds = [crop.background(channel) for channel in image.array]
    if preparation.crop:
        image = crop.crop_foreground(image, crop.foreground_box(image, backgrounds))
    if preparation.bias_correction:
        image = restore.unshade(image, _tissue(preparation, image, backgrounds), backgrounds)
    return image, backgrounds


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
