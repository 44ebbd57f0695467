"""PyTorch: the network as it was trained, on the processor or on a graphics card."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from delineate.core import model_file
from delineate.core.errors import ConfigError, ModelFileError, ResourceError
from delineate.core.model_file import ModelFile
from delineate.core.model_output import IMAGE, output
from delineate.inference._loading import Critic, build, critic, fill
from delineate.inference.runtimes import ATTENTION, LOGITS, PROBABILITIES, Infer, Runtime
from delineate.networks._critics import score_map
from delineate.networks._precision import half_is_faster, put_channels_last

#: From what the last layer gives to the map of that name.
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    PROBABILITIES: lambda logits: torch.softmax(logits.float(), 1),
    IMAGE: lambda image: image.float(),
    LOGITS: lambda logits: logits.float(),
}
_NONE: Mapping[str, Critic] = {}


def load(path: str | os.PathLike[str], device: str = "auto", parts: Sequence[str] = ()) -> Runtime:
    """Read a model file and build its network.

    Args:
        path: A ``.safetensors`` file that Delineate wrote.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        parts: Beside the predictor, whose maps are wanted too.

    Raises:
        ConfigError: The model does not have such a part.
        ModelFileError: Foreign or damaged file, unknown network, weights that do not fit it.
        ResourceError: No such device.
    """
    where = choose_device(device)
    file = model_file.load(path)
    try:
        _require_parts(file, parts)
        network = build(file.document)
        fill(network, file.tensors)
        critics = {name: critic(file, name) for name in parts}
    except ModelFileError as error:
        error.where = os.fspath(path)
        raise
    for part in critics.values():
        part.network.to(where).eval()
    if half_is_faster(where):
        put_channels_last(network)
    return runtime(file.document, network.to(where), where, critics)


def _require_parts(file: ModelFile, parts: Sequence[str]) -> None:
    if missing := [name for name in parts if name not in file.parts]:
        own = output(file.document).map
        have = [*([own] if own == PROBABILITIES else []), *file.parts]
        raise ConfigError(
            f"expected maps that the model has ({', '.join(have) or 'none'}), "
            f"got {', '.join(missing)}",
            where=file.path,
            fix="choose among these, or leave maps out; a model has a critic where its method "
            "trained and kept one, as adversarial does",
            code="map-unknown",
        )


def runtime(
    document: Mapping[str, Any],
    network: nn.Module,
    device: torch.device,
    critics: Mapping[str, Critic] = _NONE,
) -> Runtime:
    """A network that is built already, with the document that describes it."""
    own = output(document)
    if own.map == LOGITS:
        infer = classifier(network, device, attention=True)
        return Runtime(document, infer, {}, str(device), _peak(device))
    infer = segmenter(network, device, critics, own.map)
    maps = {own.map: len(own.names), **{name: part.outputs for name, part in critics.items()}}
    return Runtime(document, infer, maps, str(device), _peak(device))


def segmenter(
    network: nn.Module,
    device: torch.device | str,
    critics: Mapping[str, Critic] = _NONE,
    own: str = PROBABILITIES,
) -> Infer:
    """Maps of a network that gives ``(B, K, *patch)``: its own, and scores of it.

    Args:
        network: In ``eval`` from the first call on.
        device: Where it is.
        critics: By the name of their map; on the same device, in ``eval``.
        own: Name of the network's own map, which has its activation.
    """

    def infer(windows: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        inputs = _tensor(windows, device)
        with fastest_precision(device):
            logits = network(inputs)
        outputs = {own: _activated(own, logits)}
        for name, part in critics.items():
            scores = score_map(part.network, part.sees, inputs, logits.float())
            outputs[name] = scores.cpu().numpy()
        return outputs

    return _ready(network, infer)


def classifier(network: nn.Module, device: torch.device | str, *, attention: bool = False) -> Infer:
    """What a network says of pictures: ``logits``, and what slices count where it weighs them."""
    weigh = getattr(network, "slice_weights", None) if attention else None

    def infer(pictures: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        inputs = _tensor(pictures, device)
        with fastest_precision(device):
            logits = network(inputs)
        weights = None if weigh is None else weigh(inputs)
        outputs = {LOGITS: _activated(LOGITS, logits)}
        return outputs if weights is None else {**outputs, ATTENTION: weights.float().cpu().numpy()}

    return _ready(network, infer)


def choose_device(name: str = "auto") -> torch.device:
    """The device meant by ``name``; ``auto`` takes CUDA, then Apple's GPU, then the CPU.

    Raises:
        ResourceError: There is no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ResourceError(
            f"expected a device that is here, got {name!r}: {str(error).splitlines()[0]}",
            fix="use --device auto or cpu",
            code="device",
        ) from error
    return device


def fastest_precision(device: torch.device | str) -> torch.autocast:
    """Convolutions with 16 bits where a processor is measured to be clearly faster with them."""
    half = half_is_faster(torch.device(device))
    return torch.autocast("cpu", torch.bfloat16, enabled=half)


def _ready(network: nn.Module, infer: Infer) -> Infer:
    """In ``eval``, without gradients, and with memory faults that are called so."""

    @torch.inference_mode()
    def guarded(windows: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        network.eval()
        try:
            return infer(windows)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
                raise MemoryError(str(error)) from error
            raise

    return guarded


def _tensor(array: NDArray[np.float32], device: torch.device | str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def _activated(name: str, logits: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = ACTIVATIONS[name](logits).cpu().numpy()
    return array


def _peak(device: torch.device) -> Callable[[], int]:
    if device.type != "cuda":
        return lambda: 0
    return lambda: int(torch.cuda.max_memory_allocated(device))
