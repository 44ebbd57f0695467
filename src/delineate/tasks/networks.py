"""The verb ``networks``: what can be trained, what it is called after, and what it costs here."""

from __future__ import annotations

import dataclasses
import statistics
import time as clock
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from delineate.core import catalog, run
from delineate.core.config import nearest, to_dict
from delineate.core.errors import ConfigError, DelineateError
from delineate.core.progress import QUIET, Progress

if TYPE_CHECKING:
    import torch
    from torch import nn

#: What a forward pass is counted and timed on, by dimensions: channels and size of one image.
PATCHES = {2: (3, (128, 128)), 3: (1, (64, 64, 64))}
#: Outputs: background and one structure.
_OUTPUTS = 2
#: Passes timed after one that warms up; fewer where one takes longer than this.
_TIMED, _LONG_SECONDS = 3, 2.0


def networks(
    *,
    name: str | None = None,
    dimensions: Literal[2, 3] | None = None,
    kind: str | None = None,
    time: bool = True,
    device: str = "auto",
    out: Path | None = None,
    progress: Progress = QUIET,
) -> dict[str, Any]:
    """List the networks: paper, kind, parameters, and the cost of a forward pass on this machine.

    Every network has its default settings; training chooses its width by data and budget. The pass
    is over one patch, of 3x128x128 in 2D and of 1x64x64x64 in 3D, or the next larger one that the
    network takes, and gives two outputs.

    Args:
        name: One network alone, with all its settings.
        dimensions: Those for flat images or those for volumes alone.
        kind: Those of a kind alone: segmenter, classifier or critic.
        time: Time a forward pass (the median of three); counting alone is quicker.
        device: Where to time: auto, cpu, cuda, cuda:1 or mps.
        out: Also write all of it into this JSON file.
        progress: Shows how far it is.

    Returns:
        ``networks``: a row a network and number of dimensions, with ``parameters``, ``gmac``
        (10⁹ multiply-accumulates) and ``ms``; a network that cannot be used says its ``problem``.
        With a name also ``settings``.

    Raises:
        ConfigError: No such network or kind.
    """
    from delineate.inference.predictor import choose_device

    where = choose_device(device)
    found: dict[str, Any] = {"device": str(where)} if time else {}
    if name is not None:
        found |= _about(catalog.load("networks", name))
    modules = {n: _loaded(n) for n in ([name] if name else catalog.members("networks"))}
    modules = _of_kind(modules, kind)
    todo = [(n, m, nd) for n, m in modules.items() for nd in _dimensions(m, dimensions)]
    found["networks"] = [
        _row(n, module, nd, where if time else None)
        for n, module, nd in progress.track(todo, "networks", len(todo))
    ]
    if name is not None:
        found["settings"] = _settings(catalog.load("networks", name))
    if out is not None:
        run.write_json(Path(out), found)
    return found


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


def _dimensions(module: ModuleType | Exception, wanted: int | None) -> list[int]:
    """Numbers of dimensions that a network is for; all where that cannot be known."""
    asked = [wanted] if wanted else list(PATCHES)
    return (
        asked
        if isinstance(module, Exception)
        else [n for n in asked if catalog.supports_ndim(module, n)]
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
    row: dict[str, Any] = {"name": name, "kind": None, "dimensions": ndim}
    row |= {"parameters": None, "gmac": None} | ({"ms": None} if device else {})
    try:
        if isinstance(module, Exception):
            raise module
        row["kind"] = module.KIND
        config = module.Config(ndim=ndim)
        channels, size = PATCHES[ndim]
        step = module.divisor(config)
        taken = tuple(-(-n // step) * step for n in size)
        outputs = 1 if module.KIND == "critic" else _OUTPUTS
        row |= _cost(lambda: module.build(config, channels, outputs), channels, taken, device)
        if taken != size:
            row["patch"] = "x".join(map(str, (channels, *taken)))
        row["paper"] = module.PAPER
    except Exception as error:  # one that cannot be used does not hide the others
        words = error.message if isinstance(error, DelineateError) else repr(error)
        row["problem"] = words.splitlines()[0][:120]
    return row


def _cost(
    build: Callable[[], nn.Module], channels: int, size: Sequence[int], device: torch.device | None
) -> dict[str, Any]:
    """Parameters, GMAC and, on a device, milliseconds."""
    import torch

    from delineate.networks import _cost as cost

    network: nn.Module | None = None
    gmac = 0.0
    if device is None:
        try:
            with torch.device("meta"):
                network = build()
            gmac = cost.gmac(network, channels, size)
        except RuntimeError:  # it looks at its own values: then it must have some
            network = None
    if network is None:
        network = build()
        gmac = cost.gmac(network, channels, size)
    found: dict[str, Any] = {"parameters": cost.parameters(network), "gmac": gmac}
    if device is not None:
        found["ms"] = _milliseconds(network.to(device).eval(), channels, size)
    return found


def _milliseconds(network: nn.Module, channels: int, size: Sequence[int]) -> float:
    """Median of a few forward passes, after one that warms up."""
    import torch

    place = next(network.parameters()).device
    patch = torch.randn((1, channels, *size), generator=torch.Generator().manual_seed(0)).to(place)
    times: list[float] = []
    with torch.inference_mode():
        while len(times) <= _TIMED and not (len(times) > 1 and times[-1] > _LONG_SECONDS):
            start = clock.perf_counter()
            network(patch)
            if place.type == "cuda":
                torch.cuda.synchronize()
            elif place.type == "mps":
                torch.mps.synchronize()
            times.append(clock.perf_counter() - start)
    return 1000 * statistics.median(times[1:])
