"""From a prepared image to the probability of every class: of each slice, and of the case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from delineate.core.image import Grid, Image
from delineate.preprocess import views


def logits(
    network: nn.Module,
    image: NDArray[Any],
    axis: int | None,
    places: Sequence[int | None],
    size: Sequence[int],
    device: torch.device | str,
    batch: int = 16,
) -> NDArray[np.float32]:
    """Logits ``(len(places), classes)`` of slices of a prepared image ``(C, *S)``."""
    found = []
    with torch.inference_mode():
        for start in range(0, len(places), batch):
            some = [views.view(image, axis, k, size) for k in places[start : start + batch]]
            found.append(network(torch.stack(some).to(device)).float().cpu().numpy())
    return np.concatenate(found)


def classify(
    document: Mapping[str, Any],
    network: nn.Module,
    device: torch.device,
    prepared: Image,
    original: Grid,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Calibrated probabilities of a case, and of each of its slices that has content.

    A case's class is the mean over its slices; what is looked for in each slice ("presence") is in
    the case if it is in any slice. A network that sees the volume whole answers for the case alone.

    Args:
        document: Of the model file.
        network: Built from it.
        device: Where it runs.
        prepared: The image as the network's preparation leaves it.
        original: Its grid before that.

    Returns:
        Class name -> probability, and facts: ``slices``, ``{"slice", "probabilities"}`` a slice,
        its number counted along the original array's ``slice_axis`` (both None for an image seen
        whole). Where a network weighs slices also ``attention``, ``{"slice", "weight"}`` for the
        slices that the prepared volume shows; the weights sum to 1.
    """
    classes, shape = document["classes"], document["input"]
    axis = shape["slice_axis"]
    if axis is not None and prepared.array.ndim == 3:  # one slice for a model of stacks
        axis = None
    places = views.places(prepared.array, axis)
    found = logits(network, prepared.array, axis, places, shape["patch"], device)
    scaled = found.astype(np.float64) / float(classes["temperature"])
    scaled = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    each = scaled / scaled.sum(axis=1, keepdims=True)
    if classes["target"] == "presence":
        present = float(each[:, 1].max())
        case = [1 - present, present]
    else:
        case = each.mean(axis=0).tolist()
    names = classes["names"]
    along, numbers = original_slices(prepared.grid, original, axis, places)
    slices = [
        {"slice": number, "probabilities": dict(zip(names, map(float, row), strict=True))}
        for number, row in zip(numbers, each, strict=True)
    ]
    facts: dict[str, Any] = {"slices": slices, "slice_axis": along}
    facts |= attention(network, prepared, original, shape["patch"], device)
    return dict(zip(names, case, strict=True)), facts


def attention(
    network: Any,
    prepared: Image,
    original: Grid,
    size: Sequence[int],
    device: torch.device,
) -> dict[str, Any]:
    """What slices of the original counted, for a network that weighs slices; else nothing.

    Listed are the slices that the prepared volume shows.
    The network sees fewer or more slices than there are. Each shares its weight among those that it
    shows, by how much of them it shows.
    """
    if not hasattr(network, "slice_weights"):
        return {}
    with torch.inference_mode():
        found = network.slice_weights(views.view(prepared.array, None, None, size)[None].to(device))
    if found is None:
        return {}
    axis = int(network.config.axis)
    count = prepared.array.shape[axis + 1]
    shares = overlap(count, found.shape[1]) @ found[0].cpu().double().numpy()
    along, numbers = original_slices(prepared.grid, original, axis, list(range(count)))
    total: dict[int | None, float] = {}
    for number, share in zip(numbers, shares.tolist(), strict=True):
        total[number] = total.get(number, 0.0) + share
    weights = [{"slice": number, "weight": share} for number, share in sorted(total.items())]
    return {"slice_axis": along, "attention": weights}


def overlap(count: int, shown: int) -> NDArray[np.float64]:
    """Share ``(count, shown)`` of what is shown that falls to each slice; columns sum to 1."""
    slices, windows = np.arange(count)[:, None], np.arange(shown)[None] * count / shown
    end = np.minimum(slices + 1, windows + count / shown)
    shares: NDArray[np.float64] = np.clip(end - np.maximum(slices, windows), 0, None)
    return shares * (shown / count)


def original_slices(
    prepared: Grid, original: Grid, axis: int | None, places: Sequence[int | None]
) -> tuple[int | None, list[int | None]]:
    """Axis of the original array, and which of its slices the slices of the prepared one show."""
    if axis is None:
        return None, [None] * len(places)
    nd = original.ndim
    home = np.linalg.inv(original.affine) @ prepared.affine
    first = np.array([*((n - 1) / 2 for n in prepared.shape), *[0.0] * (3 - nd), 1.0])
    along = int(np.argmax(np.abs(home[:nd, axis])))
    numbers: list[int | None] = []
    for place in places:
        first[axis] = place or 0
        number = round(float((home @ first)[along]))
        numbers.append(int(np.clip(number, 0, original.shape[along] - 1)))
    return along, numbers
