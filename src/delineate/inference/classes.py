"""From a prepared image to the probability of every class: of each slice, and of the case."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from delineate.core.case import Prediction
from delineate.core.image import Grid, Image
from delineate.inference._facts import peak_memory, too_little_memory
from delineate.inference._requirements import memory_faults, require, require_fit
from delineate.inference.runtimes import ATTENTION, LOGITS, Infer
from delineate.inference.sliding_window import mirrorings
from delineate.preprocess import views

if TYPE_CHECKING:
    from delineate.inference.ensemble import AnySession

#: From probabilities ``(slices, classes)`` to those of the case, one a class.
Pool = Callable[[NDArray[np.float64]], list[float]]
#: Pictures a forward pass.
PICTURES = 16
#: A slice that reaches into another by less than this share of the thinner one only grazes it:
#: affines are as exact as the files that hold them.
_GRAZED = 0.01


def mean_of_slices(each: NDArray[np.float64]) -> list[float]:
    """A case is what its slices are on average."""
    return [float(value) for value in each.mean(axis=0)]


def any_slice(each: NDArray[np.float64]) -> list[float]:
    """What is looked for in each slice is in the case if it is in any of them."""
    present = float(each[:, 1].max())
    return [1 - present, present]


def predict_slices(
    infer: Infer,
    image: NDArray[Any],
    axis: int | None,
    places: Sequence[int | None],
    size: Sequence[int],
    flip: Sequence[int] = (),
    batch: int = PICTURES,
) -> dict[str, NDArray[np.float32]]:
    """What a network says of slices of a prepared image ``(C, *S)``: ``(len(places), K)`` by name.

    ``flip``: axes of a slice, or of the image where it is seen whole, along which it is mirrored.
    """
    flipped_axes = tuple(a + 2 for a in flip)
    outputs: dict[str, list[NDArray[np.float32]]] = {}
    for start in range(0, len(places), batch):
        pictures = [views.view(image, axis, k, size) for k in places[start : start + batch]]
        for name, values in infer(np.flip(np.stack(pictures), flipped_axes)).items():
            outputs.setdefault(name, []).append(values)
    return {name: np.concatenate(parts) for name, parts in outputs.items()}


def classify(
    session: AnySession,
    image: Image,
    pool: Pool,
    *,
    mirror: bool = False,
    memory_bytes: int = 8 << 30,
    force: bool = False,
) -> Prediction:
    """Name the class of one image.

    Args:
        session: Of a model that names classes, or of several, whose probabilities are averaged.
        image: ``(C, *S)`` as read from its files, channels in the model's order.
        pool: From the probabilities of slices to those of the case.
        mirror: Average over mirrored passes, along the axes that the model allows.
        memory_bytes: An image that needs more is refused.
        force: Take images of another modality, or in other units, than in training; a warning
            says so.

    Raises:
        ConfigError: An option that this model cannot follow.
        InputError: Wrong number of channels or dimensions, or another kind of image.
        ResourceError: Too little memory (said before the network runs), or it ran out.
    """
    require(session, mirror)
    warnings = require_fit(session, image, force)
    seconds: dict[str, float] = {}
    answers_of_members = []
    with memory_faults(memory_bytes):
        for member in session.members:
            prepared = member.prepare(image)
            started = time.perf_counter()
            answers_of_members.append(
                probabilities(
                    member.document, member.runtime.infer, prepared.image, image.grid, pool,
                    mirror=mirror, memory_bytes=memory_bytes,
                )
            )  # fmt: skip
            took = {**prepared.seconds, "network": time.perf_counter() - started}
            seconds = {step: seconds.get(step, 0.0) + t for step, t in took.items()}
    case, slice_facts = (
        answers_of_members[0] if len(answers_of_members) == 1 else _mean(answers_of_members)
    )
    facts = {
        "seconds": {phase: round(took, 3) for phase, took in seconds.items()},
        "confidence": max(case.values()),
        **slice_facts,
        **peak_memory(session.peak_bytes),
        "device": session.device,
        "mirrored": mirror,
        "warnings": warnings,
    }
    return Prediction(None, image.grid, None, case, facts)


def probabilities(
    document: Mapping[str, Any],
    infer: Infer,
    prepared: Image,
    original: Grid,
    pool: Pool,
    *,
    mirror: bool = False,
    memory_bytes: int = 8 << 30,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Calibrated probabilities of a case, and of each slice of its file that has content.

    A network that sees the volume whole answers for the case alone. Where the preparation changed
    the distance between slices, a slice of the file has the mean probability of the prepared slices
    that it shows, by how much of each it shows.

    Args:
        document: Of the model file.
        infer: Of its network.
        prepared: The image as the network's preparation leaves it.
        original: Its grid before that.
        pool: From the probabilities of slices to those of the case.
        mirror: Average over mirrored passes, along the axes that the model allows.
        memory_bytes: What may be used.

    Returns:
        Class name -> probability, and facts: ``slices``, ``{"slice", "probabilities"}`` a slice,
        its number counted along the original array's ``slice_axis`` (both None for an image seen
        whole). Where a network weighs slices also ``attention``, ``{"slice", "weight"}`` for the
        slices that the prepared volume shows; the weights sum to 1.

    Raises:
        ResourceError: The image needs more memory.
    """
    _fit(prepared, document["input"]["patch"], memory_bytes)
    classes, shape = document["classes"], document["input"]
    axis = shape["slice_axis"]
    if axis is not None and prepared.array.ndim == 3:  # one slice for a model of stacks
        axis = None
    places = views.places(prepared.array, axis)
    flips = mirrorings(shape.get("mirror_axes", []) if mirror else [])
    passes = [
        predict_slices(infer, prepared.array, axis, places, shape["patch"], flip) for flip in flips
    ]
    temperature = float(classes["temperature"])
    by_slice = np.mean([_softmax(outputs[LOGITS], temperature) for outputs in passes], axis=0)
    along: int | None = None
    numbers: list[int | None] = [None]
    if axis is not None:
        along, shares = shown_slices(prepared.grid, original, axis)
        shares = shares[:, [place for place in places if place is not None]]
        with_content = np.flatnonzero(shares.sum(axis=1))
        numbers = [int(k) for k in with_content]
        by_slice = (shares[with_content] @ by_slice) / shares[with_content].sum(
            axis=1, keepdims=True
        )
    case = pool(by_slice)
    names = classes["names"]
    slices = [
        {"slice": number, "probabilities": dict(zip(names, map(float, row), strict=True))}
        for number, row in zip(numbers, by_slice, strict=True)
    ]
    facts: dict[str, Any] = {"slices": slices, "slice_axis": along}
    if ATTENTION in passes[0]:
        attended_axis = int(document["network"]["config"]["axis"])
        weights = [
            outputs[ATTENTION][0][::-1] if attended_axis in flip else outputs[ATTENTION][0]
            for outputs, flip in zip(passes, flips, strict=True)
        ]
        mean = np.stack(weights).astype(np.float64).mean(axis=0)
        facts |= attention(mean, attended_axis, prepared, original)
    return dict(zip(names, case, strict=True)), facts


