"""Settings: YAML <-> frozen dataclasses, checked key by key.

The dataclass is the only source: its field names are the keys, its types are the checks, its
defaults are the defaults, and ``field(metadata={"help": ...})`` is the comment in written YAML.
Settings name parts, a file of the user's own by its path, which starts at the folder of the file
that names it. Nothing is converted silently: ``"3"`` is not a
number and ``1`` is not true; only a whole number may stand where a float is expected.

More can be said of a settings class. A class variable ``PRESETS`` holds tables of
settings by name: the key ``preset`` puts one of them in place of the defaults, what is given beside
it wins, and the instance knows nothing of it. ``field(metadata={"room": "losses"})`` marks the
name of a member of that room, or a mapping of such names to their settings (its ``Config``), or to
a weight alone. ``TITLE``
is what messages call it, ``HINT`` what they add where a key is unknown.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import textwrap
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from delineate.core import _yaml, catalog
from delineate.core._config_words import dotted, title, type_in_words, value_in_words
from delineate.core._yaml import Key
from delineate.core.errors import ConfigError

T = TypeVar("T")


def load(source: Path | str, cls: type[T], where: str | None = None) -> T:
    """Read settings.

    Args:
        source: A path is read as a file; a string is YAML text.
        cls: The dataclass to make.
        where: Name of the document in messages; default: the file's path.

    Raises:
        ConfigError: Not YAML, a key unknown, missing or double, or a value of the wrong type. It
            reads ``file:line: key: expected …, got …``.
    """
    return read(source, where).make(cls)


def read(source: Path | str, where: str | None = None) -> Document:
    """Read settings as plain data that know where they stand; see ``load``.

    Raises:
        ConfigError: Not YAML.
    """
    name = where or (str(source) if isinstance(source, Path) else "")
    folder = source.parent if isinstance(source, Path) else None

    def part(key: str) -> str:  # a key that is a file stands for a part of the user's own
        return catalog.named(key, folder) if folder and key.endswith(".py") else key

    text = _text(source) if isinstance(source, Path) else source
    data, lines = _yaml.parse(text, name, part)
    return Document(name, {} if data is None else data, lines, folder)


def from_dict(data: Mapping[str, Any], cls: type[T], where: str = "") -> T:
    """Make settings from plain data, with the same checks as ``load``."""
    return Document(where, data).make(cls)


def to_dict(instance: Any) -> dict[str, Any]:
    """Settings as plain data for JSON and YAML; the inverse of ``from_dict``."""
    return {f.name: _plain(getattr(instance, f.name)) for f in dataclasses.fields(instance)}


def dump(instance: Any, resolved: Mapping[str, Any] | None = None) -> str:
    """All settings as YAML, their help as comments; the inverse of ``load``.

    Args:
        instance: A dataclass.
        resolved: Settings classes to write in place of mappings of the instance, by field.
    """
    lines: list[str] = []
    for setting in dataclasses.fields(instance):
        value = (resolved or {}).get(setting.name, getattr(instance, setting.name))
        if "help" in setting.metadata:
            lines += textwrap.wrap(
                setting.metadata["help"], 100, initial_indent="# ", subsequent_indent="# "
            )
        if dataclasses.is_dataclass(value) and dataclasses.fields(value):
            lines += [f"{setting.name}:", textwrap.indent(dump(value).rstrip("\n"), "  ")]
        else:
            lines.append(f"{setting.name}: {_yaml.dump(_plain(value))}")
    return "\n".join(lines) + "\n"


def convert(value: Any, expected: Any, key: str, where: str = "") -> Any:
    """Check one plain value against a type hint and give it that type.

    Raises:
        ConfigError: The value does not fit.
    """
    return _convert(expected, value, (key,), Document(where))


def convert_text(text: str, expected: Any, key: str, where: str = "") -> Any:
    """Make a word of the command line a value of type ``expected``; text stays as it was typed.

    Raises:
        ConfigError: The word does not fit.
    """
    try:
        value = _yaml.parse(text)[0]
    except ConfigError:
        value = None  # Not YAML: then it can only be meant as text.
    if value is not None and not isinstance(value, str):
        try:
            return convert(value, expected, key, where)
        except ConfigError:
            pass  # Text that looks like a number; if that is wrong, the next line says so.
    kinds = [kind for kind in _alternatives(expected) if kind is not type(None)]
    choices = [
        str(choice) for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)
    ]
    if len(kinds) == 1 and choices and text not in choices:
        raise Document(where).error(
            (key,), f"expected {_either(choices)}, got {text!r}", "config-type",
            nearest(text, choices),
        )  # fmt: skip
    return convert(text, expected, key, where)


def _alternatives(expected: Any) -> tuple[Any, ...]:
    union = get_origin(expected) in (Union, types.UnionType)
    return get_args(expected) if union else (expected,)


def _either(choices: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(choices[:-1]), choices[-1])))


def nearest(name: str, names: Iterable[str]) -> str:
    """The next move after an unknown name: the nearest one, or all that there are."""
    known = list(names)
    matches = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {matches[0]!r}?" if matches else f"choose one of: {', '.join(known)}"


@dataclasses.dataclass(frozen=True)
class Document:
    """Plain settings, where they came from, and on which line each key stands.

    Args:
        name: Of the file, for messages.
        data: As read.
        lines: By key; none where there is no file.
        folder: Where paths of parts start, in a file that the user gives; None: it names no code.
    """

    name: str = ""
    data: Any = dataclasses.field(default_factory=dict)
    lines: Mapping[Key, int] = dataclasses.field(default_factory=dict)
    folder: Path | None = None

    def make(self, cls: type[T], key: Key = (), data: Any = None) -> T:
        """The settings under ``key`` as an instance of ``cls``.

        Args:
            cls: A dataclass.
            key: Place in the document; the whole if not given.
            data: Instead of what stands there, for instance merged with what is derived; faults
                are still told with the lines of the document.

        Raises:
            ConfigError: See ``load``.
        """
        return _make(cls, self.get(key) if data is None else data, key, self)

    def get(self, key: Key) -> Any:
        """What stands under ``key``; an empty mapping where nothing does."""
        node = self.data
        for part in key:
            inside = isinstance(node, Mapping) and part in node
            inside |= isinstance(node, list | tuple) and isinstance(part, int) and part < len(node)
            if not inside:
                return {}
            node = node[part]
        return node

    def at(self, key: Key) -> str:
        """``file:line`` of a key; one without a line has that of its parent."""
        parents = (key[:n] for n in range(len(key), -1, -1))
        line = next((self.lines[k] for k in parents if k in self.lines), "")
        return ":".join(part for part in (self.name, str(line)) if part)

    def error(self, key: Key, message: str, code: str, fix: str | None = None) -> ConfigError:
        """``file:line: key: message``."""
        return ConfigError(
            f"{dotted(key)}: {message}" if key else message,
            where=self.at(key) or None,
            fix=fix,
            code=code,
        )

    def mismatch(self, key: Key, expected: Any, value: Any) -> ConfigError:
        """A value that is not of the expected type."""
        return self.error(
            key, f"expected {type_in_words(expected)}, got {value_in_words(value)}", "config-type"
        )


def _make(cls: type[T], data: Any, key: Key, document: Document) -> T:
    if not isinstance(data, Mapping):
        raise document.mismatch(key, cls, data)
    data = _with_preset(cls, data, key, document)
    settings = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for name in data:
        if name not in settings:
            known = [*settings, *(("preset",) if hasattr(cls, "PRESETS") else ())]
            raise document.error(
                (*key, name),
                f"expected a setting of {title(cls)}, got an unknown key",
                "config-unknown-key",
                "; ".join(filter(None, (nearest(str(name), known), getattr(cls, "HINT", "")))),
            )
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, setting in settings.items():
        if name in data and hints[name] is not str and "room" in setting.metadata:
            values[name] = _members(setting.metadata["room"], data[name], (*key, name), document)
        elif name in data:
            values[name] = _convert(hints[name], data[name], (*key, name), document)
            if "room" in setting.metadata and document.folder is not None:
                values[name] = catalog.named(values[name], document.folder)
        elif setting.default is dataclasses.MISSING is setting.default_factory:
            message = f"expected {type_in_words(hints[name])}, got nothing"
            raise document.error(
                (*key, name), message, "config-missing", setting.metadata.get("help")
            )
    try:
        return cls(**values)
    except ConfigError as error:
        if error.where and document.name and error.where.startswith(document.name):
            raise
        raise document.error(
            _key_meant(error.message, data, key, document), error.message, error.code, error.fix
        ) from error
    except ValueError as error:
        message = str(error)
        raise document.error(
            _key_meant(message, data, key, document), message, "config-value"
        ) from error


def _with_preset(
    cls: type[T], data: Mapping[Any, Any], key: Key, document: Document
) -> Mapping[Any, Any]:
    """What is given, on top of the table that it names; see the module's docstring."""
    tables: Mapping[str, Mapping[str, Any]] | None = getattr(cls, "PRESETS", None)
    if tables is None or "preset" not in data:
        return data
    name = data["preset"]
    if not isinstance(name, str) or name not in tables:
        raise document.error(
            (*key, "preset"),
            f"expected a preset of {title(cls)}, got {value_in_words(name)}",
            "config-preset",
            nearest(str(name), tables),
        )
    return {**tables[name], **{k: v for k, v in data.items() if k != "preset"}}


