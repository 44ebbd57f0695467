"""The verb ``networks``: what can be trained, what it is called after, and what it costs here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from delineate.core import run
from delineate.core.progress import QUIET, Progress


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

    Those that installed packages offer as entry points are among them. Every network has its
    default settings; training chooses its width by data and budget. The pass is over one patch, of
    3x128x128 in 2D and of 1x64x64x64 in 3D, or the next larger one that the network takes, and
    gives two outputs.

    Args:
        name: One network alone, with all its settings; a Python file of your own is one too.
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
    from delineate.inference.runtimes.torch import choose_device
    from delineate.networks import _listing

    where = choose_device(device)
    content = _listing.table(name, dimensions, kind, where if time else None, progress)
    if out is not None:
        run.write_json(Path(out), content)
    return content
