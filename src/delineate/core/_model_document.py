"""What the document of a model file must hold, see ``model_file``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from delineate.core.errors import ModelFileError
from delineate.core.model_output import IMAGE, LOGITS, PROBABILITIES

FORMAT = 2
#: The part that every model file has: the network that predicts.
PREDICTOR = "predictor"
#: What predictions call things of their own; a part of such a name would be taken for them.
_RESERVED = (PREDICTOR, PROBABILITIES, IMAGE, LOGITS, "attention", "labels")
AGAIN = "copy the file again from where it was trained, or train anew"

_REQUIRED: dict[str, type] = {
    "network": dict,
    "channels": list,
    "schema": dict,
    "preparation": dict,
    "input": dict,
}


def check_document(document: Mapping[str, Any], path: Path) -> None:
    """Refuse a document that a reader could stumble over.

    Raises:
        ModelFileError: With what is wrong (code ``model-file-document``).
    """
    if not _whole([document.get("format")], 1, FORMAT + 1):
        raise _wrong(f"'format' as a number from 1 to {FORMAT}", document.get("format"), path)
    for key, kind in _REQUIRED.items():
        if not isinstance(document.get(key), kind):
            raise _wrong(f"{key!r} as a {kind.__name__}", document.get(key), path)
    _check_network(document["network"], path)
    _check_output(document, path)
    parts = document.get("parts", {})
    if not isinstance(parts, dict):
        raise _wrong("parts by name", parts, path)
    for name, part in parts.items():
        _check_part(name, part, path)
    shape = document["input"]
    patch = shape.get("patch")
    if not isinstance(patch, list) or len(patch) not in (2, 3) or not _whole(patch, 1):
        raise _wrong("input.patch as 2 or 3 positive integers", patch, path)
    if not document["channels"] or not all(isinstance(c, str) for c in document["channels"]):
        raise _wrong("channels as a list of names", document["channels"], path)
    mirror = shape.get("mirror_axes", [])
    if not isinstance(mirror, list) or not _whole(mirror, 0, len(patch)):
        raise _wrong(f"input.mirror_axes as axes below {len(patch)}", mirror, path)
    neighbours, axis = shape.get("neighbours", 0), shape.get("slice_axis")
    if not _whole([neighbours], 0) or not (axis is None or _whole([axis], 0, 3)):
        raise _wrong("input.neighbours >= 0 and input.slice_axis of 0..2 or null", shape, path)


def _check_network(network: Any, path: Path) -> None:
    kinds = {"name": str, "config": dict}
    if not isinstance(network, dict) or not all(
        isinstance(network.get(key), kind) for key, kind in kinds.items()
    ):
        raise _wrong("network as {name, config}", network, path)


def _check_output(document: Mapping[str, Any], path: Path) -> None:
    """Output and target, which older files do not have."""
    output, target = document.get("output"), document.get("target")
    names = output.get("names") if isinstance(output, dict) else None
    if output is not None and not (
        isinstance(output, dict)
        and isinstance(output.get("map"), str)
        and isinstance(names, list)
        and names
        and all(isinstance(name, str) for name in names)
    ):
        raise _wrong("output as {map, names}", output, path)
    if target is not None and not (
        isinstance(target, dict)
        and isinstance(target.get("name"), str)
        and isinstance(target.get("config"), dict)
    ):
        raise _wrong("target as {name, config}", target, path)


def _check_part(name: str, part: Any, path: Path) -> None:
    if not name.isidentifier() or name in _RESERVED:
        reserved = ", ".join(_RESERVED)
        raise _wrong(f"a part's name of letters, digits and _, and none of {reserved}", name, path)
    if not isinstance(part, dict) or not isinstance(part.get("sees"), dict):
        raise _wrong("a part as {network, channels, outputs, sees}", part, path)
    _check_network(part.get("network"), path)
    if not _whole([part.get("channels"), part.get("outputs")], 1):
        raise _wrong("channels and outputs of a part as positive integers", part, path)


def _whole(values: list[Any], low: int, high: int = 1 << 31) -> bool:
    return all(type(v) is int and low <= v < high for v in values)


def _wrong(expected: str, got: Any, path: Path) -> ModelFileError:
    return ModelFileError(
        f"expected {expected} in the document, got {str(got)[:80]}",
        where=path,
        fix=AGAIN,
        code="model-file-document",
    )
