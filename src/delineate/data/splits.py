"""Splits: which cases train a model and which judge it.

Subjects never part: all cases of a subject go to one part. Within that, classes, sites and the
share of labelled cases are spread over the parts as evenly as whole subjects allow. A split depends
on the seed and on the case ids, not on the order of the cases. Splits that do part subjects exist
to show what that leads to; they are called leaky, and ``check`` stops them unless told otherwise.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from delineate.core.case import Case
from delineate.core.errors import AuditError, InputError
from delineate.data.cohort import Cohort

#: Parts that choose or judge.
HELD_OUT = ("validation", "test")
#: Part of cases without labels that the method learns from beside the part ``train``.
UNLABELLED = "unlabelled"
#: Case id -> what it shows: structures, or its class.
StructuresOfCase = Mapping[str, Collection[str]]
_NO_STRUCTURES: StructuresOfCase = {}


@dataclass(frozen=True)
class Split:
    """Case ids by part.

    Args:
        name: ``"holdout"``, ``"fold-0"``, ``"site-CS"``, ``"leaky-slice-random"`` …
        seed: Seed it was drawn with.
        parts: Part (``"train"``, ``"validation"``, ``"test"``, ``"unlabelled"``) -> case ids,
            sorted.
        leaky: True where subjects are parted on purpose.
    """

    name: str
    seed: int
    parts: Mapping[str, tuple[str, ...]]
    leaky: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", {k: tuple(v) for k, v in self.parts.items()})

    def __getitem__(self, part: str) -> tuple[str, ...]:
        if part not in self.parts:
            raise InputError(
                f"expected a part among {list(self.parts)}, got {part!r}", code="split-part"
            )
        return self.parts[part]

    def hash(self) -> str:
        """SHA-256 of all that the split says."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        parts = {part: list(ids) for part, ids in self.parts.items()}
        return {"name": self.name, "seed": self.seed, "parts": parts, "leaky": self.leaky}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Split:
        """The inverse of ``to_dict``."""
        return Split(str(data["name"]), int(data["seed"]), dict(data["parts"]), bool(data["leaky"]))


def holdout(
    cohort: Cohort,
    fraction: float,
    seed: int,
    name: str = "holdout",
    structures: StructuresOfCase = _NO_STRUCTURES,
) -> Split:
    """Parts ``train`` and ``test``, with about ``fraction`` of the cases in ``test``.

    What only few subjects show is in ``train`` wherever whole subjects allow.

    Raises:
        InputError: A fraction outside (0, 1), or fewer than two subjects.
    """
    if not 0 < fraction < 1:
        raise InputError(f"expected a fraction between 0 and 1, got {fraction}", code="fraction")
    shares = {"train": 1 - fraction, "test": fraction}
    subjects: dict[str, set[str]] = {}
    for case in cohort.cases:
        for structure in structures.get(case.id, ()):
            subjects.setdefault(structure, set()).add(case.subject)
    train: set[str] = set()  # subjects that must be there
    while True:
        parts = _deal(cohort, shares, seed, structures, train)
        inside = {case.subject for case in cohort.subset(parts["train"])}
        lacking = [structure for structure, holders in subjects.items() if not holders & inside]
        n_subjects = len({case.subject for case in cohort.cases})
        if not lacking or len(train) + 1 >= n_subjects:
            return Split(name, seed, parts)
        rarest = min(lacking, key=lambda structure: (len(subjects[structure]), structure))
        train.add(min(subjects[rarest]))


def absent_from_training(
    split: Split, structures: StructuresOfCase, declared: Iterable[str] = ()
) -> dict[str, list[str]]:
    """What is declared or shown, but by no training case: name -> the parts that show it."""
    by_part = {
        part: {structure for name in ids for structure in structures.get(name, ())}
        for part, ids in split.parts.items()
    }
    trained = by_part.get("train", set())
    untrained = sorted(set().union(declared, *by_part.values()) - trained)
    return {
        structure: [part for part, present in by_part.items() if structure in present]
        for structure in untrained
    }


