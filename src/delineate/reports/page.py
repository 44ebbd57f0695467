"""One offline HTML page: bricks (tables, facts, tiles, findings) and the page around them.

Everything that reaches a page is escaped, for names of files and cases come from elsewhere. The
page's own security policy forbids it to load anything.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from delineate.core.atomic import atomic_write_bytes, writable_folder

#: A heading and what stands below it.
Section = tuple[str, Markup]
#: What is shown where there is no number.
DASH = "\N{EN DASH}"


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Args:
        key: Key of the row dictionaries.
        label: Heading.
        digits: Decimals of a number; None for a column of words.
        help: Longer words, shown when the pointer rests on the heading.
        bar: Draw a bar behind a number of 0 to 1.
        factor: Numbers are multiplied by it before they are shown.
    """

    key: str
    label: str
    digits: int | None = None
    help: str = ""
    bar: bool = False
    factor: float = 1.0

    @property
    def numeric(self) -> bool:
        """Whether the column holds numbers."""
        return self.digits is not None


def clean(value: Any) -> Any:
    """Make a string printable: control characters and broken encodings become visible escapes."""
    if type(value) is not str:
        return value
    text = value.encode("utf-8", "backslashreplace").decode("utf-8")
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda m: f"\\x{ord(m[0]):02x}", text)


def as_number(value: Any) -> float | None:
    """The finite number that ``value`` is or spells, else None."""
    if value is None or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def as_list(value: Any) -> list[Any]:
    """A list or tuple as a list; anything else as an empty one."""
    return list(value) if isinstance(value, list | tuple) else []


def as_dict(value: Any) -> dict[str, Any]:
    """A mapping as a dictionary; anything else as an empty one."""
    return dict(value) if isinstance(value, Mapping) else {}


def number(value: Any, digits: int = 3, factor: float = 1.0) -> str:
    """A number with fixed decimals and thin spaces between thousands; a dash where undefined."""
    scalar = as_number(value)
    if scalar is None:
        return DASH
    return f"{scalar * factor:,.{digits}f}".replace(",", "\u202f").replace("-", "\u2212")


def duration(seconds: Any) -> str | None:
    """Seconds in words, ``"1 h 5 min"``; None where there is no number."""
    scalar = as_number(seconds)
    if scalar is None or scalar < 0:
        return None
    if scalar < 1:
        return f"{scalar * 1000:.0f} ms"
    whole = round(scalar)
    hours, minutes, left = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        words = f"{hours} h {minutes} min" if minutes else f"{hours} h"
    elif minutes:
        words = f"{minutes} min {left} s" if left else f"{minutes} min"
    else:
        words = f"{left} s"
    return words.replace(" ", "\N{NO-BREAK SPACE}")


def percent(value: Any, digits: int = 2) -> str:
    """A share as a percentage that does not break from its sign."""
    return f"{number(value, digits, 100)}\N{NO-BREAK SPACE}%"


def plural(count: Any, noun: str, plural_noun: str | None = None) -> str:
    """A count with its noun: ``"1 case"``, ``"12 cases"``."""
    return f"{number(count, 0)} {noun if count == 1 else plural_noun or noun + 's'}"


def label(key: Any) -> str:
    """The name of a setting as words: ``"seconds_per_step"`` -> ``"Seconds per step"``."""
    words = str(key).replace("_", " ")
    return words[:1].upper() + words[1:]


def plain(value: Any) -> str | None:
    """A value in words: lists with commas, mappings as JSON; None stays None."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        words = [plain(v) or DASH for v in value]
        return ("; " if any("," in w for w in words) else ", ").join(words) or "none"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping) else str(value)


def block(name: str, *args: Any, **kwargs: Any) -> Markup:
    """Render one brick of ``templates/blocks.html.j2``, for instance ``block("note", words)``."""
    module = _environment().get_template("blocks.html.j2").module
    return Markup(getattr(module, name)(*args, **kwargs))


def table(
    caption: str,
    columns: Sequence[Column],
    rows: Iterable[Mapping[str, Any]],
    *,
    sortable: bool = True,
    foot: Mapping[str, Any] | None = None,
) -> Markup:
    """A table; numbers align right, and a press on a heading sorts."""
    return block("table", caption, columns, list(rows), sortable, foot)


def facts(pairs: Mapping[str, Any]) -> Markup:
    """Names and values; None reads "not available"."""
    return block("facts", list(pairs.items()))


def join(*parts: Markup) -> Markup:
    """Bricks below each other."""
    return Markup("\n").join(parts)


def render(
    title: str,
    sections: Sequence[Section],
    *,
    kind: str = "report",
    verdict: str = "",
    lead: Markup | None = None,
) -> str:
    """A whole page as one string that opens without a network.

    Args:
        title: The heading of the page.
        sections: Headings and bricks, in order.
        kind: What sort of page this is, shown beside the project's name.
        verdict: The findings in plain words; the first thing read.
        lead: Bricks below the verdict, usually tiles.
    """
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=title, sections=list(sections), kind=kind, verdict=verdict, lead=lead or Markup()
        )
    )


def write(path: Path, html: str) -> Path:
    """Write a page atomically: the file is either whole or as it was before.

    Raises:
        OutputError: The folder cannot be written.
    """
    folder = writable_folder(path.parent)
    atomic_write_bytes(folder / path.name, html.encode("utf-8", "backslashreplace"))
    return path


def _words(value: Any) -> str:
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return DASH
    return str(clean(str(value)))


def _sortkey(value: Any) -> str:
    scalar = as_number(value)
    return "" if scalar is None else repr(scalar)


def _share(value: Any) -> str:
    return f"{min(1.0, max(0.0, as_number(value) or 0.0)):.3f}"


@functools.cache
def _environment() -> jinja2.Environment:
    from delineate import __version__

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=clean,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, words=_words, sortkey=_sortkey, share=_share)
    environment.globals["version"] = __version__
    return environment
