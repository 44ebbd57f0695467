"""The run folder: everything a training run leaves behind, so that it can be judged and repeated.

RUN/asked.yaml         settings as they were asked for
    config.yaml        every setting of the run, nothing left open; another run can take it
    run.json           versions, machine, hashes, plan, times, state
    cohort.json        cases, subjects, schema
    split.json         which cases train, which are held out
    audit.json         findings before training
    cache/             prepared cases; may be deleted
    log.jsonl          one line a step
    checkpoints/       the last two
    tensorboard/       the same numbers for TensorBoard
    validation/        scores and pictures of the held-out cases
    model.safetensors  the model
    before-last-fit.safetensors    the one that the figures are of, where it went on learning
    last-fit/          its checkpoints and log from there
    report.html        all of it on one page
"""

from __future__ import annotations

import datetime
import hashlib
import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from delineate.core import threads
from delineate.core.atomic import atomic_write_text

#: Packages whose version can change a result.
_PACKAGES = (
    "delineate", "torch", "lightning-fabric", "numpy", "scipy", "scikit-image", "monai",
    "nibabel", "pydicom", "SimpleITK",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of Python and of every package that can change a result."""
    versions_by_package = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions_by_package[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions_by_package


def machine() -> dict[str, Any]:
    """Kind of machine; nothing that names a host or a user."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": threads.cores(),
    }


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def sha256(text: str) -> str:
    """Hash of a text, hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(path: Path, data: Any) -> None:
    """Write plain data, whole or not at all; escaped, since names of files need not be text."""
    atomic_write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """Read what ``write_json`` wrote; None where there is no such file or it is damaged."""
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None
