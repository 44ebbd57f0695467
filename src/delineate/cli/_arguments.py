"""A task's signature and docstring, as command-line arguments.

A parameter without a default is positional; the others are options. Types are checked by
``core.config``, so that a word of the command line and a value in YAML get the same message.
Parameters that no word can fill (a cohort already opened, say) are for Python only.
"""

from __future__ import annotations

import argparse
import inspect
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import docstring_parser

from delineate.core import catalog
from delineate.core.config import convert_text, nearest
from delineate.core.errors import ConfigError

#: Options that name a part, and its room; a file of anybody's own is as good.
_ROOMS = {"target": "targets", "method": "methods", "network": "networks"}
_WORDS = {str: "TEXT", Path: "PATH", int: "N", float: "X", bool: "BOOL"}


@dataclass(frozen=True)
class _Argument:
    name: str
    type: Any
    default: Any
    help: str

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def spelling(self) -> str:
        name = self.name.replace("_", "-")
        return name if self.required else f"--{name}"

    @property
    def flag(self) -> str:
        """What is typed: ``--no-NAME`` where the default is yes."""
        return self.spelling.replace("--", "--no-") if self.default is True else self.spelling

    @property
    def count(self) -> int | None:
        """How many words it takes; None: any number from one on."""
        collection = _collection(self.type)
        if isinstance(self.default, bool):
            return 0
        if collection is None:
            return 1
        items = get_args(collection)
        fixed = get_origin(collection) is tuple and items[-1] is not Ellipsis
        return len(items) if fixed else None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message, where=self.prog, fix=f"{self.prog} --help", code="usage")


def injected(function: Callable[..., Any], terminal: Any) -> dict[str, Any]:
    """What the door itself gives to a task: ``say`` and ``progress``, where it takes them."""
    offers = {"say": terminal.say, "progress": terminal}
    parameters = inspect.signature(function).parameters
    return {name: value for name, value in offers.items() if name in parameters}


def parse(function: Callable[..., Any], program: str, words: Sequence[str]) -> dict[str, Any]:
    """Arguments for ``function`` from the words of the command line; only those that were given.

    Raises:
        ConfigError: An unknown, missing or wrong argument.
    """
    arguments = _arguments(function)
    parser = _parser(function, program, arguments)
    namespace, unknown = parser.parse_known_args(_arguments_first(words, arguments))
    if unknown:
        options = [name for action in parser._actions for name in action.option_strings]
        word = next(filter(_is_option, unknown), unknown[0])
        option = _is_option(word)
        raise ConfigError(
            f"expected {'a known option' if option else 'nothing more'}, got {word!r}",
            where=program,
            fix=nearest(word.split("=")[0], options) if option else f"{program} --help",
            code="usage",
        )
    values = vars(namespace)
    return {a.name: _value(a, values[a.name], program) for a in arguments if a.name in values}


@dataclass(frozen=True)
class Option:
    """One option of a verb, as completion shows it."""

    flag: str
    help: str
    choices: tuple[str, ...]
    takes_value: bool


def options(function: Callable[..., Any]) -> list[Option]:
    """The options that a task takes."""
    return [
        Option(
            a.flag, a.help, _choices(a.type) or _members(a.name), not isinstance(a.default, bool)
        )
        for a in _arguments(function)
        if not a.required
    ]


def _arguments_first(words: Sequence[str], arguments: Sequence[_Argument]) -> list[str]:
    """The words with those of no option first, in their order.

    An option of any number of values takes every word up to the next option, but leaves the last
    ones to required arguments that have none: in ``--freeze encoder DATA``, DATA.
    """
    required = sum(a.required for a in arguments)
    counts = {a.flag: a.count for a in arguments if not a.required}
    if "--" in words:
        return list(words)
    free: list[int] = []  # places of words that no option takes
    spans: list[list[int]] = []  # and of those that options of any number take
    at = 0
    while at < len(words):
        word = words[at]
        if not _is_option(word):
            free.append(at)
        elif word in counts:
            end = at + 1
            while end < len(words) and not _is_option(words[end]):
                end += 1
            count = counts[word]
            if count is None:
                spans.append(list(range(at + 1, end)))
                at = end - 1
            else:
                at = min(at + count, end - 1)
        at += 1
    for span in reversed(spans):
        spare = min(required - len(free), len(span) - 1)
        if spare > 0:
            free += span[-spare:]
    free.sort()
    return [words[n] for n in free] + [w for n, w in enumerate(words) if n not in free]


