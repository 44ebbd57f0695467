"""From a model file to an ONNX graph that carries the model's document, tried against PyTorch."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from delineate.core import model_file
from delineate.core.errors import ConfigError, ModelFileError
from delineate.core.model_output import output
from delineate.inference._loading import build, fill, input_channels
from delineate.inference.runtimes import ATTENTION, LOGITS
from delineate.inference.runtimes.onnx import EXTRA, GRAPH, runtime
from delineate.inference.runtimes.torch import ACTIVATIONS

#: A graph whose maps differ by more from PyTorch's computes something else.
_LIMIT = 1e-3


@dataclass(frozen=True)
class Exported:
    """A graph with its document.

    Args:
        data: The content of an ``.onnx`` file.
        document: Of the model file.
        difference: Largest difference of its maps from PyTorch's on three windows of noise.
    """

    data: bytes
    document: Mapping[str, Any]
    difference: float


def exported(path: str | os.PathLike[str]) -> Exported:
    """Export the predictor of a model file.

    Args:
        path: A ``.safetensors`` file that Delineate wrote.

    Raises:
        ConfigError: What exporting needs is not installed.
        ModelFileError: No such file, a network that ONNX cannot express, or one that computes
            something else once it is exported (code ``export``).
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  torch exports with it
    except ImportError as error:
        raise ConfigError(
            f"expected {error.name}, which is not installed", fix=EXTRA, code="extra-missing"
        ) from error
    file = model_file.load(path)
    network = build(file.document)
    fill(network, file.tensors)
    size = (3, input_channels(file.document), *file.document["input"]["patch"])
    windows = np.random.default_rng(0).normal(size=size).astype(np.float32)
    maps = _Maps(network.eval(), output(file.document).map, torch.from_numpy(windows[:1]))
    with torch.inference_mode():
        expected = dict(zip(maps.names, maps(torch.from_numpy(windows)), strict=True))

    def tried(any_number: bool) -> Exported:
        graph = _graph(maps, torch.from_numpy(windows[: 2 if any_number else 1]), any_number)
        facts = {"bytes": len(graph), "sha256": hashlib.sha256(graph).hexdigest()}
        tail = onnx.ModelProto()
        for key, value in ((model_file.KEY, file.document), (GRAPH, facts)):
            entry = tail.metadata_props.add()
            entry.key, entry.value = key, json.dumps(value)
        data = graph + tail.SerializeToString()  # one message after another is both together
        outputs = runtime(onnxruntime, data, file.path).infer(windows)
        difference = max(float(np.abs(outputs[n] - expected[n].numpy()).max()) for n in maps.names)
        if not difference <= _LIMIT:
            raise ValueError(f"its maps would differ by {difference:.2g}")
        return Exported(data, file.document, difference)

    with _quiet():
        try:
            return tried(any_number=True)
        except Exception:  # some networks are traced for a fixed number of windows alone
            try:
                return tried(any_number=False)
            except Exception as error:  # the exporter has many kinds, and no base of its own
                name = file.document["network"]["name"]
                raise _inexpressible(name, _reason(error), file.path) from error


class _Maps(nn.Module):
    """A network with its activation: ``(B, C, *patch)`` -> its maps, in the order of ``names``."""

    def __init__(self, network: nn.Module, name: str, windows: Tensor) -> None:
        super().__init__()
        self.network, self.weigh = network, getattr(network, "slice_weights", None)
        with torch.inference_mode():
            weighs = name == LOGITS and self.weigh is not None and self.weigh(windows) is not None
        self.names = (name, ATTENTION) if weighs else (name,)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        own = ACTIVATIONS[self.names[0]](self.network(x))
        return (own,) if self.weigh is None or len(self.names) == 1 else (own, self.weigh(x))


def _graph(maps: _Maps, windows: Tensor, any_number: bool) -> bytes:
    """The ONNX graph for any number of windows, or for as many as are given."""
    dynamic = ({0: torch.export.Dim.AUTO},) if any_number else None
    with sdpa_kernel(SDPBackend.MATH):  # attention in steps that ONNX has
        program = torch.export.export(maps, (windows,), dynamic_shapes=dynamic)
        # What is made of simpler operations is taken apart: ONNX knows these.
        program = program.run_decompositions({})
    made = torch.onnx.export(
        program, input_names=["windows"], output_names=list(maps.names), dynamo=True, verbose=False
    )
    if made is None:
        raise ValueError("no graph came out")
    data: bytes = made.model_proto.SerializeToString()
    return data


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of operations that no network here has."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _reason(error: Exception) -> str:
    """The innermost cause, in one line."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


def _inexpressible(name: str, why: str, path: Path) -> ModelFileError:
    return ModelFileError(
        f"expected a network that ONNX can express, got {name!r}: {why}",
        where=path,
        fix="predict with the model file itself and --runtime torch",
        code="export",
    )
