"""Rooms list themselves: a member of a room is a file, and its name is the file's name.

A room that is open also has members from elsewhere. An installed package offers some as entry
points (``delineate.networks`` and so on), and whoever runs Delineate may name a Python file. A name
is looked for in the package first, then among entry points; what ends in ``.py`` or has a
separator is a path. A name of the package is never taken away from it: an entry point that has
the same is left out, and ``shadowed`` says so.

**Code runs only if the user has named its file or installed it.** ``named`` is the one way for a
path to become a name, and only the command line and files of settings go through it. What stands
in a model file goes through ``stored``, which knows packages and files already named by their
hash, and follows no path.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import os
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from delineate.core import _own
from delineate.core.errors import ConfigError, DelineateError, ModelFileError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

#: Files that the user has named, as they were when first used; None: not read yet.
_NAMED: dict[str, _own.File | None] = {}
#: Hash of a file that a model asks for -> name of the one that the user wants in its place.
_INSTEAD: dict[str, str] = {}


def members(room: str) -> list[str]:
    """Names of a room's members, sorted; files that start with ``_`` are private.

    Args:
        room: Package below ``delineate``, for instance ``"networks"`` or ``"data.layouts"``.
    """
    return sorted({*within(room), *(point.name for point in _points(room))})


def within(room: str) -> list[str]:
    """Names of those that are the package's own; nothing of the room is run."""
    spec = importlib.util.find_spec(f"delineate.{room}")
    folders = None if spec is None else spec.submodule_search_locations
    return sorted(m.name for m in pkgutil.iter_modules(folders or []) if m.name[0] != "_")


def _points(room: str) -> Iterator[EntryPoint]:
    """Those that other packages offer."""
    if room in _own.CONTRACTS:
        from importlib.metadata import entry_points  # takes longer than all else here

        yield from entry_points(group=f"delineate.{room}")


def shadowed(room: str) -> list[str]:
    """A sentence for each entry point that cannot be used for its name is one of the package."""
    known = within(room)
    return [
        f"{_own.singular(room)} {point.name} is Delineate's own; the entry point of that name in "
        f"{_package(point)} is left out: it needs another name"
        for point in _points(room)
        if point.name in known
    ]


def named(word: str, folder: Path | None = None) -> str:
    """The name of a part that the user names: a path becomes absolute, and may be run from now on.

    Args:
        word: As given on the command line or in a file of settings.
        folder: Where relative paths start; the current folder by default.
    """
    if not is_path(word):
        return word
    path = os.path.normpath(((folder or Path()) / Path(word).expanduser()).absolute())
    _NAMED[path] = None  # named anew, it is read anew
    return path


def offer(path: Path | str) -> str:
    """Let models be built from a file that the user names; nothing of it runs before one is.

    Returns:
        Its name, see ``named``.

    Raises:
        ConfigError: It cannot be read.
    """
    name = named(str(Path(path).absolute()))  # a path, whatever it ends in
    _file(name)
    return name


def own(room: str) -> list[str]:
    """Names of the files of a room that the user has named; they are run to tell."""
    members_ = []
    for path in _NAMED:
        with contextlib.suppress(ConfigError):  # told when it is loaded itself
            load(room, path)
            members_.append(path)
    return members_


def is_path(word: str) -> bool:
    """Whether a name can only be meant as a path."""
    return word.endswith(".py") or "/" in word or os.sep in word


def title(word: str) -> str:
    """What tables, reports and model files call a member: of a file, its name without ``.py``."""
    return Path(word).stem if is_path(word) else word


def titled(data: Any) -> Any:
    """Plain settings with the titles of parts in place of paths: they name no folder."""
    if isinstance(data, Mapping):
        return {title(k) if k in _NAMED else k: titled(v) for k, v in data.items()}
    if isinstance(data, list):
        return [titled(value) for value in data]
    return title(data) if isinstance(data, str) and data in _NAMED else data


