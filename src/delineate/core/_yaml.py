"""YAML as settings need it: words after YAML 1.2, a line for every key, no tags, no aliases."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import yaml

from delineate.core.errors import ConfigError

#: Path of a value in a document: names of keys and positions in lists.
Key = tuple[str | int, ...]

# The plain words of YAML 1.2's core schema, and what each can start with. PyYAML alone follows
# 1.1, in which 1e-3 is text, `no` is false, 010 is eight and 1:30 is ninety.
_WORDS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}
_TAGS = {f"tag:yaml.org,2002:{name}" for name in (*_WORDS, "str", "seq", "map")}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  none of YAML 1.1's
    rename: Callable[[str], str]

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            at = self.peek_event()  # type: ignore[no-untyped-call]
            raise _fault("aliases are not for settings; write the values out", at)
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  none of YAML 1.1's

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = '"' if "\n" in data else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)

for _name, (_pattern, _first) in _WORDS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_name}", re.compile(rf"(?:{_pattern})\Z"), _first
        )


def parse(
    text: str, name: str = "", rename: Callable[[str], str] = str
) -> tuple[Any, dict[Key, int]]:
    """YAML text as plain data, and the line on which each key stands.

    Args:
        text: The document.
        name: What messages call it.
        rename: Gives a key that is text its name.

    Raises:
        ConfigError: Not YAML, or YAML that settings do not use.
    """
    lines: dict[Key, int] = {}
    try:
        loader = _Loader(text)
        loader.rename = rename
        node = loader.get_single_node()
        return (None if node is None else _read(loader, node, (), lines)), lines
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        where = ":".join(part for part in (name, str(mark.line + 1) if mark else "") if part)
        raise ConfigError(
            f"expected settings in YAML, got a fault: {problem}",
            where=where or None,
            code="config-yaml",
        ) from error


def dump(value: Any) -> str:
    """One plain value as YAML on one line; text of several lines is quoted."""
    text = yaml.dump(
        value,
        Dumper=_Dumper,
        default_flow_style=True,
        sort_keys=False,
        allow_unicode=True,
        width=float("inf"),
    )
    return str(text).removesuffix("...\n").rstrip("\n")


def _fault(problem: str, at: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)


def _read(loader: _Loader, node: yaml.Node, key: Key, lines: dict[Key, int]) -> Any:
    if node.tag not in _TAGS:
        raise _fault(f"the tag {node.tag!r} is not for settings", node)
    lines.setdefault(key, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_read(loader, item, (*key, i), lines) for i, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    data: dict[str | int, Any] = {}
    for name_node, value_node in node.value:
        name = loader.construct_object(name_node) if name_node.tag in _TAGS else None
        if isinstance(name, bool) or not isinstance(name, str | int):
            raise _fault("expected a name as key", name_node)
        name = loader.rename(name) if isinstance(name, str) else name
        if name in data:
            raise _fault(f"the key {name!r} stands here for the second time", name_node)
        lines[(*key, name)] = name_node.start_mark.line + 1
        data[name] = _read(loader, value_node, (*key, name), lines)
    return data
