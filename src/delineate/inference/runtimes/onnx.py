"""ONNX Runtime: a model exported to ``.onnx``, without PyTorch.

``delineate export`` writes such files: the graph, and behind it the document of the model file it
was made from, so that one file is all that predicting needs. A model file itself is exported when
it is opened, for which PyTorch is needed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core import model_file
from delineate.core.errors import ConfigError, ModelFileError, ResourceError
from delineate.core.model_output import output
from delineate.inference.runtimes import LOGITS, Runtime

#: Key of the metadata under which stands what is known of the graph.
GRAPH = f"{model_file.KEY}.graph"
SUFFIX = ".onnx"
EXTRA = 'pip install "delineate[onnx]"'


def load(path: str | os.PathLike[str], device: str = "auto", parts: Sequence[str] = ()) -> Runtime:
    """Open an exported model, or export a model file in memory.

    Args:
        path: An ``.onnx`` file that Delineate wrote, or a ``.safetensors`` file.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        parts: Of the model beside its predictor; they are not exported.

    Raises:
        ConfigError: Parts are asked for, or ONNX Runtime is not installed.
        ModelFileError: Foreign, damaged or changed file, or a network that ONNX cannot express.
        ResourceError: No such device.
    """
    if parts:
        raise ConfigError(
            f"expected no maps of parts, got {', '.join(parts)}: only the predictor is exported",
            fix="leave --maps out, or predict with --runtime torch",
            code="map-unknown",
        )
    engine = _onnxruntime()
    path = Path(path)
    if path.suffix == SUFFIX:
        data = _read(path)
    else:
        from delineate.inference.runtimes._onnx_export import exported

        data = exported(path).data
    return runtime(engine, data, path, device)


def runtime(engine: Any, data: bytes, path: Path, device: str = "cpu") -> Runtime:
    """A graph with its document, made ready.

    Args:
        engine: The module ``onnxruntime``.
        data: As ``exported`` gives it.
        path: For errors.
        device: See ``load``.

    Raises:
        ModelFileError: No graph that ONNX Runtime takes, or one that Delineate did not export.
        ResourceError: The device is not here.
    """
    provider, where = _provider(engine, device)
    options = engine.SessionOptions()
    options.log_severity_level = 3
    try:
        session = engine.InferenceSession(data, options, providers=[provider])
        metadata = dict(session.get_modelmeta().custom_metadata_map)
    except Exception as error:  # onnxruntime has a dozen kinds, and no base of its own
        raise ModelFileError(
            f"expected an ONNX file, got: {str(error).splitlines()[0][:200]}",
            where=path,
            fix="export the model again with `delineate export`",
            code="model-file-invalid",
        ) from error
    document = model_file.document_of(metadata, path)
    _require_sound(metadata, data, path)
    (declared_input,) = session.get_inputs()
    names = [declared_output.name for declared_output in session.get_outputs()]
    #: Some networks cannot be exported for any number of windows, but for one.
    at_once = declared_input.shape[0] if isinstance(declared_input.shape[0], int) else None

    def infer(windows: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        step = at_once or len(windows)
        batches = [windows[start : start + step] for start in range(0, len(windows), step)]
        outputs = [
            session.run(names, {declared_input.name: np.ascontiguousarray(batch)})
            for batch in batches
        ]
        return dict(zip(names, map(np.concatenate, zip(*outputs, strict=True)), strict=True))

    own = output(document)
    maps = {} if own.map == LOGITS else {own.map: len(own.names)}
    return Runtime(document, infer, maps, where)


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            "expected ONNX Runtime, which is not installed", fix=EXTRA, code="extra-missing"
        ) from error
    return onnxruntime


def _provider(engine: Any, device: str) -> tuple[Any, str]:
    """What ONNX Runtime calls a device, and what we do.

    Raises:
        ResourceError: There is no such device here.
    """
    cuda = "CUDAExecutionProvider" in engine.get_available_providers()
    if device == "auto":
        device = "cuda" if cuda else "cpu"
    kind, _, number = device.partition(":")
    if kind == "cpu" and not number:
        return "CPUExecutionProvider", "cpu"
    if kind == "cuda" and cuda and (number or "0").isdigit():
        return ("CUDAExecutionProvider", {"device_id": int(number or 0)}), device
    raise ResourceError(
        f"expected a device that ONNX Runtime has here (cpu{', cuda' * cuda}), got {device!r}",
        fix="use --device auto or cpu, or --runtime torch",
        code="device",
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelFileError(
            f"expected a readable file, got: {error.strerror}",
            where=path,
            fix="check the path; `delineate export` writes such files",
            code="model-file-missing",
        ) from error


def _require_sound(metadata: Mapping[str, str], data: bytes, path: Path) -> None:
    """Refuse a graph that is not the one that was written.

    Raises:
        ModelFileError: It is not.
    """
    try:
        graph = json.loads(metadata[GRAPH])
        sound = hashlib.sha256(data[: graph["bytes"]]).hexdigest() == graph["sha256"]
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise ModelFileError(
            "expected the graph to match its checksum, but it was changed or damaged",
            where=path,
            fix="do not use this file; export the model again with `delineate export`",
            code="model-file-tampered",
        )