def absent_from_test(split: Split, structures: StructuresOfCase) -> list[str]:
    """What training cases show, but no case of the part ``test``, where there is such a part."""
    if "test" not in split.parts:
        return []
    trained, tested = (
        {structure for name in split.parts[part] for structure in structures.get(name, ())}
        for part in ("train", "test")
    )
    return sorted(trained - tested)


def k_fold(
    cohort: Cohort, k: int, seed: int, structures: StructuresOfCase = _NO_STRUCTURES
) -> tuple[Split, ...]:
    """``k`` splits into ``train`` and ``validation``; every case is in ``validation`` once.

    Raises:
        InputError: ``k`` below 2 or above the number of subjects.
    """
    if k < 2:
        raise InputError(f"expected at least 2 folds, got {k}", code="folds")
    folds = list(_deal(cohort, {f"fold-{n}": 1.0 for n in range(k)}, seed, structures).values())
    all_ids = {case.id for case in cohort.cases}
    return tuple(
        Split(f"fold-{n}", seed, {"train": _sorted(all_ids - set(fold)), "validation": fold})
        for n, fold in enumerate(folds)
    )


def leave_one_site_out(cohort: Cohort) -> tuple[Split, ...]:
    """One split a site: ``test`` is the site, ``train`` all others. Nothing is drawn (seed 0).

    Raises:
        InputError: Cases without a site, or fewer than two sites.
        AuditError: A subject was scanned at two sites, so that leaving one out would leak.
    """
    nowhere = [case.id for case in cohort.cases if case.site is None]
    sites = _sorted(case.site for case in cohort.cases if case.site is not None)
    if nowhere or len(sites) < 2:
        raise InputError(
            f"expected two sites or more and a site for every case, got the sites {list(sites)} "
            f"and {len(nowhere)} cases without one",
            where=cohort.root,
            fix="give sites in a table with the columns image and site",
            code="sites",
        )
    splits = []
    for site in sites:
        test = _sorted(case.id for case in cohort.cases if case.site == site)
        train = _sorted(case.id for case in cohort.cases if case.site != site)
        splits.append(Split(f"site-{site}", 0, {"train": train, "test": test}))
        check(cohort, splits[-1])
    return tuple(splits)


def declared(cohort: Cohort) -> Split:
    """The split that the layout itself declares. It is not checked here: see ``check``.

    Raises:
        InputError: Cases without a declared part, or only one part.
    """
    parts: dict[str, list[str]] = {}
    for case in cohort.cases:
        parts.setdefault(case.split or "", []).append(case.id)
    if "" in parts or len(parts) < 2:
        raise InputError(
            f"expected every case in one of two declared parts or more, got {sorted(parts)}",
            where=cohort.root,
            fix="draw a split instead",
            code="split-undeclared",
        )
    return Split("declared", 0, {part: _sorted(ids) for part, ids in parts.items()})


