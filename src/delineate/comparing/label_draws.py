"""A benchmark of few labels: draws of the subjects that keep theirs, and who judges all draws.

Each draw is a table of the cohort in which every other subject of training has lost its labels. The
same held-out subjects judge all draws, so that differences can be resampled over draws and over
subjects.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from delineate.comparing import splits_as_tables
from delineate.comparing.splits_as_tables import Condition
from delineate.core.atomic import writable_folder
from delineate.core.errors import ConfigError, InputError
from delineate.data import splits
from delineate.data.cohort import Cohort

#: Share of labelled subjects that judge, where the data declare nobody for it.
TEST = 0.3
#: Draws are tried so often until one shows every structure that can be learnt.
_TRIES = 200
#: Endings of lists of labelled subjects.
_LISTS = (".csv", ".tsv")


@dataclass(frozen=True)
class Draw:
    """Subjects of a cohort by what becomes of them; all others train without labels.

    Args:
        labelled: Train, and keep their labels.
        test: Judge the models.
    """

    labelled: frozenset[str]
    test: frozenset[str]


def conditions(words: Sequence[str]) -> tuple[tuple[Condition, ...], Path | None]:
    """What was asked for: numbers of labelled subjects, or the list that names them.

    Raises:
        ConfigError: Neither.
    """
    if len(words) == 1 and words[0].lower().endswith(_LISTS):
        return (Condition(Path(words[0]).stem, "labels"),), Path(words[0])
    counts = [int(word) for word in words if word.isdigit() and int(word) > 0]
    if len(counts) != len(words) or len(set(counts)) != len(counts):
        raise ConfigError(
            f"expected numbers of labelled subjects, or one list of them as .csv or .tsv, got "
            f"{' '.join(words)}",
            where="--labelled",
            fix="--labelled 1 2 4, or --labelled LIST.csv (columns image, label, subject)",
        )
    return tuple(Condition(f"{n} labelled", "labels", labelled=n) for n in counts), None


def draw(cohort: Cohort, count: int, number: int, shows: Mapping[str, Collection[str]]) -> Draw:
    """The ``number``-th draw of ``count`` labelled subjects, which show all that can be learnt.

    Args:
        cohort: All cases.
        count: Subjects that keep their labels.
        number: Of the draw.
        shows: Structures of every labelled case.

    Raises:
        InputError: Too few labelled subjects, nobody who would be without labels, or none of many
            draws that shows every structure.
    """
    test = _judges(cohort)
    structures: dict[str, set[str]] = {}
    for case in cohort.labelled().cases:
        if case.subject not in test:
            structures.setdefault(case.subject, set()).update(shows.get(case.id, ()))
    pool = sorted(structures)
    others = {case.subject for case in cohort.cases} - test
    if len(pool) < count or len(others) <= count:
        raise InputError(
            f"expected more than {count} subjects to train on, {count} of them labelled, beside "
            f"{len(test)} who judge, got {len(others)}, of whom {len(pool)} are labelled",
            where=cohort.root,
            fix="fewer --labelled, or more subjects",
            code="too-few-subjects",
        )
    learnable = set().union(*structures.values())
    random = np.random.default_rng((number, count, 0x1AB))
    for _ in range(_TRIES):
        drawn = [pool[k] for k in random.permutation(len(pool))[:count]]
        if set().union(*(structures[subject] for subject in drawn)) == learnable:
            return Draw(frozenset(drawn), test)
    raise InputError(
        f"expected {count} subjects that show {', '.join(sorted(learnable))} between them, got "
        f"none in {_TRIES} draws",
        where=cohort.root,
        fix="more --labelled",
        code="structure-unlearnt",
    )


def listed(cohort: Cohort, path: Path) -> Draw:
    """The draw of a list such as the literature's: its rows train, those with a label keep it.

    Args:
        cohort: All cases.
        path: A table with the columns image, label and subject; labelled subjects of the cohort
            that it does not list judge.

    Raises:
        InputError: Subjects that the cohort does not know or has no labels of, or nobody to judge.
    """
    cases = Cohort.open(path).cases
    rows = {case.subject for case in cases}
    labelled = {case.subject for case in cases if case.label is not None}
    known = {case.subject for case in cohort.labelled().cases}
    if unknown := sorted(labelled - known):
        raise InputError(
            "expected subjects whose labels are in the data, got "
            f"{', '.join(unknown[:5])}" + " …" * (len(unknown) > 5),
            where=path,
            fix="give as --data all scans that the list speaks of, with their labels",
            code="unknown-subject",
        )
    test = known - rows
    if not labelled or not test or labelled == rows:
        raise InputError(
            f"expected subjects with a label, others without, and labelled ones of the data that "
            f"the list leaves out, to judge; got {len(labelled)}, {len(rows - labelled)} and "
            f"{len(test)}",
            where=path,
            code="too-few-subjects",
        )
    return Draw(frozenset(labelled), frozenset(test))


def write(
    cohort: Cohort,
    conditions_asked: Sequence[Condition],
    runs: int,
    folder: Path,
    shows: Mapping[str, Collection[str]],
    path: Path | None = None,
    resumed: bool = False,
) -> dict[tuple[str, int], Path]:
    """One table for every condition and draw; of a list, every run has the same.

    Args:
        cohort: All cases.
        conditions_asked: Conditions.
        runs: Draws of each.
        folder: For the tables.
        shows: Structures of every labelled case.
        path: The list that names labelled subjects, if one does.
        resumed: Runs may have learned from the tables that lie there.

    Returns:
        Condition and number of the run -> table.

    Raises:
        InputError: See ``draw`` and ``listed``.
        OutputError: Tables that runs learned from would have to change.
    """
    writable_folder(folder)
    from_list = listed(cohort, path) if path else None
    paths = {}
    for k, condition in enumerate(conditions_asked):
        for number in range(runs):
            drawn = from_list or draw(cohort, condition.labelled, number, shows)
            split = {c.id: "test" if c.subject in drawn.test else "train" for c in cohort.cases}
            hidden = {
                case.id for case in cohort.cases if case.subject not in drawn.labelled | drawn.test
            }
            paths[condition.name, number] = splits_as_tables.write_one(
                cohort, folder / f"labels-{k}-{number}.csv", split, hidden=hidden, resumed=resumed
            )
    return paths


def _judges(cohort: Cohort) -> frozenset[str]:
    """Labelled subjects that the data declare for it, or else a share of all: of every draw."""
    labelled = cohort.labelled()
    declared = {case.subject for case in labelled.cases if case.split == "test"}
    if declared:
        return frozenset(declared)
    test = splits.holdout(labelled, TEST, seed=0)["test"]
    return frozenset(case.subject for case in labelled.subset(test).cases)
