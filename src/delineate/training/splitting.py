"""Which cases train, which choose and which judge; and what then can be neither learnt nor judged.

Both are told before any training: a structure that no training case shows is not learnt, and is
not scored as if it were; for one that no held-out case shows there are no figures.
"""

from __future__ import annotations

import dataclasses
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

#: Fewer labelled subjects than this all train, unless somebody gives shares. A fifth of seven is a
#: single one: its figure has no interval, and the model needs its labels more. Of eight it is two.
FEW = 8
#: Shares of subjects that are held out for figures, and that choose the clean-up, of more.
HOLDOUT, VALIDATION = 0.2, 0.1
#: Cases that are told by name.
_NAMED = 8


def with_shares(chosen: RunConfig, cohort: Cohort) -> RunConfig:
    """Settings with the shares that are held out, where they were left open.

    Args:
        chosen: Target named.
        cohort: All cases; what its labelled subjects that the data declare for no other part allow.
    """
    if chosen.holdout is not None and chosen.validation is not None:
        return chosen
    usable = targets.of(chosen).usable(cohort).labelled
    few = len({case.subject for case in usable.cases if case.split not in splits.HELD_OUT}) < FEW
    return dataclasses.replace(
        chosen,
        holdout=(0.0 if few else HOLDOUT) if chosen.holdout is None else chosen.holdout,
        validation=(0.0 if few else VALIDATION) if chosen.validation is None else chosen.validation,
    )


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
            nobody is held out, ``no_figures``; where the method learns from cases without labels
            too, ``unlabelled``.
        cache: Folder where it is remembered what label files show.
        say: Told of the parts, and of what they leave out.
        progress: Shows how far the reading of label files is.

    Raises:
        AuditError: A subject in two parts.
        InputError: Nothing to learn from, too few subjects, or a class that no training case has.
    """
    both = uses_unlabelled(chosen)
    target = targets.of(chosen)
    usable_cases = target.usable(cohort)
    for line in usable_cases.sentences(unlabelled_too=not both):
        say(line)
    usable = usable_cases.labelled
    contents = target.contents(usable, cache, progress)
    stored = run.read_json(out / "split.json")
    if stored:
        split = splits.Split.from_dict(stored)
    else:
        for line in splits.describe_declared(cohort, usable, chosen.folds):
            say(line)
        split = splits.planned(
            usable, chosen.seed, test_share=chosen.holdout or 0.0,
            validation_share=chosen.validation or 0.0,
            folds=chosen.folds, fold=chosen.fold, leaky=chosen.leaky, structures=contents.by_case,
        )  # fmt: skip
    refused: tuple[str, ...] = ()
    if both:
        split, refused = unlabelled.join(split, cohort, usable_cases.unlabelled)
        record["unlabelled"] = _used(split, cohort, refused)
    splits.check(cohort, split, allow_leaky=chosen.leaky)
    run.write_json(out / "split.json", split.to_dict())
    record["hashes"]["split"] = split.hash()
    counts = ", ".join(f"{len(ids)} {name}" for name, ids in split.parts.items())
    say(f"split by subject: {counts}")
    untrained = splits.absent_from_training(split, contents.by_case, contents.declared)
    if untrained and contents.each is not None:
        raise InputError(
            f"expected every {contents.each} among the training cases, got none of "
            f"{', '.join(untrained)}",
            where=cohort.root,
            fix=f"add subjects of {', '.join(untrained)}, or leave its cases out: --exclude FILE, "
            "one id a line",
            code=f"{contents.each}-unlearnt",
        )
    record["unlearnt"] = list(untrained)
    record["split_notes"] = _notes(split, usable, contents.by_case, untrained)
    record["split_notes"] += _notes_on_unlabelled(split, refused) if both else []
    for note in record["split_notes"]:
        say(note)
    if "test" not in split.parts:
        record["no_figures"] = _no_figures(split, cohort, chosen)
        say(record["no_figures"])
    return split


def uses_unlabelled(chosen: RunConfig) -> bool:
    """Whether the method of a run learns from cases without labels too."""
    return splits.UNLABELLED in getattr(catalog.load("methods", chosen.method), "USES", ())


def _no_figures(split: splits.Split, cohort: Cohort, chosen: RunConfig) -> str:
    """Why a run has no figures, and what gives some."""
    used = cohort.subset([*split["train"], *split.parts.get("validation", ())])
    count = len({case.subject for case in used.cases})
    subjects = f"all {count} labelled subjects" if count > 1 else "the only labelled subject"
    use = f"teach{'es' * (count == 1)} the model"
    if "validation" in split.parts:
        use += " or choose its clean-up"
    command = "delineate crossvalidate DATA"
    if count < 2 + bool(chosen.validation):
        remedy = f"with more of them, {command} gives figures"
    else:
        remedy = f"{command} --folds {min(5, count)}, with the options of this run, gives figures"
    return f"No figures exist, because {subjects} {use}: {remedy}."


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
        examples = ", ".join(refused[:_NAMED]) + (" …" if len(refused) > _NAMED else "")
        notes.append(
            f"{len(refused)} cases without a label are not learnt from, because their subjects "
            f"choose or judge the model, or the data declare them for that: {examples}"
        )
    return notes


def _notes(
    split: splits.Split,
    cohort: Cohort,
    structures: Mapping[str, frozenset[str]],
    untrained: Mapping[str, list[str]],
) -> list[str]:
    subject = {case.id: case.subject for case in cohort.cases}
    owners = {
        (structure, subject[name]) for name, present in structures.items() for structure in present
    }
    subject_counts = Counter(structure for structure, _ in owners)
    notes = [
        f"{structure!r} is in no "
        + (f"training case (only in {' and '.join(parts)})" if parts else "case")
        + ": it cannot be learnt, and is not scored"
        for structure, parts in untrained.items()
    ]
    for structure in splits.absent_from_test(split, structures):
        holder = (
            "one subject, who is trained on"
            if subject_counts[structure] == 1
            else "no held-out case"
        )
        notes.append(
            f"{structure!r} is shown by {holder}: no figure can tell how well it is outlined"
        )
    if "validation" not in split.parts:
        notes.append("no case is set aside for validation: nothing is chosen on such cases")
    return notes