def planned(
    cohort: Cohort,
    seed: int,
    *,
    test_share: float,
    validation_share: float,
    folds: int | None = None,
    fold: int = 0,
    leaky: bool = False,
    structures: StructuresOfCase = _NO_STRUCTURES,
) -> Split:
    """The split of a training run: declared parts are what they are called, others are drawn.

    Args:
        cohort: The cases that can be learned from and judged by.
        seed: Seed of what is drawn.
        test_share: Share of cases in ``test``, where the data declare no such part; 0: none.
        validation_share: The same for ``validation``.
        folds: Draw ``test`` as one of so many folds, the same whatever the seed, instead.
        fold: Which of them.
        leaky: The split may part subjects, and says so.
        structures: What cases show; what few subjects show is trained on where that can be.

    Where no test part is drawn, and fewer than three subjects are there to train on, none of them
    is set aside for validation.

    Raises:
        InputError: Too few subjects for what must be drawn, or all are declared for other parts.
    """
    names = ("validation", "test")
    declared = {part: _sorted(c.id for c in cohort.cases if c.split == part) for part in names}
    parts = {"train": _sorted(case.id for case in cohort.cases if case.split not in names)}
    if cohort.cases and not parts["train"]:
        raise InputError(
            f"none of {len(cohort.cases)} labelled cases is left to train on: the data declare "
            + " and ".join(f"{len(ids)} for {part}" for part, ids in declared.items() if ids),
            where=cohort.root,
            fix="declare some of them for training, or take the declaration away (the column "
            "split, the lists or the folders that name parts)",
            code="split-no-train",
        )
    subjects = len({case.subject for case in cohort.subset(parts["train"])})
    validate = not declared["validation"] and validation_share > 0
    judge = folds is not None or (not declared["test"] and test_share > 0)
    if judge:
        _require(cohort, subjects, validate)
    if folds is not None:
        fold_split = k_fold(cohort.subset(parts["train"]), folds, seed=0, structures=structures)[
            fold
        ]
        parts = {"train": fold_split["train"], "test": fold_split["validation"]}
    elif declared["test"]:
        parts["test"] = declared["test"]
    elif test_share > 0:
        remaining = cohort.subset(parts["train"])
        parts = dict(holdout(remaining, test_share, seed, structures=structures).parts)
    if declared["validation"]:
        parts["validation"] = declared["validation"]
    elif validate and (judge or subjects > 2):
        remaining = cohort.subset(parts["train"])
        inner = holdout(remaining, validation_share, seed, structures=structures)
        parts |= {"train": inner["train"], "validation": inner["test"]}
    return Split("train-validation-test", seed, parts, leaky)


def _require(cohort: Cohort, subjects: int, validate: bool) -> None:
    """Refuse to hold somebody out where nobody would be left to train on."""
    needed = 2 + validate
    if subjects < needed:
        raise InputError(
            f"expected at least {needed} labelled subjects, to train on, "
            f"{'to choose by ' * validate}and to judge by, got {subjects}",
            where=cohort.root,
            fix="--holdout 0 trains on what there is, and gives no figures; or add subjects",
            code="too-few-subjects",
        )


def describe_declared(cohort: Cohort, usable: Cohort, folds: int | None = None) -> list[str]:
    """What becomes of the parts that a layout declares, in a sentence each.

    Args:
        cohort: All cases.
        usable: Those that can be learned from and judged by.
        folds: Of a cross-validation, which draws its own test parts.
    """
    sentences = []
    scored = "they are scored" if folds is None else f"they are left out of the {folds} folds"
    for part, use in (("validation", "they choose the clean-up"), ("test", scored)):
        declared = sum(case.split == part for case in cohort.cases)
        usable_count = sum(case.split == part for case in usable.cases)
        if usable_count:
            sentences.append(f"{part}: {usable_count} cases, as the data declare; {use}")
        elif declared:
            sentences.append(
                f"the data declare {declared} cases for {part}, none of which can be judged"
            )
    return sentences


def check(cohort: Cohort, split: Split, allow_leaky: bool = False) -> None:
    """Stop a split that would give a false result.

    Args:
        cohort: The cohort that the split is of; cases may be left out of it.
        split: The split.
        allow_leaky: Let a split pass that says of itself that it is leaky.

    Raises:
        InputError: Unknown ids, an id twice, an empty part.
        AuditError: A subject in two parts.
    """
    subjects = {case.id: case.subject for case in cohort.cases}
    ids = [name for part in split.parts.values() for name in part]
    unknown = _sorted(set(ids) - subjects.keys())
    duplicates = _sorted(name for name, count in Counter(ids).items() if count > 1)
    empty = [part for part, names in split.parts.items() if not names]
    for fault, offending, code in (
        ("ids that are not in the cohort", unknown, "split-unknown-id"),
        ("ids more than once", duplicates, "split-duplicate-id"),
        ("empty parts", empty, "split-empty"),
    ):
        if offending:
            raise InputError(
                f"the split {split.name!r} holds {fault}: {_first_ids(offending)}",
                where=cohort.root,
                fix="make the split anew from this cohort",
                code=code,
            )
    places: dict[str, set[str]] = {}
    for part, names in split.parts.items():
        for name in names:
            places.setdefault(subjects[name], set()).add("train" if part == UNLABELLED else part)
    parted = _sorted(subject for subject, parts in places.items() if len(parts) > 1)
    if parted and not (split.leaky and allow_leaky):
        raise AuditError(
            f"{len(parted)} subjects of the split {split.name!r} are in more than one part: "
            + _first_ids(parted),
            where=cohort.root,
            fix="move all cases of a subject to one part, or leave some out: --exclude FILE, one "
            "id a line" + ("; or allow the leak by name" if split.leaky else ""),
            code="subject-in-two-parts",
        )


