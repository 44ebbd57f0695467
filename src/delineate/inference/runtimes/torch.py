"""PyTorch: the network as it was trained, on the processor or on a graphics card."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from delineate.core import model_file
from delineate.core.errors import ModelFileError, ResourceError
from delineate.core.schema import Schema
from delineate.inference._loading import build, fill
from delineate.inference.runtimes import ATTENTION, LOGITS, PROBABILITIES, Infer, Runtime

#: From what the last layer gives to the map of that name.
_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    PROBABILITIES: lambda logits: torch.softmax(logits.float(), 1),
    LOGITS: lambda logits: logits.float(),
}


def load(path: str | os.PathLike[str], device: str = "auto") -> Runtime:
    """Read a model file and build its network.

    Args:
        path: A ``.safetensors`` file that Delineate wrote.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.

    Raises:
        ModelFileError: Foreign or damaged file, unknown network, weights that do not fit it.
        ResourceError: No such device.
    """
    where = choose_device(device)
    file = model_file.load(path)
    try:
        network = build(file.document)
        fill(network, file.tensors)
    except ModelFileError as error:
        error.where = os.fspath(path)
        raise
    return runtime(file.document, network.to(where), where)


def runtime(document: Mapping[str, Any], network: nn.Module, device: torch.device) -> Runtime:
    """A network that is built already, with the document that describes it."""
    if document.get("classes"):
        infer = classifier(network, device, attention=True)
        return Runtime(document, infer, {}, str(device), _peak(device))
    outputs = Schema.from_dict(document["schema"]).num_outputs
    infer = segmenter(network, device)
    return Runtime(document, infer, {PROBABILITIES: outputs}, str(device), _peak(device))


def segmenter(network: nn.Module, device: torch.device | str) -> Infer:
    """Maps of a network that gives logits ``(B, K, *patch)``: ``probabilities``."""

    def infer(windows: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        return {PROBABILITIES: _activated(PROBABILITIES, network(_tensor(windows, device)))}

    return _ready(network, infer)


def classifier(network: nn.Module, device: torch.device | str, *, attention: bool = False) -> Infer:
    """What a network says of pictures: ``logits``, and what slices count where it weighs them."""
    weigh = getattr(network, "slice_weights", None) if attention else None

    def infer(pictures: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        shown = _tensor(pictures, device)
        found = {LOGITS: _activated(LOGITS, network(shown))}
        weights = None if weigh is None else weigh(shown)
        return found if weights is None else {**found, ATTENTION: weights.float().cpu().numpy()}

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


def _activated(name: str, found: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = _ACTIVATIONS[name](found).cpu().numpy()
    return array


def _peak(device: torch.device) -> Callable[[], int]:
    if device.type != "cuda":
        return lambda: 0
    return lambda: int(torch.cuda.max_memory_allocated(device))