def _members(room: str, data: Any, key: Key, document: Document) -> dict[str, Any]:
    """Settings of members of a room, by name."""
    if not isinstance(data, Mapping):
        raise document.error(
            key,
            f"expected a mapping of {room} to their weights or settings, got "
            f"{value_in_words(data)}",
            "config-type",
        )
    members: dict[str, Any] = {}
    for name, value in data.items():
        try:
            module = catalog.load(room, str(name))
        except ConfigError as error:
            if catalog.in_file(error):
                raise
            raise document.error((*key, name), error.message, error.code, error.fix) from error
        cls = getattr(module, "Config", None)
        if cls is None or isinstance(value, cls):
            members[name] = value  # what has no settings is refused by whoever uses it
        elif isinstance(value, int | float) and not isinstance(value, bool):
            members[name] = _make(cls, {"weight": value}, (*key, name), document)
        else:
            members[name] = _make(cls, value, (*key, name), document)
    return members


def _key_meant(message: str, data: Mapping[Any, Any], key: Key, document: Document) -> Key:
    """The key of the only setting of ``data`` that a message names, or cites; else of them all.

    Where several are named, those that stand in the document are meant, not what was derived.
    """
    words = set(re.findall(r"[a-z_0-9]+", message))
    candidates = [name for name in data if name in words]
    candidates = candidates or [
        k for k, v in data.items() if isinstance(v, str) and repr(v) in message
    ]
    if len(candidates) > 1:
        candidates = [name for name in candidates if (*key, name) in document.lines]
    return (*key, candidates[0]) if len(candidates) == 1 else key


