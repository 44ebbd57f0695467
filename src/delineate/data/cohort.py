"""Cohort: the table of cases that a folder holds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from delineate.core.case import Case, Source
from delineate.core.errors import InputError, LayoutError
from delineate.core.schema import Schema


@dataclass(frozen=True)
class Cohort:
    """Cases of one folder, with what can be outlined in them.

    Args:
        root: Absolute path of the folder (that holds the table or scan, if one was opened).
        layout: Name of the layout that listed it.
        cases: The cases.
        schema: Labels, regions and classes.
        notes: What a person should know about how the folder was read.
        modalities: Channel -> ``"MR"``, ``"CT"``, ``"PET"``, ``"XR"``, ``"US"``, ``"OCT"``,
            ``"RGB"`` or ``"unknown"``.
        unpaired: Files and entries without a partner, for the audit to report.
    """

    root: Path
    layout: str
    cases: tuple[Case, ...]
    schema: Schema
    notes: tuple[str, ...] = ()
    modalities: Mapping[str, str] = field(default_factory=dict)
    unpaired: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        twice = [name for name, n in Counter(case.id for case in self.cases).items() if n > 1]
        if twice:
            raise LayoutError(
                f"expected every case id once, got {', '.join(twice[:5])} more than once",
                where=self.root,
                fix="rename the files, or give them ids in a table with the columns id and image",
                code="case-id-twice",
            )
        for case in self.cases:
            if not re.fullmatch(r"[^./\\\x00-\x1f][^/\\\x00-\x1f]{0,199}", case.id):
                raise LayoutError(
                    f"expected case ids that can name a file, got {case.id!r}",
                    where=self.root,
                    fix="use at most 200 characters, no slash, no leading dot",
                    code="case-id",
                )

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[Case]:
        return iter(self.cases)

    def __getitem__(self, name: str) -> Case:
        found = next((case for case in self.cases if case.id == name), None)
        if found is None:
            raise _unknown({name}, self.root)
        return found

    @staticmethod
    def open(
        root: str | os.PathLike[str],
        layout: str | None = None,
        subject_pattern: str | None = None,
        class_column: str | None = None,
    ) -> Cohort:
        """List a folder, a table (CSV, TSV) or a single scan.

        Args:
            root: Folder or file.
            layout: Name of a layout; by default the most specific that recognises it.
            subject_pattern: Regular expression whose group 1, found in a case id, is the subject.
            class_column: The class of a case is this column of the data's table, not the layout's.

        Raises:
            LayoutError: Nothing there, no layout fits, or the folder lists no case.
            ConfigError: Unknown layout or column, or a pattern that is not one.
        """
        from delineate.data.opening import Opening

        return Opening(layout, subject_pattern, class_column).cohort(root)

    @property
    def channels(self) -> tuple[str, ...]:
        """Channel names of all cases, in order of appearance."""
        return tuple(dict.fromkeys(channel for case in self.cases for channel in case.images))

    def with_cases(self, cases: Iterable[Case]) -> Cohort:
        """The same cohort with other cases."""
        return dataclasses.replace(self, cases=tuple(cases))

    def subset(self, ids: Iterable[str]) -> Cohort:
        """The cases with these ids, in the order given.

        Raises:
            InputError: An id is not in the cohort.
        """
        table, ids = {case.id: case for case in self.cases}, list(ids)
        if missing := set(ids) - table.keys():
            raise _unknown(missing, self.root)
        return self.with_cases(table[name] for name in ids)

    def labelled(self) -> Cohort:
        """The cases that have a label map."""
        return self.with_cases(case for case in self.cases if case.label is not None)

    def select(self, *channels: str) -> Cohort:
        """The cases that have all these channels, with these channels alone, in this order.

        Raises:
            InputError: No case has them.
        """
        kept = [
            dataclasses.replace(case, images={c: case.images[c] for c in channels})
            for case in self.cases
            if set(channels) <= case.images.keys()
        ]
        if not kept:
            raise InputError(
                f"expected channels among {list(self.channels)}, got {list(channels)}",
                where=self.root,
                code="channel-unknown",
            )
        known = {c: self.modalities.get(c, "unknown") for c in channels}
        return dataclasses.replace(self, cases=tuple(kept), modalities=known)

    def slices(self) -> Cohort:
        """Every slice as a case of its own, for stacks of slice files; the subject stays.

        Raises:
            InputError: A case is not a stack of slice files.
        """
        flat = []
        for case in self.cases:
            stacks = [*case.images.values(), *([case.label] if case.label else [])]
            lengths = {len(s) if isinstance(s, tuple) else 0 for s in stacks}
            if len(lengths) != 1 or 0 in lengths:
                raise InputError(
                    f"expected a stack of slice files, got {case.id!r} in volumes",
                    where=self.root,
                    code="not-slices",
                )
            for n in range(lengths.pop()):
                flat.append(
                    dataclasses.replace(
                        case,
                        id=f"{case.id}_slice{n + 1:03d}",
                        images={c: _nth(s, n) for c, s in case.images.items()},
                        label=_nth(case.label, n) if case.label else None,
                        meta={**case.meta, "volume": case.id, "slice": n},
                    )
                )
        return self.with_cases(flat)

    def hash(self, content: bool = False) -> str:
        """SHA-256 over the schema, every case and the names and sizes of its files.

        The place of the root does not enter.

        Args:
            content: Hash the bytes of every file in place of its size, in threads; for provenance.

        Raises:
            InputError: A file is gone or cannot be read.
        """
        paths = sorted({p for case in self.cases for s in _sources(case) for p in _members(s)})
        try:
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
                prints = list(pool.map(_print_of_content if content else _print_of_size, paths))
        except OSError as error:
            raise InputError(
                f"a file of the cohort cannot be read: {error.strerror}",
                where=error.filename,
                fix="put it back, or open the folder anew",
                code="file-missing",
            ) from error
        record = {
            "schema": self.schema.to_dict(),
            "cases": [_case_to_dict(case, self.root) for case in self.cases],
            "files": {_text(p, self.root): v for p, v in zip(paths, prints, strict=True)},
        }
        return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Counts of everything that a person would ask for, as plain data."""

        def count(values: Iterable[str | None]) -> dict[str, int]:
            return dict(sorted(Counter(v for v in values if v is not None).items()))

        ages = [case.age for case in self.cases if case.age is not None]
        return {
            "layout": self.layout,
            "cases": len(self.cases),
            "subjects": len({case.subject for case in self.cases}),
            "labelled": sum(case.label is not None for case in self.cases),
            "channels": count(channel for case in self.cases for channel in case.images),
            "modalities": dict(self.modalities),
            "labels": {label.name: label.value for label in self.schema.labels},
            "classes": count(case.klass for case in self.cases),
            "sites": count(case.site for case in self.cases),
            "sexes": count(case.sex for case in self.cases),
            "ages": [min(ages), max(ages)] if ages else [],
            "splits": count(case.split for case in self.cases),
            "unpaired": len(self.unpaired),
            "notes": list(self.notes),
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; files are relative to the root."""
        return {
            "root": self.root.as_posix(),
            "layout": self.layout,
            "cases": [_case_to_dict(case, self.root) for case in self.cases],
            "schema": self.schema.to_dict(),
            "notes": list(self.notes),
            "modalities": dict(self.modalities),
            "unpaired": list(self.unpaired),
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Cohort:
        """The inverse of ``to_dict``."""
        root = Path(data["root"])
        return Cohort(
            root=root,
            layout=str(data["layout"]),
            cases=tuple(_case_from_dict(item, root) for item in data["cases"]),
            schema=Schema.from_dict(data["schema"]),
            notes=tuple(data["notes"]),
            modalities=dict(data["modalities"]),
            unpaired=tuple(data["unpaired"]),
        )


def _unknown(ids: Iterable[str], root: Path) -> InputError:
    return InputError(
        f"no such case: {', '.join(sorted(ids)[:5])}", where=root, code="case-unknown"
    )


def _sources(case: Case) -> list[Source]:
    return [*case.images.values(), *([case.label] if case.label else [])]


def _members(source: Source) -> list[Path]:
    """Files of a source: itself, its slices, or what its folder holds."""
    if isinstance(source, tuple):
        return list(source)
    return sorted(p for p in source.iterdir() if p.is_file()) if source.is_dir() else [source]


def _nth(source: Source, n: int) -> Path:
    return source[n] if isinstance(source, tuple) else source


def _print_of_size(path: Path) -> str:
    return str(path.stat().st_size)


def _print_of_content(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _text(path: Path, base: Path) -> str:
    return (path.relative_to(base) if path.is_relative_to(base) else path).as_posix()


def _case_to_dict(case: Case, base: Path) -> dict[str, Any]:
    def source(value: Source) -> Any:
        if isinstance(value, tuple):
            return [_text(path, base) for path in value]
        return _text(value, base)

    data = {f.name: getattr(case, f.name) for f in dataclasses.fields(case)}
    data["images"] = {channel: source(value) for channel, value in case.images.items()}
    data["label"] = source(case.label) if case.label else None
    data["meta"] = dict(case.meta)
    return data


def _case_from_dict(data: Mapping[str, Any], base: Path) -> Case:
    def source(value: Any) -> Source:
        return tuple(base / p for p in value) if isinstance(value, list) else base / value

    label = data["label"]
    return Case(
        **{
            **data,
            "images": {channel: source(value) for channel, value in data["images"].items()},
            "label": None if label is None else source(label),
        }
    )