def _deal(
    cohort: Cohort,
    shares: Mapping[str, float],
    seed: int,
    structures: StructuresOfCase = _NO_STRUCTURES,
    first: Collection[str] = (),
) -> dict[str, tuple[str, ...]]:
    """Deal subjects to parts, each to the part that is then least overfull.

    Every subject is a vector: its cases in all, by class, by site, with a label, and by what they
    show. Subjects in ``first`` go to the first part. A part ``p``
    with share ``s_p`` that holds the vector ``h_p`` costs ``sum_f h_pf^2 / (s_p n_f)``, ``n`` being
    the cohort's vector; that is least where all parts hold their share of everything. With one
    feature this is the Sainte-Laguë rule of proportional seats. Large and rare subjects come first.
    """
    members: dict[str, list[Case]] = {}
    for case in cohort.cases:
        members.setdefault(case.subject, []).append(case)
    subjects = sorted(members)
    if len(subjects) < len(shares):
        raise InputError(
            f"expected at least {len(shares)} subjects to part, got {len(subjects)}",
            where=cohort.root,
            fix="give more subjects, or name them with a subject pattern or a table",
            code="too-few-subjects",
        )
    features = sorted({feature for case in cohort.cases for feature in _features(case, structures)})
    column = {feature: n for n, feature in enumerate(features)}
    vectors = np.zeros((len(subjects), len(features)))
    for row, subject in enumerate(subjects):
        for case in members[subject]:
            for feature in _features(case, structures):
                vectors[row, column[feature]] += 1
    share = np.array(list(shares.values()))[:, None]
    weight = 1 / vectors.sum(axis=0)
    dealt = np.zeros((len(shares), len(features)))
    order = np.random.default_rng(seed).permutation(len(subjects))
    order = order[np.argsort(-(vectors[order] ** 2 * weight).sum(axis=1), kind="stable")]
    order = np.array(sorted(order, key=lambda row: subjects[row] not in first))
    owner = np.zeros(len(subjects), dtype=int)
    for place, row in enumerate(order):
        vector = vectors[row]
        cost = ((2 * dealt * vector + vector**2) * weight / share).sum(axis=1)
        # The last subjects go to parts that would stay empty.
        empty = dealt[:, column[("all", "")]] == 0
        if empty.sum() >= len(order) - place:
            cost[~empty] = np.inf
        owner[row] = 0 if subjects[row] in first else int(cost.argmin())
        dealt[owner[row]] += vector
    return {
        part: _sorted(c.id for row, s in enumerate(subjects) if owner[row] == n for c in members[s])
        for n, part in enumerate(shares)
    }


def _features(case: Case, structures: StructuresOfCase) -> list[tuple[str, str]]:
    known = (
        ("class", case.class_name),
        ("site", case.site),
        ("label", "yes" if case.label else None),
    )
    structure_features = (("shows", structure) for structure in sorted(structures.get(case.id, ())))
    return [
        ("all", ""),
        *((kind, value) for kind, value in known if value is not None),
        *structure_features,
    ]


def _sorted(ids: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(ids)))


def _first_ids(ids: Iterable[str]) -> str:
    listed = list(ids)
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