def load(room: str, name: str) -> ModuleType:
    """Import one member of a room.

    Args:
        room: See ``members``.
        name: Of a file of the package, of an entry point, or a path as ``named`` gives it.

    Raises:
        ConfigError: No such member; the message lists the nearest names. Or it is not one of this
            room, or cannot be imported: then with file and line.
    """
    open_ = room in _own.CONTRACTS
    if open_ and is_path(name):
        module = _file(name).module
        _own.require(module, room, name)
        return module
    if name in within(room):
        return importlib.import_module(f"delineate.{room}.{name}")
    if (point := _point(room, name)) is not None:
        return _installed(room, point)
    names = members(room)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose one of: {', '.join(names)}"
    raise ConfigError(
        f"expected one of the {room.split('.')[-1]}, got {name!r}",
        fix=hint + ("; a file of your own is given by its path" if open_ and not near else ""),
        code="unknown-name",
    )


def in_file(error: ConfigError) -> bool:
    """Whether what ``load`` raised is about a file's content, whose line it has, not its name."""
    return error.code in ("part-syntax", "part-import", "part-incomplete", "part-room")


def _file(name: str) -> _own.File:
    """A file that the user has named, read once.

    Raises:
        ConfigError: Nobody has named it, or it cannot be read.
    """
    if name not in _NAMED:
        raise ConfigError(
            f"expected a file that you name yourself, got {name!r}, which nobody did",
            fix="give its path on the command line or in a file of settings "
            "(in Python: delineate.core.catalog.named)",
            code="part-not-named",
        )
    own_file = _NAMED[name]
    if own_file is None:
        own_file = _NAMED[name] = _own.File.read(Path(name))
    return own_file


def _point(room: str, name: str) -> EntryPoint | None:
    """The entry point of a name, if there is one.

    Raises:
        ConfigError: There are several.
    """
    points = [point for point in _points(room) if point.name == name]
    if len(points) > 1:
        raise ConfigError(
            f"expected one {_own.singular(room)} called {name!r}, got one each of "
            + " and ".join(sorted(map(_package, points))),
            fix="uninstall one of them",
            code="name-twice",
        )
    return points[0] if points else None


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"


def _installed(room: str, point: EntryPoint) -> ModuleType:
    """The module that an entry point stands for.

    Raises:
        ConfigError: It cannot be imported, or is no member of the room.
    """
    where = f"entry point {point.name} of {_package(point)}"
    try:
        module = point.load()
    except Exception as error:
        raise ConfigError(
            f"expected a module that can be imported, got {type(error).__name__}: {error}",
            where=where,
            fix="mend or uninstall that package",
            code="part-import",
        ) from error
    if not isinstance(module, ModuleType):
        raise ConfigError(
            f"expected a module, got {module!r}",
            where=where,
            fix='write "package.module", with nothing after it',
            code="part-room",
        )
    _own.require(module, room, where)
    return module


def origin(room: str, name: str) -> dict[str, Any]:
    """What a record keeps of a part beside its title: of a member of the package, nothing.

    Returns:
        ``{"file": {"sha256": …}}``, with ``package`` where it is an installed one.
    """
    if is_path(name):
        return {"file": {"sha256": _file(name).sha256}}
    if name in within(room) or (point := _point(room, name)) is None:
        return {}
    return {"file": {"sha256": _installed_sha256(room, point), "package": _package(point)}}


def _installed_sha256(room: str, point: EntryPoint) -> str:
    return _own.File.read(Path(str(_installed(room, point).__file__))).sha256


def recognise(name: str) -> str:
    """The room that a file is written for, by the names it has.

    Args:
        name: A path as ``named`` gives it.

    Raises:
        ConfigError: Nothing tells, or the file cannot be run.
    """
    room = _own.recognise(_file(name).module)
    if room is None:
        raise ConfigError(
            "expected a file of a room, got one that has the names of none",
            where=name,
            fix="give --room: " + "; ".join(
                f"a {_own.singular(candidate)} has {', '.join(names)}"
                for candidate, names in _own.CONTRACTS.items()
            ),
            code="part-room",
        )  # fmt: skip
    return room


