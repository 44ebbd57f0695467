"""A small denoising autoencoder that learns from the noisy images themselves.

Four convolutions tell the noise of a slice, which is then taken off (Zhang et al. 2017,
doi:10.1109/TIP.2017.2662206). No clean image is needed: images are measured in units of their own
noise, as much noise of half that strength is added, and the network learns to name what was added.
What was there before is of the same kind, so the whole is a fixed multiple (Moran et al. 2020,
arXiv:1910.11908; with a strength below 1 as Pang et al. 2021, doi:10.1109/CVPR46437.2021.00208).

The filters of the first layer sum to 0, so that an offset of the intensities changes nothing.
Everything runs on the processor and draws from a generator of its own: same pictures, same weights.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core.errors import ConfigError, InputError
from delineate.preprocess.denoise import noise_std

Array = NDArray[Any]
#: Channels from layer to layer; 4,945 numbers in all.
WIDTHS = (1, 16, 16, 16, 1)
#: Edge of a picture that is learned from, in pixels.
SIZE = 40
#: Strength of the added noise, in units of the noise that is there.
_ALPHA = 0.5
#: Brings intensities in units of noise to about 1, where networks learn best.
_SCALE = 0.1
#: Pixels that the layers take from each edge.
_MARGIN = len(WIDTHS) - 1
_BATCH, _RATE = 8, 5e-3
#: Pixels in one pass: more do not fit into the caches, and take three times as long.
_PIXELS = 1 << 16


def pictures(
    values: Array,
    count: int,
    generator: np.random.Generator,
    background: float | None = None,
    axis: int | None = None,
) -> Array:
    """Draw pictures to learn from, in units of the noise; 0 is background.

    Args:
        values: ``(*S)`` with noise that is as strong everywhere, see ``denoise.even_scale``.
        count: How many.
        generator: Draws the places.
        background: Value of a constant background, None where there is none.
        axis: Across which a volume is cut into slices.

    Returns:
        ``(count, 40, 40)`` float32, at least half of each not background where there are such
        places; none where the image has no noise.
    """
    noise = noise_std(values)
    if noise == 0:
        return np.zeros((0, SIZE, SIZE), np.float32)
    scaled = (np.asarray(values, np.float32) - np.float32(background or 0)) / np.float32(noise)
    stack = _slices(scaled, axis)
    grown = [(0, 0), *((0, max(0, SIZE - n)) for n in stack.shape[1:])]
    stack = np.pad(stack, grown, mode="symmetric")
    drawn = np.empty((count, SIZE, SIZE), np.float32)
    for place in range(count):
        for _ in range(20):
            at = generator.integers(len(stack))
            i, j = (generator.integers(n - SIZE + 1) for n in stack.shape[1:])
            drawn[place] = stack[at, i : i + SIZE, j : j + SIZE]
            if np.count_nonzero(drawn[place]) >= drawn[place].size / 2:
                break
    return drawn


def fit(pictures: Array, *, steps: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Learn the noise of some pictures.

    Args:
        pictures: ``(N, 40, 40)``, see ``pictures``.
        steps: Of Adam, on 8 pictures each; ten seconds or so on one core.
        seed: Of the first weights, the order and the added noise.

    Returns:
        Plain data for JSON: ``weights`` (float32, little-endian, base64), ``widths``, ``steps``,
        ``pictures``, and ``removed``: the share of the variance of noise in these pictures that
        the network tells, by its own measure (1 where the noise is weaker than it was taken for).

    Raises:
        InputError: No picture.
    """
    import torch
    import torch.nn.functional as F

    if not len(pictures):
        raise InputError(
            "expected images with noise for the autoencoder to learn from, got none",
            fix="choose another rule for denoise, or none",
            code="denoise-no-noise",
        )
    random = torch.Generator().manual_seed(seed)
    weights = []
    for i, (a, b) in enumerate(itertools.pairwise(WIDTHS)):
        strength = math.sqrt(2 / (9 * a)) * (0.1 if i == len(WIDTHS) - 2 else 1)
        weights += [torch.randn((b, a, 3, 3), generator=random) * strength, torch.zeros(b)]
    for weight in weights:
        weight.requires_grad_()
    adam = torch.optim.Adam(weights, lr=_RATE)
    rate = torch.optim.lr_scheduler.OneCycleLR(adam, _RATE, steps)
    known = torch.from_numpy(np.ascontiguousarray(pictures, np.float32))[:, None]
    last: deque[float] = deque(maxlen=200)
    for _ in range(steps):
        clean = known[torch.randint(len(known), (_BATCH,), generator=random)]
        inside = clean != 0
        added = torch.randn(clean.shape, generator=random) * inside
        target = F.pad((_ALPHA + 1 / _ALPHA) * added, [-_MARGIN] * 4)
        scored = F.pad(inside, [-_MARGIN] * 4)
        error = (_residual(clean + _ALPHA * added, weights) - target)[scored]
        loss = error.square().sum() / max(1, error.numel())
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        adam.step()
        rate.step()
        last.append(float(loss.detach()))
    loss_of_none, loss_of_all = (_ALPHA + 1 / _ALPHA) ** 2, 1 + 1 / _ALPHA**2
    removed = (loss_of_none - sum(last) / len(last)) / (loss_of_none - loss_of_all)
    flat = torch.cat([weight.detach().reshape(-1) for weight in weights]).numpy()
    return {
        "weights": base64.b64encode(flat.astype("<f4").tobytes()).decode("ascii"),
        "widths": list(WIDTHS),
        "steps": steps,
        "pictures": len(known),
        "removed": round(min(1.0, removed), 4),
    }


