"""What a model can be asked, and which images it takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from delineate.core.errors import ConfigError, InputError, ResourceError
from delineate.core.image import Grid, Image
from delineate.inference._contract import contradictions, measure
from delineate.inference._facts import check_slices, spacing_warnings
from delineate.inference.session import Session

if TYPE_CHECKING:
    from delineate.inference.ensemble import AnySession


def require(session: AnySession, mirror: bool = False, unusable: Sequence[str] = ()) -> None:
    """Refuse options that a model cannot follow.

    Args:
        session: Of one model or of several.
        mirror: Mirrored passes are asked for.
        unusable: What else is asked for in vain: the option, a colon, and why.

    Raises:
        ConfigError: With the options that have to go.
    """
    unusable = list(unusable)
    if mirror and not all(
        option.document["input"].get("mirror_axes") for option in session.members
    ):
        unusable.append("--mirror: left and right mean something to this model along every axis")
    if unusable:
        raise ConfigError(
            f"expected options that this model can follow, got {'; '.join(unusable)}",
            fix=f"leave out {' and '.join(option.split(':')[0] for option in unusable)}",
            code="option-model",
        )


def require_fit(session: AnySession, image: Image, force: bool = False) -> list[str]:
    """Refuse an image that a model cannot take, or that contradicts what it was trained on.

    Args:
        session: Of one model, or of several that must all take it.
        image: ``(C, *S)`` as read from its files.
        force: Warn of contradictions instead.

    Returns:
        Warnings: where the image leaves what was seen in training.

    Raises:
        InputError: Wrong number of channels or dimensions, a single slice that lies across,
            another modality or other units (code ``contract``).
    """
    measured = measure(image)
    warnings: dict[str, None] = {}
    for member in session.members:
        _require_shape(member, image.grid, image.channels)
        warnings |= dict.fromkeys(
            spacing_warnings(image.grid, member.document.get("provenance", {}))
        )
    contradicted = dict.fromkeys(
        reason for member in session.members for reason in contradictions(member.document, measured)
    )
    if contradicted and not force:
        raise InputError(
            "; ".join(contradicted),
            fix="use a model for such scans, or take the risk with --force",
            code="contract",
        )
    forced = (
        f"not the kind of scan that the model was trained on: {reason}" for reason in contradicted
    )
    return [*warnings, *forced]


def _require_shape(session: Session, grid: Grid, channels: int) -> None:
    expected = session.channels
    if channels != len(expected):
        raise InputError(
            f"expected {len(expected)} channels ({', '.join(expected)}), got {channels}",
            fix="give the channels that the model was trained on, in this order",
            code="channels",
        )
    document = session.document
    patch, axis = document["input"]["patch"], document["input"].get("slice_axis")
    ndim = 3 if axis is not None else len(patch)
    if grid.ndim != ndim and not (axis is not None and grid.ndim == 2):
        raise InputError(
            f"expected an image of {ndim} dimensions, got shape {grid.shape}",
            fix="use a model that was trained on such images",
            code="dimensions",
        )
    check_slices(grid, axis, document["preparation"]["orient"])


@contextmanager
def memory_faults(memory_bytes: int) -> Iterator[None]:
    """Memory that ran out is told in the user's words; any other fault as it is."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "allocate memory" not in str(error):
            raise
        raise ResourceError(
            f"memory ran out (the limit for images was {memory_bytes / 2**30:.1f} GiB)",
            fix="use a smaller --memory, --device cpu, or a machine with more memory",
            code="memory",
        ) from error