def _convert(expected: Any, value: Any, key: Key, document: Document) -> Any:
    if expected is Any or (isinstance(expected, type) and type(value) is expected):
        return value
    if expected is None or expected is type(None):
        fits = value is None
    elif expected is float:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        value = float(value) if fits else value
    elif expected is Path:
        fits = isinstance(value, str | Path)
        value = Path(value) if fits else value
    elif get_origin(expected) is Literal:
        fits = any(value == option and type(value) is type(option) for option in get_args(expected))
    elif dataclasses.is_dataclass(expected):
        return _make(expected, value, key, document)  # type: ignore[arg-type]
    elif get_origin(expected) in (Union, types.UnionType):
        return _convert_union(expected, value, key, document)
    else:
        return _convert_collection(expected, value, key, document)
    if not fits:
        raise document.mismatch(key, expected, value)
    return value


def _convert_union(expected: Any, value: Any, key: Key, document: Document) -> Any:
    options = sorted(get_args(expected), key=lambda option: type(value) is not option)
    fitting = [option for option in options if _holds(option, value)]
    if len(fitting) == 1:  # A fault inside it says more than "none of these types".
        return _convert(fitting[0], value, key, document)
    for option in options:
        try:
            return _convert(option, value, key, document)
        except ConfigError:
            continue
    raise document.mismatch(key, expected, value)


def _holds(option: Any, value: Any) -> bool:
    """Whether a mapping or a list can only be meant for this member of a union."""
    origin = get_origin(option) or option
    if isinstance(value, Mapping):
        return origin in (dict, Mapping) or dataclasses.is_dataclass(option)
    return isinstance(value, list | tuple) and origin in (list, tuple, Sequence)


def _convert_collection(expected: Any, value: Any, key: Key, document: Document) -> Any:
    origin, args = get_origin(expected) or expected, get_args(expected)
    if origin in (list, tuple, Sequence) and isinstance(value, list | tuple):
        fixed = origin is tuple and args and args[-1] is not Ellipsis
        if fixed and len(value) != len(args):
            raise document.mismatch(key, expected, value)
        types = args if fixed else (args[0] if args else Any,) * len(value)
        items = [
            _convert(t, v, (*key, i), document)
            for i, (t, v) in enumerate(zip(types, value, strict=True))
        ]
        return items if origin is list else tuple(items)
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        names, values = args or (Any, Any)
        return {
            _convert(names, n, (*key, n), document): _convert(values, v, (*key, n), document)
            for n, v in value.items()
        }
    raise document.mismatch(key, expected, value)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(
            f"expected a readable YAML file, got: {reason}",
            where=path,
            fix="check the path",
            code="config-file",
        ) from error
