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
        difference: Largest difference of its maps from PyTorch's on two random windows.
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
    size = (2, input_channels(file.document), *file.document["input"]["patch"])
    noise = np.random.default_rng(0).normal(size=size)
    windows = torch.from_numpy(noise.astype(np.float32))
    maps = _Maps(network.eval(), output(file.document).map, windows)
    name = file.document["network"]["name"]
    try:
        with _quiet():
            graph = _graph(maps, windows)
    except Exception as error:  # the exporter has many kinds, and no base of its own
        raise _inexpressible(name, _reason(error), file.path) from error
    facts = {"bytes": len(graph), "sha256": hashlib.sha256(graph).hexdigest()}
    tail = onnx.ModelProto()
    for key, value in ((model_file.KEY, file.document), (GRAPH, facts)):
        entry = tail.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value)
    data = graph + tail.SerializeToString()  # one message after another is both together
    found = runtime(onnxruntime, data, file.path).infer(windows.numpy())
    with torch.inference_mode():
        expected = dict(zip(maps.names, maps(windows), strict=True))
    difference = max(float(np.abs(found[n] - expected[n].numpy()).max()) for n in maps.names)
    if not difference <= _LIMIT:
        raise _inexpressible(name, f"its maps would differ by {difference:.2g}", file.path)
    return Exported(data, file.document, difference)


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


def _graph(maps: _Maps, windows: Tensor) -> bytes:
    """Of any number of windows, or of one where the network is traced for a fixed number alone."""
    for some, dynamic in ((windows, {0: torch.export.Dim.AUTO}), (windows[:1], None)):
        program = torch.export.export(maps, (some,), dynamic_shapes=(dynamic,))
        # What is made of simpler operations is taken apart: ONNX knows these.
        program = program.run_decompositions({})
        if dynamic and isinstance(_batch(program), int):
            continue
        made = torch.onnx.export(
            program, input_names=["windows"], output_names=list(maps.names), dynamo=True,
            verbose=False,
        )  # fmt: skip
        if made is not None:
            data: bytes = made.model_proto.SerializeToString()
            return data
    raise ValueError("no graph came out")


def _batch(program: torch.export.ExportedProgram) -> Any:
    """Windows that an exported program takes: a number, or a symbol for any."""
    name = program.graph_signature.user_inputs[0]
    (node,) = (node for node in program.graph.nodes if node.name == name)
    return node.meta["val"].shape[0]


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
