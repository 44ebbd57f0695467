"""How settings are called in messages: a key, a type, a value."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from delineate.core._yaml import Key


def dotted(key: Key) -> str:
    """``a.b[3]``."""
    return "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in key).lstrip(".")


def title(cls: Any) -> str:
    """Name of a settings class: what it says of itself, or that of its file where all share one."""
    if title := getattr(cls, "TITLE", None):
        return str(title)
    name = str(getattr(cls, "__name__", cls))
    return str(cls.__module__).rpartition(".")[2] if name == "Config" else name


def type_in_words(expected: Any) -> str:
    """A type hint in words."""
    origin, args = get_origin(expected), get_args(expected)
    if expected is None or expected is type(None):
        return "null"
    if origin in (Union, types.UnionType):
        return " or ".join(type_in_words(a) for a in args)
    if origin is Literal:
        return " or ".join(repr(a) for a in args)
    if origin is tuple and args[-1] is not Ellipsis:
        return f"a list of {len(args)} ({', '.join(type_in_words(a) for a in args)})"
    if origin in (list, tuple, Sequence):
        return f"a list of {type_in_words(args[0])}"
    if origin in (dict, Mapping):
        return f"a mapping to {type_in_words(args[1])}"
    if dataclasses.is_dataclass(expected):
        return f"settings of {title(expected)}"
    words = {
        Path: "a path",
        str: "text",
        bool: "true or false",
        int: "a whole number",
        float: "a number",
    }
    return words.get(expected, getattr(expected, "__name__", str(expected)))


def value_in_words(value: Any) -> str:
    """A value as it was given, cut short."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
