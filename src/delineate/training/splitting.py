"""Which cases train, which choose and which judge; and what then can be neither learnt nor judged.

Both are told before any training: a structure that no training case shows is not learnt, and is
not scored as if it were; for one that no held-out case shows there are no figures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from delineate.core import run
from delineate.core.errors import InputError
from delineate.core.progress import Progress, Say
from delineate.data import splits, structures
from delineate.data.cohort import Cohort
from delineate.settings import RunConfig
from delineate.targets import selection


def take(
    chosen: RunConfig,
    cohort: Cohort,
    out: Path,
    record: dict[str, Any],
    cache: Path,
    say: Say,
    progress: Progress,
) -> splits.Split:
    """The split of a run: the one that it has, or a new one. It is checked, kept and told.

    Args:
        chosen: Settings of the run.
        cohort: All its cases.
        out: The run folder.
        record: Of the run; gets ``unlearnt`` and ``split_notes``, and the hash of the split.
        cache: Folder where it is remembered what label files show.
        say: Told of the parts, and of what they leave out.
        progress: Shows how far the reading of label files is.

    Raises:
        AuditError: A subject in two parts.
        InputError: Nothing to learn from, too few subjects, or a class that no training case has.
    """
    usable = selection.usable(chosen.target, cohort, say)
    shown = _shown(chosen.target, usable, cache, progress)
    kept = run.read_json(out / "split.json")
    if kept:
        split = splits.Split.from_dict(kept)
    else:
        for line in splits.describe_declared(cohort, usable, chosen.folds):
            say(line)
        split = splits.planned(
            usable, chosen.seed, test_share=chosen.holdout, validation_share=chosen.validation,
            folds=chosen.folds, fold=chosen.fold, leaky=chosen.leaky, structures=shown,
        )  # fmt: skip
    splits.check(cohort, split, allow_leaky=chosen.leaky)
    run.write_json(out / "split.json", split.to_dict())
    record["hashes"]["split"] = split.hash()
    told = ", ".join(f"{len(ids)} {name}" for name, ids in split.parts.items())
    say(f"split by subject: {told}")
    declared = [label.name for label in cohort.schema.labels if chosen.target == "outline"]
    lost = splits.absent_from_training(split, shown, declared)
    if lost and chosen.target == "class":
        raise InputError(
            f"expected every class among the training cases, got none of {', '.join(lost)}",
            where=cohort.root,
            fix=f"add subjects of {', '.join(lost)}, or leave its cases out: --exclude FILE, one "
            "id a line",
            code="class-unlearnt",
        )
    record["unlearnt"] = list(lost)
    record["split_notes"] = _notes(split, usable, shown, lost)
    for note in record["split_notes"]:
        say(note)
    return split


def _shown(
    target: str, cohort: Cohort, cache: Path, progress: Progress
) -> Mapping[str, frozenset[str]]:
    """Case id -> what it shows that a model of the target would learn."""
    if target == "class":
        return {case.id: frozenset({case.class_name}) for case in cohort.cases if case.class_name}
    return structures.by_case(cohort, cache, progress) if target == "outline" else {}


def _notes(
    split: splits.Split,
    cohort: Cohort,
    shown: Mapping[str, frozenset[str]],
    lost: Mapping[str, list[str]],
) -> list[str]:
    subject = {case.id: case.subject for case in cohort.cases}
    owners = {(thing, subject[name]) for name, things in shown.items() for thing in things}
    people = Counter(thing for thing, _ in owners)
    notes = [
        f"{thing!r} is in no "
        + (f"training case (only in {' and '.join(parts)})" if parts else "case")
        + ": it cannot be learnt, and is not scored"
        for thing, parts in lost.items()
    ]
    for thing in splits.absent_from_test(split, shown):
        who = "one subject, who is trained on" if people[thing] == 1 else "no held-out case"
        notes.append(f"{thing!r} is shown by {who}: no figure can tell how well it is outlined")
    if "test" not in split.parts:
        notes.append("no case is held out: the model will have no figures")
    if "validation" not in split.parts:
        notes.append("no case is set aside for validation: nothing is chosen on such cases")
    return notes