def _is_option(word: str) -> bool:
    return word.startswith("-") and not re.fullmatch(r"-\.?\d.*|-", word)


def _value(argument: _Argument, raw: Any, program: str) -> Any:
    if isinstance(raw, bool):
        return raw
    if not isinstance(raw, list):
        return convert_text(raw, argument.type, argument.spelling, program)
    collection = _collection(argument.type)
    items = get_args(collection)
    types = items if argument.count else (items[0],) * len(raw)
    values = [
        convert_text(word, kind, argument.spelling, program)
        for word, kind in zip(raw, types, strict=True)
    ]
    return values if get_origin(collection) is list else tuple(values)


def _arguments(function: Callable[..., Any]) -> list[_Argument]:
    hints = get_type_hints(function)
    text = docstring_parser.parse(inspect.getdoc(function) or "")
    helps = {p.arg_name: " ".join((p.description or "").split()) for p in text.params}
    arguments = []
    for name, parameter in inspect.signature(function).parameters.items():
        kind = _fillable(hints.get(name, str))
        if name in ("say", "progress") or parameter.kind in (
            inspect.Parameter.VAR_KEYWORD,
            inspect.Parameter.VAR_POSITIONAL,
        ):
            continue
        if kind is not None:
            arguments.append(_Argument(name, kind, parameter.default, helps.get(name, "")))
        elif parameter.default is inspect.Parameter.empty:
            raise TypeError(f"{function.__name__}: no word can fill {name!r}")
    return arguments


def _parser(
    function: Callable[..., Any], program: str, arguments: Sequence[_Argument]
) -> argparse.ArgumentParser:
    text = docstring_parser.parse(inspect.getdoc(function) or "")
    about = "\n\n".join(filter(None, (text.short_description, text.long_description)))
    parser = _Parser(
        prog=program,
        description=about.replace("``", ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    for argument in arguments:
        options: dict[str, Any] = {"help": _help(argument)}
        if isinstance(argument.default, bool):
            options["action"] = "store_false" if argument.default else "store_true"
        else:
            options["metavar"] = _metavar(argument)
        if _collection(argument.type) is not None:
            options["nargs"] = argument.count or "+"
        if argument.required:
            parser.add_argument(argument.name, **options)
        else:
            parser.add_argument(argument.flag, dest=argument.name, **options)
    return parser


def _help(argument: _Argument) -> str:
    text = argument.help.replace("``", "").replace("%", "%%")
    if argument.default is True:  # the option is --no-NAME, the text says what NAME does
        return f"Do not {text[:1].lower()}{text[1:]}"
    if (
        argument.required
        or isinstance(argument.default, bool)
        or argument.default in (None, (), "")
    ):
        return text
    default = str(argument.default).replace("%", "%%")
    return text if "default" in text.lower() else f"{text} (default: {default})".strip()


def _metavar(argument: _Argument) -> str:
    options = [o for o in _options(argument.type) if o is not type(None)]
    first = get_args(options[0])[0] if _collection(options[0]) is not None else options[0]
    if choices := _choices(argument.type):
        return "{" + ",".join(choices) + "}"
    return argument.spelling if argument.required else _WORDS.get(first, "VALUE")


def _choices(expected: Any) -> tuple[str, ...]:
    """The words that a type names, none where it does not."""
    literals = (o for o in _options(expected) if get_origin(o) is Literal)
    return tuple(str(choice) for literal in literals for choice in get_args(literal))


def _members(name: str) -> tuple[str, ...]:
    """What comes with Delineate of the parts that an option names."""
    return tuple(catalog.within(_ROOMS[name])) if name in _ROOMS else ()


def _options(expected: Any) -> tuple[Any, ...]:
    union = get_origin(expected) in (Union, types.UnionType)
    return get_args(expected) if union else (expected,)


def _collection(expected: Any) -> Any:
    """The list or tuple among the types that fit, None where there is none."""
    return next((o for o in _options(expected) if get_origin(o) in (list, tuple, Sequence)), None)


def _fillable(expected: Any) -> Any:
    """The part of a type that words can fill, None where there is none."""
    fitting = [option for option in _options(expected) if _is_plain(option)]
    if not fitting or fitting == [type(None)]:
        return None
    return Union[tuple(fitting)]  # noqa: UP007  built at run time


def _is_plain(option: Any) -> bool:
    origin = get_origin(option)
    if origin in (list, tuple, Sequence):
        return all(_is_plain(a) for a in get_args(option) if a is not Ellipsis)
    return origin in (Literal, dict, Mapping) or option in (*_WORDS, type(None), Any)
