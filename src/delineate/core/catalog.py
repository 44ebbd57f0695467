"""Rooms list themselves: a member of a room is a file, and its name is the file's name."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from types import ModuleType

from delineate.core.errors import ConfigError


def members(room: str) -> list[str]:
    """Names of a room's members, sorted; files that start with ``_`` are private.

    Args:
        room: Package below ``delineate``, for instance ``"networks"`` or ``"data.layouts"``.
    """
    package = importlib.import_module(f"delineate.{room}")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if m.name[0] != "_")


def load(room: str, name: str) -> ModuleType:
    """Import one member of a room.

    Raises:
        ConfigError: No such member; the message lists the nearest names.
    """
    names = members(room)
    if name not in names:
        matches = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {matches[0]!r}?" if matches else f"choose one of: {', '.join(names)}"
        raise ConfigError(
            f"expected one of the {room.split('.')[-1]}, got {name!r}",
            fix=hint,
            code="unknown-name",
        )
    return importlib.import_module(f"delineate.{room}.{name}")


def supports_ndim(module: ModuleType, ndim: int) -> bool:
    """Whether a network's settings allow images of so many dimensions."""
    try:
        module.Config(ndim=ndim)
    except ConfigError:
        return False
    return True
