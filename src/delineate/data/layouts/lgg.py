"""Low-grade glioma of TCGA as released on Kaggle: ``kaggle_3m/TCGA_*/*_mask.tif``.

    kaggle_3m/data.csv                                     one row a patient, coded
    kaggle_3m/TCGA_CS_4943_20000902/TCGA_CS_4943_20000902_7.tif        256 x 256 x 3, uint8
    kaggle_3m/TCGA_CS_4943_20000902/TCGA_CS_4943_20000902_7_mask.tif   0 or 255

The three channels are pre-contrast, FLAIR and post-contrast. The slices of a patient, in numeric
order, are one case. The site is TCGA's tissue source site (the second field of the name).

``data.csv`` is coded and no key comes with it. Two codes are certain, because they have two values
and TCGA's own record of a patient tells which is which (TCGA-CS-5396: woman of 53, grade 3): gender
1 is female and 2 male, grade 1 is G2 and 2 is G3. All codes stay in ``meta`` as they are. A phantom
in this layout says in ``phantom.json`` which scans are of one person.
Source: Buda, Saha and Mazurowski, Computers in Biology and Medicine 109, 2019.
"""

from __future__ import annotations

import re
from pathlib import Path

from delineate.core.case import Case
from delineate.core.schema import Label, Schema
from delineate.data.layouts._listing import (
    Listing,
    files,
    folders,
    load_json,
    load_table,
    number,
    relative,
)

_PATIENT = re.compile(r"TCGA_([A-Z0-9]{2})_[A-Z0-9]{4}")
_SLICE = re.compile(r"_(\d+)(_mask)?\.tiff?$", re.I)
CHANNELS = ("pre", "flair", "post")
SEX = {"1": "F", "2": "M"}
GRADE = {"1": "G2", "2": "G3"}


def recognise(root: Path) -> bool:
    """Whether there are patient folders with slices and masks."""
    base = _base(root)
    return base is not None and any(base.glob("TCGA_*/*_mask.tif"))


def cases(root: Path) -> Listing:
    """One case a patient folder, joined with ``data.csv`` where it is there."""
    base = _base(root) or root
    table = base / "data.csv"
    rows = {row.get("Patient", ""): row for row in load_table(table)} if table.is_file() else {}
    phantom_scans = (load_json(base / "phantom.json") or {}).get("scans", {})
    listed: list[Case] = []
    unpaired: list[str] = []
    notes: list[str] = []
    for folder in folders(base):
        patient = _PATIENT.match(folder.name)
        if patient is None:
            continue
        images: dict[int, Path] = {}
        masks: dict[int, Path] = {}
        for path in files(folder):
            match = _SLICE.search(path.name)
            if match:
                (masks if match[2] else images)[int(match[1])] = path
        unmatched = sorted(images.keys() ^ masks.keys()) if masks else []
        unpaired += [f"{relative(root, (images | masks)[n])} (no partner)" for n in unmatched]
        order = [n for n in sorted(images) if n not in unmatched]
        if not order:
            continue
        if order != list(range(order[0], order[0] + len(order))):
            notes.append(f"{folder.name}: slice numbers have gaps")
        row = rows.get(patient[0], {})
        if rows and not row:
            notes.append(f"{folder.name}: no row in data.csv")
        listed.append(
            Case(
                id=folder.name,
                subject=phantom_scans.get(folder.name, {}).get("subject", patient[0]),
                images={"rgb": tuple(images[n] for n in order)},
                label=tuple(masks[n] for n in order) if masks else None,
                class_name=GRADE.get(row.get("neoplasm_histologic_grade", "")),
                site=patient[1],
                sex=SEX.get(row.get("gender", "")),
                age=number(row.get("age_at_initial_pathologic", "")),
                meta={
                    "channels": list(CHANNELS),
                    **{key: value for key, value in row.items() if value and key != "Patient"},
                },
            )
        )
    return Listing(
        cases=tuple(listed),
        schema=Schema(
            labels=(Label("tumour", 255),),
            classes=tuple(sorted({c.class_name for c in listed if c.class_name})),
        ),
        modalities={"rgb": "MR"},
        notes=("masks hold 0 and 255: 255 is the tumour", *notes),
        unpaired=tuple(unpaired),
    )


def _base(root: Path) -> Path | None:
    """The folder that holds the patient folders: the root, or ``kaggle_3m`` at most two below."""
    places = [root, root / "kaggle_3m", *(f / "kaggle_3m" for f in folders(root))]
    return next((p for p in places if any(_PATIENT.match(f.name) for f in folders(p))), None)
