"""Cohort: the table of cases that a folder holds."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from delineate.core.case import Case, Geometry, Source
from delineate.core.errors import InputError, LayoutError
from delineate.core.progress import QUIET, Progress
from delineate.core.schema import Schema
from delineate.data.content import Hashes, source_files


@dataclass(frozen=True)
class Cohort:
    """Cases of one folder, with what can be outlined in them.

    Args:
        root: Absolute path of the folder (that holds the table or scan, if one was opened).
        layout: Name of the layout that listed it.
        cases: The cases.
        schema: Labels, regions and classes.
        notes: What a person should know about how the folder was read.
        modalities: Source, or channel where those of a source differ -> ``"MR"``, ``"CT"``,
            ``"PET"``, ``"XR"``, ``"US"``, ``"OCT"``, ``"RGB"`` or ``"unknown"``.
        unpaired: Files and entries without a partner, for the audit to report.
        excluded: Cases that were left out when it was asked for: id -> why.
    """

    root: Path
    layout: str
    cases: tuple[Case, ...]
    schema: Schema
    notes: tuple[str, ...] = ()
    modalities: Mapping[str, str] = field(default_factory=dict)
    unpaired: tuple[str, ...] = ()
    excluded: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        duplicates = [name for name, n in Counter(case.id for case in self.cases).items() if n > 1]
        if duplicates:
            raise LayoutError(
                f"expected every case id once, got {', '.join(duplicates[:5])} more than once",
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
        match = next((case for case in self.cases if case.id == name), None)
        if match is None:
            raise _unknown({name}, (case.id for case in self.cases), self.root)
        return match

    @staticmethod
    def open(
        root: str | os.PathLike[str],
        layout: str | None = None,
        subject_pattern: str | None = None,
        class_column: str | None = None,
        geometry: Geometry | None = None,
        observer: str | None = None,
    ) -> Cohort:
        """List a folder, a table (CSV, TSV) or a single scan.

        Args:
            root: Folder or file.
            layout: Name of a layout; by default the most specific that recognises it.
            subject_pattern: Regular expression whose group 1, found in a case id, is the subject.
            class_column: The class of a case is this column of the data's table, not the layout's.
            geometry: What places NIfTI files whose header leaves a choice: ``"sform"``,
                ``"qform"`` or, where neither is set, ``"pixdim"``.
            observer: Of several label files of an image, the one with this in its name.

        Raises:
            LayoutError: Nothing there, no layout fits, or the folder lists no case.
            ConfigError: Unknown layout, column or observer, or a pattern that is not one.
        """
        from delineate.data.opening import Opening

        return Opening(
            layout, subject_pattern, class_column, geometry=geometry, observer=observer
        ).cohort(root)

    @property
    def channels(self) -> tuple[str, ...]:
        """Channel names of all cases, in order of appearance."""
        return tuple(dict.fromkeys(channel for case in self.cases for channel in case.images))

    def modality(self, name: str, source: str) -> str:
        """Modality of a channel, by its own name or else by that of the source that holds it."""
        return self.modalities.get(name) or self.modalities.get(source, "unknown")

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
            raise _unknown(missing, table, self.root)
        return self.with_cases(table[name] for name in ids)

    def without(self, excluded: Mapping[str, str]) -> Cohort:
        """The cohort without some cases, which it keeps in mind: id -> why.

        Raises:
            InputError: No case is left.
        """
        left = tuple(case for case in self.cases if case.id not in excluded)
        if not left:
            raise InputError(
                f"expected some cases, got none: all {len(self.cases)} are left out",
                where=self.root,
                fix="take lines out of the list given to --exclude",
                code="no-cases",
            )
        return dataclasses.replace(self, cases=left, excluded={**self.excluded, **excluded})

    def labelled(self) -> Cohort:
        """The cases that have a label map."""
        return self.with_cases(case for case in self.cases if case.label is not None)

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

    def hash(self, hashes: Hashes | None = None, progress: Progress = QUIET) -> str:
        """SHA-256 over the schema, every case, and the names and bytes of its files.

        The place of the root does not enter.

        Args:
            hashes: What is known of files already; others are read, in threads.
            progress: Told of every file.

        Raises:
            ReadError: A file is gone or cannot be read.
        """
        paths = sorted({p for case in self.cases for s in _sources(case) for p in source_files(s)})
        prints = (hashes or Hashes()).all(paths, progress)
        record = {
            "schema": self.schema.to_dict(),
            "cases": [_case_to_dict(case, self.root) for case in self.cases],
            "files": {_text(p, self.root): v for p, v in zip(paths, prints, strict=True)},
        }
        return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()

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
            "excluded": dict(self.excluded),
        }


def _unknown(ids: Iterable[str], known: Iterable[str], root: Path) -> InputError:
    missing, known = sorted(ids), list(known)
    matches = difflib.get_close_matches(missing[0], known, n=1)
    example_ids = f"its cases are called {', '.join(known[:3])}" + (" …" if len(known) > 3 else "")
    return InputError(
        f"no such case: {', '.join(missing[:5])}",
        where=root,
        fix=f"did you mean {matches[0]!r}?" if matches else example_ids,
        code="case-unknown",
    )


def _sources(case: Case) -> list[Source]:
    return [*case.images.values(), *([case.label] if case.label else [])]


def _nth(source: Source, n: int) -> Path:
    return source[n] if isinstance(source, tuple) else source


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
    data["klass"] = data.pop("class_name")  # the key in digests and documents so far
    data["meta"] = dict(case.meta)
    data["reading"] = dataclasses.asdict(case.reading)
    return data
