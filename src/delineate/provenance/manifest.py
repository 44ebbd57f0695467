"""What ``predictions.json`` says of the cases of a data set."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from delineate.core.case import Case, Source
from delineate.core.errors import InputError, LayoutError
from delineate.data.content import Hashes
from delineate.data.matching import match
from delineate.data.outputs import INDEX
from delineate.provenance import known_scans


def listed(
    document: Mapping[str, Any],
    cases: list[Case],
    predictions: Path,
    notes: list[str],
    parts: dict[str, str],
) -> tuple[list[Case], dict[str, Source | InputError]]:
    """The cases that ``predictions.json`` lists, and their files."""
    entries = document.get("cases")
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("id"), str) for entry in entries
    ):
        raise LayoutError(
            'expected "cases": [{"id": ..., "file": ...}, ...]',
            where=predictions / INDEX,
            fix="remove it to have the predictions found by their names",
            code="predictions-json",
        )
    if isinstance(ids_asked := document.get("only"), list):  # the others nobody wanted
        matched_ids = match(cases, ((str(name), name) for name in ids_asked))
        cases = [case for case in cases if case.id in matched_ids]
    matched = match(cases, ((entry["id"], entry) for entry in entries))
    if unlabelled := len(entries) - len(matched):
        notes.append(f"{unlabelled} predicted cases have no label: not scored")
    left = len(cases) - len(matched)
    if document.get("finished") is False:
        notes.append(
            "the prediction was cut off before its end: every labelled case that it was to give is "
            "asked for"
        )
    elif left:
        notes.append(
            f"{left} of {len(cases)} labelled cases were not among the scans that were predicted "
            f"({document.get('scans', INDEX)}), so they are not scored"
        )
        cases = [case for case in cases if case.id in matched]
    predicted: dict[str, Source | InputError] = {}
    hashes = Hashes()
    for case in cases:
        for entry in matched.get(case.id, []):
            if source := _files(predictions, entry):
                predicted[case.id] = source
                try:
                    known_scans.require_same(case, entry, document.get("channels") or (), hashes)
                except InputError as error:
                    predicted[case.id] = error
    parts.update(
        {name: str(entries_of_case[0].get("part")) for name, entries_of_case in matched.items()}
    )
    # A plain label file knows no subject; the predictions may.
    subjects = {
        name: entries_of_case[0].get("subject") or name for name, entries_of_case in matched.items()
    }
    return [
        case if case.images else replace(case, subject=str(subjects.get(case.id, case.subject)))
        for case in cases
    ], predicted


def _files(predictions: Path, entry: Mapping[str, Any]) -> Source | InputError | None:
    """Files that an entry names, None where it names none or they are gone."""
    named = entry.get("files") or entry.get("file")
    if isinstance(named, dict):
        named = named.get("labels")
    names = [named] if isinstance(named, str) else named or []
    paths = tuple(Path(os.path.normpath(predictions / str(name))) for name in names)
    root = predictions.resolve()
    if not all(path.resolve().is_relative_to(root) for path in paths):
        return InputError(
            "expected files below the folder of predictions",
            where=predictions / INDEX,
            fix="write paths relative to it",
            code="path-outside",
        )
    if not paths or not all(path.is_file() for path in paths):
        return None
    return paths if len(paths) > 1 else paths[0]
