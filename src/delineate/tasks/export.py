"""The verb ``export``: a model for programs that have no PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from delineate.core.atomic import atomic_write_bytes
from delineate.core.errors import OutputError
from delineate.core.progress import QUIET, Progress


def export(
    model: Path,
    out: Path | None = None,
    *,
    to: Literal["onnx"] = "onnx",
    part: tuple[Path, ...] = (),
    overwrite: bool = False,
    progress: Progress = QUIET,
) -> dict[str, Any]:
    """Write a model as an ONNX file, which predicts without PyTorch.

    The file holds the network with its softmax, for windows of the model's patch, and the model's
    document, so that ``delineate predict FILE.onnx SCANS`` does what the model does. It is written
    only if its maps agree with PyTorch's. What else the model keeps (a critic) is not exported.

    Args:
        model: A model file (``.safetensors``).
        out: The file to write; by default the model's name with ``.onnx``, beside it.
        to: The format; ONNX is the only one.
        part: Python files of your own that the model is built from.
        overwrite: Replace a file that is there.
        progress: Shows that it is being done.

    Returns:
        ``file``, ``model`` (the hash), ``megabytes`` and ``difference``: the largest from PyTorch's
        maps, on three windows of noise.

    Raises:
        ModelFileError: A network that ONNX cannot express, or a file that is no model.
        OutputError: There is such a file already, or it cannot be written.
    """
    from delineate.inference.runtimes._onnx_export import exported
    from delineate.predicting import own_parts

    model = Path(model)
    file = model.with_suffix(".onnx") if out is None else Path(out)
    if file.suffix != ".onnx":
        raise OutputError("expected a name that ends in .onnx", where=file, code="export-name")
    if file.exists() and not overwrite:
        raise OutputError(
            "expected no such file, got one",
            where=file,
            fix="choose another name with --out, or replace it with --overwrite",
            code="output-exists",
        )
    own_parts.offer(part, [model])
    with progress.task(None, f"exporting to {to}"):
        made = exported(model)
    atomic_write_bytes(file, made.data)
    return {
        "file": str(file),
        "model": made.document["sha256"]["document"],
        "megabytes": len(made.data) / 1e6,
        "difference": made.difference,
    }