def clean(values: Array, learned: Mapping[str, Any], axis: int | None = None) -> Array:
    """Take the noise off ``(*S)`` float32; slices of a volume one by one.

    Args:
        values: With noise that is as strong everywhere.
        learned: From ``fit``.
        axis: Across which a volume is cut into slices.

    Raises:
        ConfigError: Weights that are no such network's.
    """
    import torch

    values = np.asarray(values, np.float32)
    noise = noise_std(values)
    if noise == 0:
        return values
    weights = [torch.from_numpy(w) for w in _unpack(learned)]
    stack = _slices(values, axis)
    grown = np.pad(stack, [(0, 0), *[(_MARGIN, _MARGIN)] * 2], mode="symmetric")
    residual = np.empty_like(stack)
    batch = max(1, _PIXELS // stack[0].size)
    with torch.inference_mode():
        for start in range(0, len(stack), batch):
            part = torch.from_numpy(grown[start : start + batch, None] / np.float32(noise))
            residual[start : start + batch] = _residual(part, weights)[:, 0].numpy()
    cleaned = stack - np.float32(noise) * residual
    return np.ascontiguousarray(
        cleaned[0] if values.ndim == 2 else np.moveaxis(cleaned, 0, axis or 0)
    )


def fingerprint(learned: Mapping[str, Any]) -> str:
    """Names the weights in the history of an image."""
    return hashlib.sha256(str(learned["weights"]).encode()).hexdigest()[:16]


def _residual(x: Any, weights: Sequence[Any]) -> Any:
    """The noise of ``(B, 1, H, W)``, without the margin."""
    import torch.nn.functional as F

    x = x * _SCALE
    last = len(weights) // 2 - 1
    for i, (weight, shift) in enumerate(zip(weights[::2], weights[1::2], strict=True)):
        if i == 0:
            weight = weight - weight.mean((2, 3), keepdim=True)
        x = F.conv2d(x, weight, shift)
        x = x if i == last else F.relu(x)
    return x


def _slices(values: Array, axis: int | None) -> Array:
    """``(n, H, W)`` of a picture or a volume."""
    return values[None] if values.ndim == 2 else np.moveaxis(values, axis or 0, 0)


def _unpack(learned: Mapping[str, Any]) -> list[NDArray[np.float32]]:
    try:
        widths = [int(n) for n in learned["widths"]]
        flat = np.frombuffer(base64.b64decode(learned["weights"], validate=True), "<f4")
        shapes = [shape for a, b in itertools.pairwise(widths) for shape in ((b, a, 3, 3), (b,))]
        ends = np.cumsum([math.prod(shape) for shape in shapes])
        valid = len(widths) == len(WIDTHS) and flat.size == ends[-1] and np.isfinite(flat).all()
    except (KeyError, TypeError, ValueError, IndexError):
        valid = False
    if not valid:
        raise ConfigError(
            "expected the weights of a denoising autoencoder, got something else",
            fix="take the model file anew: it is damaged",
            code="denoiser-damaged",
        )
    parts = np.split(flat.astype(np.float32), ends[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