Answer = tuple[dict[str, float], dict[str, Any]]


def _mean(answers: Sequence[Answer]) -> Answer:
    """Of several models: their mean; of a slice, of those that show it, along one axis of the file.

    Where some take the file apart along other axes than the first, their slices are left out.
    """
    names = list(answers[0][0])
    case = {name: float(np.mean([answer[name] for answer, _ in answers])) for name in names}
    axis = next((f["slice_axis"] for _, f in answers if f["slice_axis"] is not None), None)
    same_axis = [facts for _, facts in answers if facts["slice_axis"] == axis]
    by_slice: dict[int | None, list[dict[str, float]]] = {}
    attention_of_slice: dict[int, float] = {}
    weighing = [facts["attention"] for facts in same_axis if "attention" in facts]
    for answer in (answer for facts in same_axis for answer in facts["slices"]):
        by_slice.setdefault(answer["slice"], []).append(answer["probabilities"])
    for answer in (answer for attention in weighing for answer in attention):
        attention_of_slice[answer["slice"]] = attention_of_slice.get(answer["slice"], 0.0) + answer[
            "weight"
        ] / len(weighing)
    facts: dict[str, Any] = {
        "slices": [
            {
                "slice": number,
                "probabilities": {
                    n: float(np.mean([p[n] for p in probabilities_of_slice])) for n in names
                },
            }
            for number, probabilities_of_slice in sorted(
                by_slice.items(), key=lambda item: item[0] or 0
            )
        ],
        "slice_axis": axis,
    }
    if attention_of_slice:
        facts["attention"] = [
            {"slice": k, "weight": w} for k, w in sorted(attention_of_slice.items())
        ]
    return case, facts


