"""Which structures each labelled case shows: what decides whether they can be learnt and judged."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

import numpy as np

from delineate.core import threads
from delineate.core.atomic import atomic_write_text
from delineate.core.case import Case
from delineate.core.errors import DelineateError
from delineate.core.progress import QUIET, Progress
from delineate.data import capacity
from delineate.data.cohort import Cohort
from delineate.data.content import REMEMBERED, Hashes, content_hash
from delineate.data.labels import read_indices

#: Name of the file, in a folder of prepared cases, that remembers what label files show.
_FILE = "structures.json"
#: Times that a label is held while it is read, in sizes of a float32 image.
_COPIES = 3


def by_case(
    cohort: Cohort, folder: Path | None = None, progress: Progress = QUIET
) -> dict[str, frozenset[str]]:
    """Case id -> names of the structures that its label map shows, by reading all label maps.

    Cases that cannot be read show nothing here; whoever uses them tells what is wrong.

    Args:
        cohort: Cases, of which the labelled are looked at.
        folder: Where it is remembered what label files show, by their content.
        progress: Told of every case.
    """
    hashes = Hashes(folder / REMEMBERED if folder else None)
    file = folder / _FILE if folder else None
    known: dict[str, list[str]] = {}
    if file is not None:
        with contextlib.suppress(OSError, ValueError, TypeError):
            known = dict(json.loads(file.read_text(encoding="utf-8")))
    schema = json.dumps(cohort.schema.to_dict(), sort_keys=True)
    names = [label.name for label in cohort.schema.labels]

    def read_one(case: Case) -> tuple[str, list[str]]:
        if case.label is None:
            return "", []
        try:
            facts = f"{content_hash(case.label, hashes)} {case.reading} {schema}"
            key = hashlib.sha256(facts.encode()).hexdigest()[:32]
            if key in known:
                return key, known[key]
            indices = np.unique(read_indices(case, cohort.schema).array)
        except (DelineateError, OSError):
            return "", []
        return key, [names[index - 1] for index in indices.tolist() if 0 < index <= len(names)]

    with threads.pool(capacity.threads(cohort, _COPIES)) as pool:
        readings = pool.map(read_one, cohort.cases)
        structures = list(progress.track(readings, "structures", len(cohort)))
    hashes.save()
    new = {key: present for key, present in structures if key and key not in known}
    if file is not None and new:
        with contextlib.suppress(OSError, DelineateError):
            file.parent.mkdir(parents=True, exist_ok=True)
            atomic_write_text(file, json.dumps({**known, **new}) + "\n")
    return {
        case.id: frozenset(present)
        for case, (_, present) in zip(cohort.cases, structures, strict=True)
        if case.label is not None
    }
