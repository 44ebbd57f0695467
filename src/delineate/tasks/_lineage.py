"""Where a model's weights come from: what was taken, which files, whose scans taught it before.

All of it goes into ``run.json`` and in brief into the model file, so that licences and leaks can be
followed from one file to the next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from delineate.core.case import Case, Source
from delineate.networks._transfer import Transfer
from delineate.tasks._weights import Weights

#: A list longer than this stays in ``run.json``; the model file has its length.
_SHOWN = 12


def prints(cases: Iterable[Case]) -> dict[str, set[str]]:
    """Marks by which subjects can be known again, though not named: hashes of name and file sizes.

    A file's size keeps apart subjects that are called alike in different cohorts.
    """
    found: dict[str, set[str]] = {}
    for case in cases:
        for source in case.images.values():
            text = f"{case.subject}|{_size(source)}"
            mark = hashlib.sha256(text.encode()).hexdigest()[:12]
            found.setdefault(case.subject, set()).add(mark)
    return found


def _size(source: Source) -> int:
    if isinstance(source, tuple):
        return sum(map(_size, source))
    if source.is_dir():
        return sum(path.stat().st_size for path in source.iterdir() if path.is_file())
    return source.stat().st_size


def leaks(weights: Weights, parts: Mapping[str, Mapping[str, set[str]]]) -> list[str]:
    """Subjects that the old model and the new one use in ways that spoil a figure, in words.

    Args:
        weights: Whose model file may know its subjects.
        parts: ``prints`` of each part of the new split.
    """
    old = (weights.document or {}).get("provenance", {}).get("subjects")
    if not isinstance(old, Mapping):
        return []

    def shared(mine: Iterable[str], theirs: Iterable[str]) -> int:
        marks = {mark for part in theirs for mark in old.get(part, ())}
        return sum(bool(m & marks) for part in mine for m in parts.get(part, {}).values())

    told = []
    if count := shared(("test",), ("train", "validation", "earlier")):
        told.append(
            f"{count} of the held-out subjects trained the old model: the figures flatter the new"
        )
    if count := shared(("train", "validation"), ("test",)):
        told.append(
            f"{count} of the training subjects tested the old model: "
            "its figures cannot be held against the new one's"
        )
    return told


def subjects(
    weights: Weights | None, parts: Mapping[str, Mapping[str, set[str]]]
) -> dict[str, list[str]]:
    """Marks of the subjects of each part, and of all that ancestors of the model learnt from."""
    found = {name: sorted(set().union(*part.values())) for name, part in parts.items()}
    old = ((weights.document if weights else None) or {}).get("provenance", {}).get("subjects", {})
    earlier = {mark for name in ("train", "validation", "earlier") for mark in old.get(name, ())}
    return found | ({"earlier": sorted(earlier)} if earlier else {})


def record(
    weights: Weights,
    transfer: Transfer,
    frozen: Mapping[str, int],
    parts: Mapping[str, Mapping[str, set[str]]],
) -> dict[str, Any]:
    """What ``run.json`` keeps: where the weights come from, and what became of every tensor.

    Args:
        weights: As read.
        transfer: What was taken.
        frozen: Numbers that do not learn, by what was asked for.
        parts: ``prints`` of each part of the split.
    """
    provenance = (weights.document or {}).get("provenance", {})
    hash_ = weights.document["sha256"]["document"] if weights.document else None
    notes = leaks(weights, parts)
    lost = [n for n in transfer.fresh if any(f"{n}.".startswith(f"{part}.") for part in frozen)]
    if lost:
        notes.append(f"{len(lost)} frozen tensors were not in the file and keep random values")
    before = provenance.get("transfer", {}).get("lineage", [])
    return {
        "file": weights.path.name,
        "format": weights.format,
        "sha256": weights.sha256,
        "model": hash_,
        "lineage": [hash_ or weights.sha256, *before],
        "peeled": list(weights.peeled),
        "renamed": transfer.renamed,
        "loaded": list(transfer.loaded),
        "resized": dict(transfer.resized),
        "left_out": dict(transfer.left_out),
        "fresh": list(transfer.fresh),
        "frozen": dict(frozen),
        "notes": notes,
    }


def brief(kept: Mapping[str, Any]) -> dict[str, Any]:
    """A record for the model file: long lists give way to their lengths."""
    short = {
        name: len(kept[name]) if name == "loaded" or len(kept[name]) > _SHOWN else kept[name]
        for name in ("loaded", "resized", "left_out", "fresh")
    }
    return {**kept, **short}


def sentence(kept: Mapping[str, Any]) -> str:
    """A record in one line."""
    count = len(kept["loaded"]) + len(kept["resized"])
    told = f"{count} of {count + len(kept['left_out'])} tensors of {kept['file']} taken"
    parts = [
        f"{len(kept['resized'])} of them resized" if kept["resized"] else "",
        f"{len(kept['fresh'])} of the network's own fresh" if kept["fresh"] else "",
        *(f"{name} frozen ({count:,} parameters)" for name, count in kept["frozen"].items()),
    ]
    return ", ".join([told, *filter(None, parts)])
