"""Delineate's synthetic glioma cohort: ``phantom.json``, ``participants.tsv`` and ``sub-*/``.

    phantom.json                        parameters and seed
    participants.tsv                    participant_id subject sex age site scanner grade ...
    sub-001/{t1,t1gd,t2,flair,seg}.nii.gz

Two scans of one person (twins) are one subject: whoever parts them in a split leaks. A scan that
lacks a sequence which most others have is left out and noted.
"""

from __future__ import annotations

from pathlib import Path

from delineate.core.case import Case
from delineate.core.errors import LayoutError
from delineate.core.schema import Schema, brats_schema
from delineate.data.layouts._listing import (
    NOTHING,
    SPLITS,
    Listing,
    files,
    folders,
    load_json,
    load_table,
    number,
    relative,
    stem,
    words,
)

CHANNELS = ("t1", "t1gd", "t2", "flair")


def recognise(root: Path) -> bool:
    """Whether both documents are there."""
    return (root / "phantom.json").is_file() and (root / "participants.tsv").is_file()


def cases(root: Path) -> Listing:
    """One case a participant.

    Raises:
        LayoutError: The table names no participants.
    """
    document = load_json(root / "phantom.json") or {}
    rows = load_table(root / "participants.tsv")
    if rows and "participant_id" not in rows[0]:
        raise LayoutError(
            f"expected a column participant_id, got {list(rows[0])}",
            where=root / "participants.tsv",
            code="phantom-table",
        )
    listed: list[Case] = []
    unpaired: list[str] = []
    names = [row["participant_id"] for row in rows]
    scans = {n: {words(stem(p))[-1]: p for p in files(root / n)} for n in names if n}
    channels = [c for c in CHANNELS if 2 * sum(c in s for s in scans.values()) > len(scans)]
    for row in rows:
        facts = {key: value for key, value in row.items() if value.lower() not in NOTHING}
        name = facts.pop("participant_id", "")
        files_of = scans.get(name, {})
        missing = [channel for channel in channels if channel not in files_of]
        if missing:
            unpaired.append(f"{name} (left out: no {', '.join(missing)})")
            continue
        if "seg" not in files_of:
            unpaired.append(f"{name} (no label)")
        listed.append(
            Case(
                id=name,
                subject=facts.pop("subject", "") or facts.get("twin_of") or name,
                images={channel: files_of[channel] for channel in channels},
                label=files_of.get("seg"),
                class_name=facts.pop("grade", None),
                site=facts.pop("site", None),
                sex=facts.pop("sex", None),
                age=number(facts.pop("age", "")),
                split=SPLITS.get(facts.pop("split", "").lower()),
                meta=facts,
            )
        )
    unpaired += [
        f"{relative(root, folder)} (not in participants.tsv)"
        for folder in folders(root)
        if folder.name.startswith("sub-") and folder.name not in names
    ]
    schema = document.get("schema")
    base = Schema.from_dict(schema) if schema else brats_schema()
    classes = tuple(sorted({case.class_name for case in listed if case.class_name}))
    return Listing(
        cases=tuple(listed),
        schema=Schema(base.labels, base.regions, classes or base.classes, base.lateral),
        modalities=dict.fromkeys(channels, "MR"),
        notes=("synthetic scans of people who do not exist", "twins are one subject"),
        unpaired=tuple(unpaired),
    )