def _softmax(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    scaled = logits.astype(np.float64) / temperature
    scaled = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    normalised: NDArray[np.float64] = scaled / scaled.sum(axis=1, keepdims=True)
    return normalised


def _fit(prepared: Image, size: Sequence[int], memory_bytes: int) -> None:
    """Refuse an image that needs more memory than is allowed, the network's own left aside."""
    channels = prepared.array.shape[0]
    need = 4 * (3 * prepared.array.size + 3 * PICTURES * channels * math.prod(size))
    if need > memory_bytes:
        raise too_little_memory(need, memory_bytes)


def attention(
    weights: NDArray[np.float64], axis: int, prepared: Image, original: Grid
) -> dict[str, Any]:
    """What slices of the original counted, for a network that weighs slices.

    Listed are the slices that the prepared volume shows.
    The network sees fewer or more slices than there are. Each shares its weight among those that it
    shows, by how much of them it shows.

    Args:
        weights: ``(slices,)`` as the network sees them, summing to one.
        axis: Of the prepared volume, along which it does.
        prepared: The volume.
        original: Its grid before that.
    """
    count = prepared.array.shape[axis + 1]
    along, shares = shown_slices(prepared.grid, original, axis)
    total = shares @ (overlap(count, len(weights)) @ weights)
    return {
        "slice_axis": along,
        "attention": [
            {"slice": int(k), "weight": float(total[k])} for k in np.flatnonzero(shares.sum(axis=1))
        ],
    }


def overlap(count: int, windows_shown: int) -> NDArray[np.float64]:
    """Share ``(count, shown)`` of what is shown that falls to each slice; columns sum to 1."""
    slices, windows = (
        np.arange(count)[:, None],
        np.arange(windows_shown)[None] * count / windows_shown,
    )
    return _common(slices, 1, windows, count / windows_shown) * (windows_shown / count)


def shown_slices(prepared: Grid, original: Grid, axis: int) -> tuple[int, NDArray[np.float64]]:
    """How slices of a prepared volume lie among those of the file.

    Args:
        prepared: Grid after preparation: turned, cut and resampled along its axes, never oblique
            to ``original``.
        original: Grid of the file.
        axis: Of the prepared volume, along which its slices are counted.

    Returns:
        The axis of the original array, and the share ``(original slices, prepared slices)`` of
        each prepared slice's thickness that falls to each slice of the file.
    """
    home = np.linalg.inv(original.affine) @ prepared.affine
    along = int(np.argmax(np.abs(home[: original.ndim, axis])))
    thickness = abs(float(home[along, axis]))
    middle = np.array([*((n - 1) / 2 for n in prepared.shape), 1.0])
    middle[axis] = 0
    centres = float((home @ middle)[along]) + home[along, axis] * np.arange(prepared.shape[axis])
    slices = np.arange(original.shape[along])[:, None]
    common = _common(slices, 1, centres[None] - thickness / 2 + 0.5, thickness)
    common[common < _GRAZED * min(1, thickness)] = 0
    return along, common / thickness


def _common(
    first: NDArray[Any], length: float, second: NDArray[Any], width: float
) -> NDArray[np.float64]:
    """Length that intervals have in common, given by their beginnings and lengths."""
    end = np.minimum(first + length, second + width)
    length_in_common: NDArray[np.float64] = np.clip(end - np.maximum(first, second), 0, None)
    return length_in_common
