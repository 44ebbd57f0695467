"""Which cases train, which choose and which judge; and what then can be neither learnt nor judged.

Both are told before any training: a structure that no training case shows is not learnt, and is
not scored as if it were; for one that no held-out case shows there are no figures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from delineate import targets
from delineate.core import catalog, run
from delineate.core.errors import InputError
from delineate.core.progress import Progress, Say
from delineate.data import splits, unlabelled
from delineate.data.cohort import Cohort
from delineate.settings import RunConfig

#: Cases that are told by name.
_NAMED = 8


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
        record: Of the run; gets ``unlearnt`` and ``split_notes``, the hash of the split and, where
            the method learns from cases without labels too, ``unlabelled``.
        cache: Folder where it is remembered what label files show.
        say: Told of the parts, and of what they leave out.
        progress: Shows how far the reading of label files is.

    Raises:
        AuditError: A subject in two parts.
        InputError: Nothing to learn from, too few subjects, or a class that no training case has.
    """
    both = uses_unlabelled(chosen)
    target = targets.of(chosen)
    found = target.usable(cohort)
    for line in found.sentences(unlabelled_too=not both):
        say(line)
    usable = found.labelled
    shown = target.shown(usable, cache, progress)
    kept = run.read_json(out / "split.json")
    if kept:
        split = splits.Split.from_dict(kept)
    else:
        for line in splits.describe_declared(cohort, usable, chosen.folds):
            say(line)
        split = splits.planned(
            usable, chosen.seed, test_share=chosen.holdout, validation_share=chosen.validation,
            folds=chosen.folds, fold=chosen.fold, leaky=chosen.leaky, structures=shown.by_case,
        )  # fmt: skip
    refused: tuple[str, ...] = ()
    if both:
        split, refused = unlabelled.join(split, cohort, found.unlabelled)
        record["unlabelled"] = _used(split, cohort, refused)
    splits.check(cohort, split, allow_leaky=chosen.leaky)
    run.write_json(out / "split.json", split.to_dict())
    record["hashes"]["split"] = split.hash()
    told = ", ".join(f"{len(ids)} {name}" for name, ids in split.parts.items())
    say(f"split by subject: {told}")
    lost = splits.absent_from_training(split, shown.by_case, shown.declared)
    if lost and shown.each is not None:
        raise InputError(
            f"expected every {shown.each} among the training cases, got none of {', '.join(lost)}",
            where=cohort.root,
            fix=f"add subjects of {', '.join(lost)}, or leave its cases out: --exclude FILE, one "
            "id a line",
            code=f"{shown.each}-unlearnt",
        )
    record["unlearnt"] = list(lost)
    record["split_notes"] = _notes(split, usable, shown.by_case, lost)
    record["split_notes"] += _notes_on_unlabelled(split, refused) if both else []
    for note in record["split_notes"]:
        say(note)
    return split


def uses_unlabelled(chosen: RunConfig) -> bool:
    """Whether the method of a run learns from cases without labels too."""
    return splits.UNLABELLED in getattr(catalog.load("methods", chosen.method), "USES", ())


def _used(split: splits.Split, cohort: Cohort, refused: Sequence[str]) -> dict[str, Any]:
    """What the record says of cases without labels."""
    used = cohort.subset(split.parts.get(splits.UNLABELLED, ()))
    return {
        "cases": len(used),
        "subjects": len({case.subject for case in used}),
        "not_used": list(refused),
    }


def _notes_on_unlabelled(split: splits.Split, refused: Sequence[str]) -> list[str]:
    notes = []
    if splits.UNLABELLED not in split.parts:
        notes.append(
            "there is no case without a label to learn from: labelled cases alone teach the model"
        )
    if refused:
        shown = ", ".join(refused[:_NAMED]) + (" …" if len(refused) > _NAMED else "")
        notes.append(
            f"{len(refused)} cases without a label are not learnt from, because their subjects "
            f"choose or judge the model, or the data declare them for that: {shown}"
        )
    return notes


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
