"""What can be trained, what it is called after, and what it costs on a machine."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import nn

from delineate.core import catalog
from delineate.core.config import nearest, to_dict
from delineate.core.errors import ConfigError, DelineateError
from delineate.core.progress import QUIET, Progress
from delineate.networks import _cost
from delineate.networks._blocks import per_axis

#: What a forward pass is counted and timed on, by dimensions: channels and size of one image.
PATCHES = {2: (3, (128, 128)), 3: (1, (64, 64, 64))}
#: Outputs: background and one structure.
_OUTPUTS = 2
#: Passes timed after one that warms up; fewer where one takes longer than this.
_TIMED, _LONG_SECONDS = 3, 2.0


def table(
    name: str | None,
    dimensions: int | None,
    kind: str | None,
    device: torch.device | None,
    progress: Progress = QUIET,
) -> dict[str, Any]:
    """Parameters and cost of networks; see ``delineate networks``.

    Args:
        name: One network alone, with all its settings.
        dimensions: Those for 2 or 3 dimensions alone.
        kind: Those of a kind alone.
        device: Where a forward pass is timed; None: not timed.
        progress: Shows how far it is.

    Raises:
        ConfigError: No such network or kind.
    """
    content: dict[str, Any] = {"device": str(device)} if device else {}
    name = None if name is None else catalog.named(name)
    if name is not None:
        content |= _about(catalog.load("networks", name))
    modules = {n: _loaded(n) for n in ([name] if name else catalog.members("networks"))}
    modules = _of_kind(modules, kind)
    jobs = [(n, m, nd) for n, m in modules.items() for nd in _dimensions(m, dimensions)]
    content["networks"] = [
        _row(n, module, nd, device) for n, module, nd in progress.track(jobs, "networks", len(jobs))
    ]
    if name is not None:
        content["settings"] = _settings(catalog.load("networks", name))
    if notes := catalog.shadowed("networks"):
        content["notes"] = notes
    return content


def _loaded(name: str) -> ModuleType | Exception:
    """The network's file; what it raised if it cannot be imported."""
    try:
        return catalog.load("networks", name)
    except Exception as error:  # one broken file does not hide the others
        return error


def _of_kind(
    modules: dict[str, ModuleType | Exception], kind: str | None
) -> dict[str, ModuleType | Exception]:
    kinds = {m.KIND for m in modules.values() if isinstance(m, ModuleType)}
    if kind is None:
        return modules
    if kind not in kinds:
        raise ConfigError(
            f"expected a kind of network, got {kind!r}",
            where="--kind",
            fix=nearest(kind, sorted(kinds)),
            code="unknown-kind",
        )
    return {n: m for n, m in modules.items() if isinstance(m, ModuleType) and kind == m.KIND}


def _dimensions(module: ModuleType | Exception, dimensions: int | None) -> list[int]:
    """Numbers of dimensions that a network is for; all where that cannot be known."""
    candidates = [dimensions] if dimensions else list(PATCHES)
    return (
        candidates
        if isinstance(module, Exception)
        else [n for n in candidates if catalog.supports_ndim(module, n)]
    )


def _about(module: ModuleType) -> dict[str, Any]:
    return {
        "name": module.__name__.rpartition(".")[2],
        "what": (module.__doc__ or "").split("\n")[0],
        "paper": module.PAPER,
    }


def _settings(module: ModuleType) -> list[dict[str, Any]]:
    defaults = to_dict(module.Config())
    return [
        {"setting": f.name, "default": defaults[f.name], "meaning": f.metadata.get("help", "")}
        for f in dataclasses.fields(module.Config)
    ]


def _row(
    name: str, module: ModuleType | Exception, ndim: int, device: torch.device | None
) -> dict[str, Any]:
    """One line of the list."""
    row: dict[str, Any] = {"name": catalog.title(name), "kind": None, "dimensions": ndim}
    row |= {"parameters": None, "gmac": None} | ({"ms": None} if device else {})
    try:
        if isinstance(module, Exception):
            raise module
        row["kind"] = module.KIND
        config = module.Config(ndim=ndim)
        channels, size = PATCHES[ndim]
        steps = per_axis(ndim, module.divisor(config))
        size_used = tuple(-(-n // step) * step for n, step in zip(size, steps, strict=True))
        outputs = 1 if module.KIND == "critic" else _OUTPUTS
        row |= _measure(
            lambda: module.build(config, channels, outputs), channels, size_used, device
        )
        if size_used != size:
            row["patch"] = "x".join(map(str, (channels, *size_used)))
        row["paper"] = module.PAPER
    except Exception as error:  # one that cannot be used does not hide the others
        words = error.message if isinstance(error, DelineateError) else repr(error)
        row["problem"] = words.splitlines()[0][:120]
    return row


def _measure(
    build: Callable[[], nn.Module], channels: int, size: Sequence[int], device: torch.device | None
) -> dict[str, Any]:
    """Parameters, GMAC and, on a device, milliseconds."""
    network: nn.Module | None = None
    gmac = 0.0
    if device is None:
        try:
            with torch.device("meta"):
                network = build()
            gmac = _cost.gmac(network, channels, size)
        except RuntimeError:  # it looks at its own values: then it must have some
            network = None
    if network is None:
        network = build()
        gmac = _cost.gmac(network, channels, size)
    measures: dict[str, Any] = {"parameters": _cost.parameters(network), "gmac": gmac}
    if device is not None:
        measures["ms"] = _milliseconds(network.to(device).eval(), channels, size)
    return measures


def _milliseconds(network: nn.Module, channels: int, size: Sequence[int]) -> float:
    """Median of a few forward passes, after one that warms up."""
    place = next(network.parameters()).device
    patch = torch.randn((1, channels, *size), generator=torch.Generator().manual_seed(0)).to(place)
    times: list[float] = []
    with torch.inference_mode():
        while len(times) <= _TIMED and not (len(times) > 1 and times[-1] > _LONG_SECONDS):
            start = time.perf_counter()
            network(patch)
            if place.type == "cuda":
                torch.cuda.synchronize()
            elif place.type == "mps":
                torch.mps.synchronize()
            times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[1:])
