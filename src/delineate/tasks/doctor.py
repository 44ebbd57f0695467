"""The verb ``doctor``: what this machine has."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shutil
import time
from pathlib import Path
from typing import Any

import delineate
from delineate.core import threads

GIB = 1024**3


def doctor() -> dict[str, Any]:
    """Show versions, devices, memory and optional packages of this machine.

    Nothing is sent or fetched.

    Returns:
        ``system``, ``devices`` (each with ``gigaflops`` of a float32 matrix product), ``packages``
        and ``optional`` (with the command that installs what is missing).
    """
    required, optional = _requirements()
    return {
        "system": _system(),
        "devices": _devices(),
        "packages": {name: _version(name) or "missing" for name in required},
        "optional": [
            {
                "package": name,
                "extra": extra,
                "version": _version(name),
                "to install": "" if _version(name) else f'pip install "delineate[{extra}]"',
            }
            for name, extra in optional.items()
        ],
    }


def _system() -> dict[str, Any]:
    import psutil

    memory = psutil.virtual_memory()
    disk = shutil.disk_usage(Path.cwd())
    return {
        "delineate": delineate.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": threads.cores(),
        "memory_GiB": memory.total / GIB,
        "memory_free_GiB": memory.available / GIB,
        "disk_free_GiB": disk.free / GIB,
    }


def _devices() -> list[dict[str, Any]]:
    import torch

    devices: list[tuple[str, str, float | None]] = [("cpu", platform.machine(), None)]
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        devices.append((f"cuda:{index}", facts.name, facts.total_memory / GIB))
    if torch.backends.mps.is_available():
        devices.append(("mps", "Apple GPU", None))
    return [
        {"device": device, "name": name, "memory_GiB": memory, "gigaflops": _gigaflops(device)}
        for device, name, memory in devices
    ]


def _gigaflops(device: str, size: int = 1024, seconds: float = 0.2) -> float:
    """Speed of float32 matrix products, 10⁹ floating-point operations a second."""
    import torch

    matrix = torch.ones((size, size), device=device) / size
    repeats = 0
    float((matrix @ matrix)[0, 0])  # the first product pays for what is set up only once
    start = time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        for _ in range(4):
            product = matrix @ matrix
        float(product[0, 0])  # waits for the device
        repeats += 4
    return 2 * size**3 * repeats / elapsed / 1e9


def _requirements() -> tuple[list[str], dict[str, str]]:
    """Packages that Delineate needs, and optional ones with their extra, as its metadata says."""
    try:
        lines = importlib.metadata.requires("delineate") or []
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        lines = []
    required, optional = [], {}
    for line in lines:
        name = re.split(r"[^\w.-]", line, maxsplit=1)[0]
        extra = re.search(r"extra\s*==\s*['\"](\w+)['\"]", line)
        if not extra:
            required.append(name)
        elif extra[1] != "dev":
            optional[name] = extra[1]
    return required, optional


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
