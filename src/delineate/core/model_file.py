"""A trained model is ONE ``.safetensors`` file: weights and one JSON document. No pickle.

The document lies in the header under the key ``delineate``::

    {"format": 2,
     "network": {"name": "unet", "config": {...}},     the predictor's
     "channels": ["flair", "t1c"],                 one name a channel of the network's input
     "schema": {...}, "preparation": {...},        as their ``to_dict`` give them
     "input": {"patch": [96, 96, 96],              any size that the network can take
               "slice_axis": null, "neighbours": 0,    0, 1 or 2: a flat network on volumes
               "mirror_axes": [0]},                    axes of the patch that may be mirrored
     "postprocess": {"keep_largest": ["tumour"], "least_volume": {"tumour": 120.0}},
     "config": {...}, "provenance": {...}, "card": {...},
     "parts": {"critic": {"network": {"name": "patch_critic", "config": {...}},
                          "channels": 7, "outputs": 1,     what the network is built for
                          "sees": {...}}},                 what its input is made of
     "sha256": {"tensors": "...", "document": "..."}}

Tensors are named by the part that they belong to: ``predictor.encoder.0.weight``,
``critic.layers.0.weight``. Format 1, which is still read, has the predictor alone and no prefix.

Both hashes are checked before a tensor is built, so damage and careless edits are found. They
are no signature: whoever can write the file can also recompute them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from delineate.core._model_document import AGAIN, FORMAT, PREDICTOR, check_document
from delineate.core.atomic import atomic_write_bytes
from delineate.core.errors import ModelFileError

KEY = "delineate"
#: A header above this is refused before it is read (the limit of the safetensors format).
MAX_HEADER_BYTES = 100_000_000

_OPTIONAL = ("postprocess", "config", "provenance", "card", "parts")
_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2",
    "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip
_NAMES = {np.dtype(code): name for name, code in _DTYPES.items()}


@dataclass(frozen=True)
class ModelFile:
    """The content of a model file.

    Args:
        document: The JSON document, as described at the top of this module.
        tensors: The predictor's weights by the name of the network's parameter or buffer.
        path: Where the file was read from.
        parts: Likewise of the parts beside the predictor, by their name.
    """

    document: dict[str, Any]
    tensors: dict[str, NDArray[Any]]
    path: Path
    parts: dict[str, dict[str, NDArray[Any]]] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """Names weights and document together; two files with one hash predict alike."""
        return str(self.document["sha256"]["document"])


def save(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Any],
    document: Mapping[str, Any],
    parts: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """Write a model file atomically.

    Args:
        path: Ends in ``.safetensors``.
        tensors: Of the predictor: name -> numpy array or torch tensor. bfloat16 is widened to
            float32.
        document: As described at the top of this module, without ``format`` and ``sha256``.
        parts: Likewise of every part that ``document["parts"]`` describes.

    Returns:
        The model's hash.

    Raises:
        ModelFileError: NaN or infinite weights, a wrong document, a type that cannot be stored,
            parts that are described but not given, or given but not described.
        OutputError: The file cannot be written.
    """
    if Path(path).suffix != ".safetensors":
        raise ModelFileError(
            "expected a name that ends in .safetensors", where=path, code="model-file-name"
        )
    arrays = {
        f"{part}.{name}": _array(name, tensor, path)
        for part, tensors_of_part in {PREDICTOR: tensors, **(parts or {})}.items()
        for name, tensor in tensors_of_part.items()
    }
    _check_finite(arrays, path)
    full = {**{key: {} for key in _OPTIONAL}, **document, "format": FORMAT}
    full["sha256"] = {"tensors": _tensor_hash({n: _record(a) for n, a in arrays.items()})}
    try:
        full = json.loads(_canonical(full))
    except (TypeError, ValueError) as error:
        raise ModelFileError(
            f"expected plain JSON data in the document, got: {error}",
            where=path,
            fix="give numbers, strings, lists and dictionaries, no NaN",
            code="model-file-document",
        ) from error
    check_document(full, Path(path))
    _by_part(arrays, full, Path(path))
    full["sha256"]["document"] = _document_hash(full)
    atomic_write_bytes(path, safetensors.numpy.save(arrays, metadata={KEY: _canonical(full)}))
    return str(full["sha256"]["document"])


def load(path: str | os.PathLike[str]) -> ModelFile:
    """Read and check a model file.

    Raises:
        ModelFileError: The file is missing, foreign, damaged, edited or of a newer format; the
            code says which.
    """
    path = Path(path)
    data = _read(path)
    header_size = _check_layout(data, path)
    header = json.loads(data[8 : 8 + header_size])
    document = document_of(header.get("__metadata__"), path)
    try:
        records = dict(safetensors.deserialize(data))  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise ModelFileError(
            f"expected a valid safetensors file, got: {error}",
            where=path,
            fix=AGAIN,
            code="model-file-invalid",
        ) from error
    if _tensor_hash(records) != document["sha256"].get("tensors"):
        raise _tampered("weights", path)
    arrays = {name: _build(name, record, path) for name, record in records.items()}
    _check_finite(arrays, path)
    parts = _by_part(arrays, document, path)
    return ModelFile(document, parts.pop(PREDICTOR), path, parts)


def _read(path: Path) -> bytes:
    """The whole file, once its first bytes look right."""
    if path.is_dir():
        raise ModelFileError(
            "expected a model file, got a folder",
            where=path,
            fix=f"give {path / 'model.safetensors'}",
            code="model-file-missing",
        )
    try:
        with path.open("rb") as file:
            start = file.read(9)
            _check_start(start, path)
            return start + file.read()
    except FileNotFoundError as error:
        raise ModelFileError(
            "expected a model file, got no such file",
            where=path,
            fix="check the path; `delineate train` writes RUN/model.safetensors",
            code="model-file-missing",
        ) from error
    except OSError as error:
        raise ModelFileError(
            f"expected a readable file, got: {error.strerror}",
            where=path,
            fix="check the permissions",
            code="model-file-unreadable",
        ) from error


def _check_start(start: bytes, path: Path) -> None:
    # A header of 896 bytes starts like a pickle; only "{" after its length tells them apart.
    code = start[:4] == b"PK\x03\x04" or (
        start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05"
    )
    if code and start[8:9] != b"{":
        raise ModelFileError(
            "expected a .safetensors file, got a zip or pickle, which can run code when loaded",
            where=path,
            fix="train with Delineate, or convert the weights where you trust them",
            code="model-file-pickle",
        )
    if len(start) < 9:
        raise ModelFileError(
            f"expected a model file, got one of {len(start)} bytes",
            where=path,
            fix="give the model.safetensors of a run; if this is one, " + AGAIN,
            code="model-file-truncated",
        )
    if int.from_bytes(start[:8], "little") > MAX_HEADER_BYTES or start[8:9] != b"{":
        raise ModelFileError(
            "not a model file: it does not begin as .safetensors files do",
            where=path,
            fix="give the model.safetensors of a run; if this is one, " + AGAIN,
            code="model-file-header",
        )


def _check_layout(data: bytes, path: Path) -> int:
    """Size of the header, once it parses and the file is as long as it says."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 + size:
        raise ModelFileError(
            f"expected a header of {size} bytes, got {len(data) - 8}",
            where=path,
            fix=AGAIN,
            code="model-file-truncated",
        )
    try:
        header = json.loads(data[8 : 8 + size])
        ends = [int(t["data_offsets"][1]) for name, t in header.items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise ModelFileError(
            "expected a safetensors header in JSON, got something else",
            where=path,
            fix="this is no model file of Delineate; " + AGAIN,
            code="model-file-header",
        ) from error
    expected = 8 + size + max(ends, default=0)
    if len(data) != expected:
        short = len(data) < expected
        raise ModelFileError(
            f"expected {expected} bytes, got {len(data)}",
            where=path,
            fix=AGAIN,
            code="model-file-truncated" if short else "model-file-trailing",
        )
    return size


def document_of(metadata: Any, path: Path) -> dict[str, Any]:
    """The document in the metadata of a file, checked.

    Raises:
        ModelFileError: There is none, or it was changed, is damaged or of a newer format.
    """
    text = metadata.get(KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise ModelFileError(
            f"expected a {KEY!r} document in the header, got none: weights of another program",
            where=path,
            fix="only models that Delineate trained can be used",
            code="model-file-foreign",
        )
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _tampered("document", path) from error
    version = document.get("format") if isinstance(document, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise ModelFileError(
            f"expected format {FORMAT} or older, got {version}",
            where=path,
            fix="install a newer Delineate",
            code="model-file-newer",
        )
    hashes = document.get("sha256") if isinstance(document, dict) else None
    try:
        sound = isinstance(hashes, dict) and hashes.get("document") == _document_hash(document)
    except (ValueError, RecursionError):  # NaN, which we never write
        sound = False
    if not sound:
        raise _tampered("document", path)
    check_document(document, path)
    return dict(document)


def _by_part(
    arrays: dict[str, NDArray[Any]], document: Mapping[str, Any], path: Path
) -> dict[str, dict[str, NDArray[Any]]]:
    """Weights of the predictor and of every part, without the prefixes that tell them apart."""
    if document["format"] == 1:
        return {PREDICTOR: arrays}
    parts: dict[str, dict[str, NDArray[Any]]] = {PREDICTOR: {}}
    parts |= {name: {} for name in document.get("parts", {})}
    for name, array in arrays.items():
        part, _, tensor_name = name.partition(".")
        if part not in parts:
            raise ModelFileError(
                f"expected weights of {', '.join(parts)}, got {name!r} beside them",
                where=path,
                fix=AGAIN,
                code="model-file-part",
            )
        parts[part][tensor_name] = array
    for part, own_arrays in parts.items():
        if not own_arrays and part != PREDICTOR:
            raise ModelFileError(
                f"expected weights of the part {part!r}, which the document describes, got none",
                where=path,
                fix=AGAIN,
                code="model-file-part",
            )
    return parts


def _tampered(part: str, path: Path) -> ModelFileError:
    return ModelFileError(
        f"expected the {part} to match their checksum, but they were changed or damaged",
        where=path,
        fix="do not use this file; " + AGAIN,
        code="model-file-tampered",
    )


def _array(name: str, tensor: Any, path: str | os.PathLike[str]) -> NDArray[Any]:
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu()
        tensor = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    array = np.array(tensor, order="C")
    if array.dtype.newbyteorder("<") not in _NAMES:
        raise ModelFileError(
            f"expected numbers in tensor {name!r}, got {array.dtype}",
            where=path,
            fix="store weights and buffers only",
            code="model-file-type",
        )
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _record(array: NDArray[Any]) -> dict[str, Any]:
    return {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data": array.tobytes()}


def _build(name: str, record: Mapping[str, Any], path: Path) -> NDArray[Any]:
    if record["dtype"] not in _DTYPES:
        raise ModelFileError(
            f"expected one of {', '.join(_DTYPES)} in tensor {name!r}, got {record['dtype']}",
            where=path,
            fix="this file was not written by Delineate",
            code="model-file-type",
        )
    return np.ndarray(record["shape"], _DTYPES[record["dtype"]], record["data"])


def _check_finite(arrays: Mapping[str, NDArray[Any]], path: str | os.PathLike[str]) -> None:
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ModelFileError(
                f"expected finite weights, got NaN or infinity in {name!r}",
                where=path,
                fix="the training diverged: use an earlier checkpoint, or train with a lower rate",
                code="model-file-not-finite",
            )


def _tensor_hash(records: Mapping[str, Mapping[str, Any]]) -> str:
    """SHA-256 of name, type, shape and bytes of every tensor, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(records):
        record = records[name]
        head = [name, record["dtype"], list(record["shape"]), len(record["data"])]
        digest.update(_canonical(head).encode())
        digest.update(record["data"])
    return digest.hexdigest()


def _document_hash(document: Mapping[str, Any]) -> str:
    """SHA-256 of the document without its own hash; the hash of the tensors is inside."""
    tensors = document["sha256"].get("tensors")
    bare = {**document, "sha256": {"tensors": tensors}}
    return hashlib.sha256(_canonical(bare).encode()).hexdigest()


def _canonical(data: Any) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
