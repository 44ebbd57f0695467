"""Checkpoints: safetensors and JSON, no pickle; written atomically, the last two kept.

A checkpoint is one file with every tensor of the run's state, the rest of the state as JSON in its
header, and a sidecar with its sha256. Reading falls back to the newest one that is whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from delineate.core.atomic import atomic_write_bytes, atomic_write_text, remove_stale
from delineate.core.errors import CheckpointError

KEEP = 2


def write(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Save ``state`` as ``step-<step>.safetensors`` and drop all but the last two.

    Args:
        folder: Made if missing.
        step: Names the file.
        state: Nested dictionaries and lists of tensors, numbers, strings and None.

    Raises:
        OutputError: No space or no permission; older checkpoints stay as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    tree = _flatten(state, "", tensors)
    data = save(tensors, {"state": json.dumps(tree)})
    path = folder / f"step-{step:08d}.safetensors"
    path.with_suffix(".sha256").unlink(missing_ok=True)  # of an older file of this name
    atomic_write_bytes(path, data)
    atomic_write_text(path.with_suffix(".sha256"), hashlib.sha256(data).hexdigest())
    for old in sorted(folder.glob("step-*.safetensors"))[:-KEEP]:
        old.unlink()
        old.with_suffix(".sha256").unlink(missing_ok=True)
    return path


def read_newest(folder: Path, say: Callable[[str], None]) -> dict[str, Any] | None:
    """State of the newest whole checkpoint, None where none was finished.

    Args:
        folder: Where ``write`` wrote.
        say: Told of damaged files and of the fallback used.

    Raises:
        CheckpointError: There are checkpoints, but none is whole.
    """
    if not folder.is_dir():
        return None
    remove_stale(folder)
    # A process may be killed before the sidecar is there: such a file was not finished.
    files = sorted(folder.glob("step-*.safetensors"), reverse=True)
    paths = [path for path in files if path.with_suffix(".sha256").exists()]
    damaged = []
    for path in paths:
        try:
            state = _read(path)
        except CheckpointError as error:
            damaged.append(path.name)
            say(str(error))
            continue
        if damaged:
            say(f"{', '.join(damaged)} damaged: going on from {path.name}")
        return state
    if paths:
        raise CheckpointError(
            f"expected a whole checkpoint, got {len(paths)} damaged",
            where=folder,
            fix="start the run again in a new folder",
        )
    return None


def _read(path: Path) -> dict[str, Any]:
    """One checkpoint, verified against its sidecar."""
    sidecar = path.with_suffix(".sha256")
    try:
        expected = sidecar.read_text().strip()
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise CheckpointError("the bytes are not those that were written", where=path)
        with safe_open(path, framework="pt") as file:
            tree = json.loads(file.metadata()["state"])
            state: dict[str, Any] = _rebuild(tree, file.get_tensor)
            return state
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"cannot be read: {error}", where=path) from error


def _flatten(node: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Move tensors out of a tree; what is left can be JSON."""
    if isinstance(node, Tensor):
        tensors[name] = node.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(node, dict):
        pairs = [[k, _flatten(v, f"{name}/{k}", tensors)] for k, v in node.items()]
        return {"dict": pairs}
    if isinstance(node, list | tuple):
        return {"list": [_flatten(v, f"{name}/{i}", tensors) for i, v in enumerate(node)]}
    return {"value": node}


def _rebuild(tree: Any, tensor: Callable[[str], Tensor]) -> Any:
    """The inverse of ``_flatten``; tuples come back as lists."""
    if "tensor" in tree:
        return tensor(tree["tensor"])
    if "dict" in tree:
        return {key: _rebuild(value, tensor) for key, value in tree["dict"]}
    if "list" in tree:
        return [_rebuild(value, tensor) for value in tree["list"]]
    return tree["value"]


def all_finite(state: Any) -> bool:
    """True if no floating tensor of a state holds NaN or infinity."""
    if isinstance(state, Tensor):
        return not state.is_floating_point() or bool(torch.isfinite(state).all())
    if isinstance(state, dict):
        return all(all_finite(value) for value in state.values())
    if isinstance(state, list | tuple):
        return all(all_finite(value) for value in state)
    return True
