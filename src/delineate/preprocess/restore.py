"""What is done to intensities before they are scaled: the shading is taken off, then the noise.

In this order, because the field of the shading is far smoother than noise, which does not disturb
it, while rules that compare intensities should compare tissues and not places in the coil.
A constant background stays what it is, so that whatever follows still tells it from tissue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core.errors import ConfigError
from delineate.core.image import Grid, Image
from delineate.preprocess import autoencoder, bias, denoise

#: What can take noise off; ``auto`` is the usual rule for the modality.
NAMES = ("none", "auto", "gaussian", "median", "nlm", "wavelet", "autoencoder")
#: The smallest number that no processor takes for 0.
_TINY = np.finfo(np.float32).tiny
_LONG = {"nlm": "non_local_means"}


def check(
    bias_correction: bool,
    name: str,
    learned: Mapping[str, Any] | None,
    channels: Sequence[tuple[str, str]],
) -> None:
    """Refuse what cannot be done.

    Args:
        bias_correction: Whether shading is to be taken off.
        name: What is to take noise off.
        learned: Weights of an autoencoder.
        channels: Name and modality of each.

    Raises:
        ConfigError: Unknown name, autoencoder without weights or weights without it, or shading
            of anything but MR.
    """
    others = [f"{channel} ({modality})" for channel, modality in channels if modality != "MR"]
    if bias_correction and others:
        raise ConfigError(
            f"expected channels of MR, whose shading N4 knows, got {', '.join(others)}",
            where="bias_correction",
            fix="leave bias_correction off, or say in the data set that these are MR",
            code="bias-not-mr",
        )
    if name not in NAMES:
        raise ConfigError(
            f"expected one of {', '.join(NAMES)}, got {name!r}",
            where="denoise",
            code="unknown-name",
        )
    if (name == "autoencoder") != (learned is not None):
        raise ConfigError(
            f"expected weights with the autoencoder alone, got {name} "
            + ("without them" if learned is None else "with them"),
            where="denoiser",
            code="denoiser-missing",
        )


def unshade(image: Image, masks: NDArray[np.bool_], backgrounds: Sequence[float | None]) -> Image:
    """Divide each channel of ``(C, *S)`` by its field (N4).

    Args:
        image: Magnitudes.
        masks: ``(C, *S)`` the tissue.
        backgrounds: Value of the constant background by channel, None where there is none.

    Raises:
        InputError: Negative values.
    """
    return _keeping(image, bias.correct(image, masks), backgrounds)


def rules(name: str, image: Image, modalities: Sequence[str]) -> list[tuple[str, str, Any]]:
    """Kind of noise, rule and parameters of each channel.

    Magnitudes have the bias of Rician noise; where there are negative values, it was removed.
    """
    listed = []
    for values, modality in zip(image.array, modalities, strict=True):
        noise, rule, parameters = denoise.MODALITIES.get(modality, denoise.MODALITIES["unknown"])
        if noise == "rician" and float(values.min()) < 0:
            noise = "additive"
        listed.append((noise, rule, parameters) if name == "auto" else
                     (noise, _LONG.get(name, name), {}))  # fmt: skip
    return listed


def remove_noise(
    image: Image,
    name: str,
    modalities: Sequence[str],
    backgrounds: Sequence[float | None],
    *,
    slice_axis: int | None = None,
    learned: Mapping[str, Any] | None = None,
) -> Image:
    """Take the noise off each channel of ``(C, *S)``, in the scale in which it is even.

    Args:
        image: Any image.
        name: Member of ``NAMES``.
        modalities: Of each channel.
        backgrounds: Value of the constant background by channel, None where there is none.
        slice_axis: Across which a stack is cut into slices, each treated by itself.
        learned: The autoencoder.
    """
    rules_of_channels = rules(name, image, modalities)
    if learned is None:
        return _keeping(image, denoise.denoise(image, rules_of_channels, slice_axis), backgrounds)
    axis = across(image.grid) if slice_axis is None else slice_axis
    array = np.empty(image.array.shape, np.float32)
    done = []
    for i, (noise, rule, _) in enumerate(rules_of_channels):
        forth, back, facts = denoise.even_scale(np.asarray(image.array[i], np.float32), noise)
        array[i] = back(autoencoder.clean(forth, learned, axis))
        done.append({"noise": noise, "rule": rule, **facts})
    after = image.with_step(
        "denoise", array, channels=done, weights=autoencoder.fingerprint(learned), slice_axis=axis
    )
    return _keeping(image, after, backgrounds)


def across(grid: Grid) -> int | None:
    """The axis with the longest voxels, the last of equal ones; None for flat images."""
    if grid.ndim == 2:
        return None
    spacing = np.round(grid.spacing_mm[::-1], 1)
    return 2 - int(np.argmax(spacing))


def _keeping(before: Image, after: Image, backgrounds: Sequence[float | None]) -> Image:
    """``after``, with the background of ``before`` and nothing else of its value."""
    for was, values, background in zip(before.array, after.array, backgrounds, strict=True):
        if background is not None:
            level = np.float32(background)
            # Tissue that comes upon that very value would be taken for background.
            next_to = np.maximum(np.nextafter(level, np.float32(np.inf)), level + _TINY)
            values[values == level] = next_to
            values[was == level] = level
    return after
