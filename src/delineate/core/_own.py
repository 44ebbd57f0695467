"""Parts of the user's own: a file outside the package, run once somebody has named it.

The text that is hashed is the text that runs: no byte code is kept beside the user's file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.abc
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from delineate.core.errors import ConfigError

#: What makes a file a member of a room: the names it has, and what each is.
CONTRACTS: Mapping[str, Mapping[str, str]] = {
    "networks": {
        "KIND": 'KIND = "segmenter", "classifier" or "critic"',
        "PAPER": "PAPER = who described it, and when",
        "Config": "a frozen dataclass Config with the field ndim",
        "divisor": "divisor(config) -> int, or one an axis",
        "build": "build(config, channels, outputs) -> nn.Module",
    },
    "losses": {
        "KIND": 'KIND = "output", "finest" or "head"',
        "Config": "a frozen dataclass Config(Term)",
        "loss": "loss(logits, label, config, spacing_mm) -> Tensor",
    },
    "methods": {
        "TRAINS": 'TRAINS = ("segmenter",)',
        "USES": 'USES = ("labelled",)',
        "Config": "a frozen dataclass Config",
        "build": "build(config, network, context) -> Plan",
    },
    "targets": {
        "Config": "a frozen dataclass Config, or Config = NoSettings",
        "build": "build(config) -> Target",
    },
}
#: How a member of a room is asked for.
ASKED_BY = {
    "networks": "--network {}",
    "losses": "method_settings: {{losses: {{{}: 1}}}} in the file of settings",
    "methods": "--method {}",
    "targets": "--target {}",
}


class _Text(importlib.abc.InspectLoader):
    """Runs a text that has been read."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.path, self.data = path, data

    def get_source(self, fullname: str) -> str:
        return importlib.util.decode_source(self.data)

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.data, str(self.path))


@dataclasses.dataclass(frozen=True)
class File:
    """A Python file as it was when it was first read.

    Args:
        path: Absolute.
        data: Its bytes.
    """

    path: Path
    data: bytes

    @staticmethod
    def read(path: Path) -> File:
        """Read a file, and run nothing of it.

        Raises:
            ConfigError: No such file, not Python by its name, or one that cannot name anything.
        """
        if path.suffix != ".py":
            raise ConfigError(
                "expected a name of the package or a Python file, got neither",
                where=path,
                fix="the name of a file of your own ends in .py",
                code="part-file",
            )
        if not path.stem.replace("-", "_").isidentifier():
            raise ConfigError(
                f"expected a file named by letters, digits, _ and -, got {path.name!r}",
                where=path,
                fix="rename it: models and reports call the part by the name of its file",
                code="part-file",
            )
        try:
            return File(path, path.read_bytes())
        except OSError as error:
            raise ConfigError(
                f"expected a Python file, got: {error.strerror}: {path}",
                where=path,
                fix="check the path; on the command line it starts at the current folder, "
                "in a file of settings at that file's",
                code="part-missing",
            ) from error

    @cached_property
    def sha256(self) -> str:
        """Of its bytes, hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def module(self) -> ModuleType:
        """The file, run.

        Raises:
            ConfigError: It cannot be run; with the line.
        """
        name = f"own_{self.sha256[:12]}.{self.path.stem}"  # messages show what follows the dot
        loader = _Text(self.path, self.data)
        spec = importlib.util.spec_from_loader(name, loader, origin=str(self.path))
        if spec is None:
            raise ImportError(name)
        spec.has_location = True
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look up their types there
        try:
            loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            raise broken(error, self.path) from error
        return module


def broken(error: BaseException, path: Path) -> ConfigError:
    """What is wrong with a file that cannot be imported, with the line."""
    if isinstance(error, SyntaxError):
        return ConfigError(
            f"expected Python, got: {error.msg}",
            where=f"{error.filename or path}:{error.lineno}",
            fix="mend this line",
            code="part-syntax",
        )
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    fix = "mend this line"
    if isinstance(error, ModuleNotFoundError):
        fix = "install that, or put all of the part into this one file"
    return ConfigError(
        f"expected a file that can be imported, got {type(error).__name__}: {error}",
        where=f"{path}:{lines[-1]}" if lines else str(path),
        fix=fix,
        code="part-import",
    )


def recognise(module: ModuleType) -> str | None:
    """The room that a file is written for, by the names it has; None where nothing tells."""
    all_names = {name for names in CONTRACTS.values() for name in names}
    has = {name for name in all_names if hasattr(module, name)}
    takes = _parameters(getattr(module, "build", None))
    scores = {}
    for room, names in CONTRACTS.items():
        alike = has & names.keys()
        if "build" in alike and takes != names["build"].count(",") + 1:
            alike.remove("build")
        scores[room] = (len(alike) - len(has - alike), len(alike) / len(names))
    best = max(scores, key=lambda room: scores[room])
    return best if scores[best][0] > 1 else None


def _parameters(function: Any) -> int:
    return len(inspect.signature(function).parameters) if callable(function) else 0


def require(module: ModuleType, room: str, where: str) -> None:
    """Refuse a file that is no member of a room, by its names.

    Raises:
        ConfigError: It lacks some, or is written for another room.
    """
    names, member = CONTRACTS[room], singular(room)
    lacking = [name for name in names if not hasattr(module, name)]
    other = recognise(module)
    if other not in (None, room):
        raise ConfigError(
            f"expected a {member}, got a file that looks like a {singular(str(other))}: it has "
            + _listed([name for name in CONTRACTS[str(other)] if hasattr(module, name)]),
            where=where,
            fix="give it as " + ASKED_BY[str(other)].format(Path(where).name),
            code="part-room",
        )
    if lacking:
        raise ConfigError(
            f"expected {_listed(list(names))} of a {member}, got no {_listed(lacking, 'or')}",
            where=where,
            fix="add " + "; ".join(names[name] for name in lacking),
            code="part-incomplete",
        )
    config = module.Config
    if not (isinstance(config, type) and dataclasses.is_dataclass(config)):
        raise ConfigError(
            f"expected Config to be a frozen dataclass, got {config!r}",
            where=where,
            fix="write @dataclass(frozen=True) above class Config",
            code="part-incomplete",
        )


def singular(room: str) -> str:
    """``network`` of ``networks``, ``loss`` of ``losses``."""
    return room.removesuffix("es") if room == "losses" else room.removesuffix("s")


def lines(error: BaseException) -> Iterator[tuple[str, int]]:
    """File and line of every frame that an error went through, the innermost first."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        yield frame.filename, frame.lineno or 0


def _listed(names: list[str], word: str = "and") -> str:
    return f" {word} ".join(filter(None, (", ".join(names[:-1]), names[-1])))