def stored(room: str, entry: Mapping[str, Any]) -> ModuleType:
    """The part that a model file names; see ``stored_name``."""
    return load(room, stored_name(room, entry))


def stored_name(room: str, entry: Mapping[str, Any]) -> str:
    """The name here of the part that a model file names. Nothing in that file is a path to follow.

    Args:
        room: See ``members``.
        entry: ``name`` and, of a part from outside the package, ``file``: see ``origin``.

    Raises:
        ModelFileError: The part is not here, or its code is not that of the training.
    """
    called, file = str(entry["name"]), entry.get("file")
    if not isinstance(file, Mapping):
        if is_path(called) or called not in within(room):
            raise ModelFileError(
                f"expected one of the {room} of this version of Delineate, got {called!r}",
                fix="install the version that trained it, see provenance in the file",
                code="model-file-network",
            )
        return called
    expected_sha256, package = str(file.get("sha256")), file.get("package")
    if expected_sha256 in _INSTEAD:
        return _INSTEAD[expected_sha256]
    sha256_of_name: dict[str, str] = {}
    for path in _NAMED:
        with contextlib.suppress(ConfigError):  # told when it is loaded itself
            sha256_of_name[path] = _file(path).sha256
    if not is_path(called) and (point := _point(room, called)) is not None:
        sha256_of_name[called] = _installed_sha256(room, point)
    for name_here, sha256 in sha256_of_name.items():
        if sha256 == expected_sha256:
            return name_here
    member, source = _own.singular(room), package or f"{called}.py"
    for name_here, sha256 in sha256_of_name.items():
        if title(name_here) == called:
            raise ModelFileError(
                f"expected the code of {source} that the {member} {called!r} was trained with "
                f"(SHA-256 {expected_sha256[:12]}…), got {name_here} with {sha256[:12]}…",
                fix="give the file as it was in training; --force goes on with this one",
                code="part-differs",
            )
    raise ModelFileError(
        f"expected the code of the {member} {called!r}, which is not Delineate's but that of "
        f"{source} (SHA-256 {expected_sha256}), got none",
        fix=(f"install {package}, or " if package else "")
        + f"name the file: --part PATH/{called}.py (to train from these weights: "
        + _own.ASKED_BY[room].format(f"PATH/{called}.py")
        + ")",
        code="part-needed",
    )


def force(room: str, entry: Mapping[str, Any]) -> str | None:
    """Let code that was changed since stand in for that of a model, as its user wishes.

    Returns:
        What a person should know; None where nothing was changed.
    """
    try:
        stored_name(room, entry)
    except ModelFileError as error:
        if error.code != "part-differs":
            raise
        called, expected_sha256 = str(entry["name"]), str(entry["file"]["sha256"])
        name_here = next((path for path in _NAMED if title(path) == called), called)
        _INSTEAD[expected_sha256] = name_here
        return f"forced: {name_here} is not the code that the model was trained with"
    return None


def unforce() -> None:
    """Let no code stand in for another any more."""
    _INSTEAD.clear()


def fault(error: BaseException) -> DelineateError | None:
    """An exception in a file of the user's own, as an error about it; None for any other."""
    for filename, line in _own.lines(error):
        if filename in _NAMED:
            return ConfigError(
                f"expected a part that works, got {type(error).__name__}: {error}",
                where=f"{filename}:{line}",
                fix=f"mend this file; `delineate check {filename}` tries it out",
                code="part-fault",
            )
    return None


def supports_ndim(module: ModuleType, ndim: int) -> bool:
    """Whether a network's settings allow images of so many dimensions."""
    try:
        module.Config(ndim=ndim)
    except ConfigError:
        return False
    return True
