"""The plan of a cross-validation: who is judged in which fold, what each may spend, its settings.

The plan is written before the first fold begins (``crossvalidation.json``), so that the same
command goes on with it, and another one is refused.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delineate import targets
from delineate.comparing.compute import CROWDED
from delineate.core import config, run
from delineate.core.case import Case
from delineate.core.errors import ConfigError, InputError, OutputError
from delineate.core.progress import Progress, Say
from delineate.core.threads import cores
from delineate.data.cohort import Cohort
from delineate.data.splits import Split, check, describe_declared
from delineate.engine.allowance import REPORT_SECONDS
from delineate.engine.budget import MODEST_STEPS
from delineate.inference.runtimes.torch import choose_device
from delineate.settings import RunConfig
from delineate.training.job import Invocation, Job
from delineate.training.preflight import Estimate

PLAN = "crossvalidation.json"
_MODEL = "model.safetensors"
#: Processor cores that a fold can use well; with fewer, folds come one after another.
_CORES_A_FOLD = 8
#: The machine may become busier, and cases differ.
_SLACK = 1.2
#: A fold tries some cases itself, and must not find its share too small.
_MARGIN = 1.25
#: Share of the budget for a declared test part: the models that predict it together will be larger
#: than the one that was tried.
_TESTING = 0.1


# --- what is asked --------------------------------------------------------------------------------


def asked(chosen: RunConfig, hashes: Mapping[str, str]) -> dict[str, Any]:
    """Everything that decides what comes out.

    Args:
        chosen: Settings, with the number of folds.
        hashes: Of what a run depends on but its settings, see ``training.run.hashes``.
    """
    plain: dict[str, Any] = json.loads(
        json.dumps({"settings": config.to_dict(chosen), "hashes": dict(hashes)})
    )
    return plain


def forget_unbegun(out: Path) -> None:
    """Drop a plan by which nothing was learnt yet: the next one may be another."""
    plan = run.read_json(out / PLAN) or {"folds": 0}
    folders = [out / f"fold-{number}" for number in range(plan["folds"])]
    if not any((folder / name).exists() for folder in folders for name in ("checkpoints", _MODEL)):
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        (out / PLAN).unlink(missing_ok=True)


def resume(out: Path, request: Mapping[str, Any]) -> dict[str, Any] | None:
    """The plan of the cross-validation in a folder, None where there is none yet.

    Raises:
        OutputError: It is another one.
    """
    plan = run.read_json(out / PLAN)
    if plan is None:
        return None
    before: Mapping[str, Any] = plan["asked"]
    if before == request:
        return plan
    earlier = before["settings"]
    names = [name for name, value in request["settings"].items() if value != earlier.get(name)]
    other = f"other settings ({', '.join(names)})" if names else "other data"
    raise OutputError(
        f"expected the settings and data of the cross-validation in this folder, got {other}",
        where=out / PLAN,
        fix="give the same command to go on, or choose another --out",
        code="crossvalidation-differs",
    )


def require_subjects(chosen: RunConfig, cohort: Cohort) -> None:
    """Refuse more folds than there are subjects to judge.

    Raises:
        InputError: The most that would do is named.
    """
    usable = targets.of(chosen).usable(cohort).labelled
    subjects = {case.subject for case in dealt(usable)}
    folds = chosen.folds or 0
    if folds <= len(subjects):
        return
    declared = len(dealt(usable)) < len(usable)
    validates = bool(chosen.validation) and not any(c.split == "validation" for c in usable.cases)
    most = len(subjects) if len(subjects) >= 2 + validates else 0
    raise InputError(
        f"expected at least as many labelled subjects as folds, got {len(subjects)} subjects for "
        f"{folds} folds" + ", those declared for other parts left out" * declared,
        where=cohort.root,
        fix=f"--folds {most} is the most that would do" if most else "add subjects",
        code="too-few-subjects",
    )


def dealt(usable: Cohort) -> list[Case]:
    """The cases that are dealt to folds: all that the data do not declare for another part."""
    return [case for case in usable.cases if case.split not in ("validation", "test")]


# --- what each may spend --------------------------------------------------------------------------


@dataclass(frozen=True)
class Need:
    """Seconds that a cross-validation needs at least.

    Args:
        before: Up to the first fold: start, audit, preparation.
        fold: A fold at least.
        better: A fold that is worth more.
        rounds: Folds one after another.
        merging: Figures of all cases.
        testing: Predictions and figures of a declared test part.
    """

    before: float
    fold: float
    better: float
    rounds: int
    merging: float
    testing: float = 0.0

    @property
    def after(self) -> float:
        """All that follows the folds."""
        return self.merging + self.testing

    @property
    def least(self) -> int:
        """Of everything."""
        return 5 * math.ceil((self.before + self.rounds * self.fold + self.after) / 5)

    def share(self, left: float) -> int:
        """Whole seconds of a fold, where so many are left for folds and figures."""
        return math.floor((left - self.after) / self.rounds)

    def require(self, budget: float, folds: int) -> None:
        """Refuse a budget that is too small for all folds.

        Raises:
            ConfigError: The least that would do is named.
        """
        if budget >= self.least:
            return
        better = self.least + self.rounds * (self.better - self.fold)
        raise ConfigError(
            f"expected a budget of at least {self.least} s for {folds} folds of this cohort on "
            f"this machine, got {budget:.0f} s (before the folds {self.before:.0f} s, a fold "
            f"{self.fold:.0f} s, {self.rounds} one after another, figures of all "
            f"{self.after:.0f} s)",
            where="budget",
            fix=f"give --budget {self.least}s, or better --budget {math.ceil(better / 60)}m and "
            "more, or fewer --folds, or --steps",
            code="budget-too-small",
        )


def need(estimate: Estimate, cohort: Cohort, chosen: RunConfig, jobs: int) -> Need:
    """What a cross-validation needs, from what some cases took.

    Args:
        estimate: Of a fold.
        cohort: All cases.
        chosen: Settings, with the number of folds.
        jobs: Folds at the same time.
    """
    folds = chosen.folds or 1
    usable = targets.of(chosen).usable(cohort).labelled
    tested = sum(case.split == "test" for case in usable.cases)
    crowd = CROWDED if jobs > 1 else 1.0
    # each fold comes upon a cohort that is audited and prepared
    alone = dataclasses.replace(
        estimate, audit=0.0, preparation=0.0, step=crowd * estimate.step,
        measuring=crowd * estimate.measuring,
    )  # fmt: skip
    costs = estimate.costs
    together = folds * costs.network + costs.reading + costs.scoring
    testing = max(_TESTING * (chosen.seconds or 0.0), _SLACK * tested * together + REPORT_SECONDS)
    return Need(
        before=_SLACK * (estimate.start + estimate.audit + estimate.preparation),
        fold=_MARGIN * alone.least,
        better=_MARGIN * alone.least + 5 * MODEST_STEPS * alone.step,
        rounds=math.ceil(folds / jobs),
        merging=_SLACK * len(dealt(usable)) * costs.scoring + REPORT_SECONDS,
        testing=testing if tested else 0.0,
    )


def jobs_and_threads(chosen: RunConfig, jobs: int | None) -> tuple[int, int | None]:
    """Folds at the same time, and processor cores of each (None: all).

    Args:
        chosen: Settings, with the number of folds.
        jobs: Folds at the same time, None where nobody said.

    Raises:
        ConfigError: Fewer than one.
    """
    if jobs is not None and jobs < 1:
        raise ConfigError(f"expected one fold at a time or more, got {jobs}", where="--jobs")
    cpu = choose_device(chosen.device).type == "cpu"
    jobs = jobs or (max(1, cores() // _CORES_A_FOLD) if cpu else 1)
    jobs = min(jobs, chosen.folds or 1)
    if not cpu or jobs == 1 or chosen.threads is not None:
        return jobs, chosen.threads
    return jobs, max(1, cores() // jobs)


# --- the folds ------------------------------------------------------------------------------------


def settings(chosen: RunConfig, fold: int, seconds: int | None, threads: int | None) -> RunConfig:
    """Everything that decides one fold; the audit and what it leaves out are settled before."""
    return dataclasses.replace(
        chosen,
        fold=fold,
        threads=threads,
        drop_duplicates=False,
        budget=chosen.budget if seconds is None else f"{seconds}s",
    )


def prepare(
    chosen: RunConfig,
    cohort: Cohort,
    out: Path,
    invocation: Invocation,
    say: Say,
    progress: Progress,
) -> list[Split]:
    """Deal the subjects to folds and prepare the cases, once where folds prepare them alike.

    The preparation is planned on each fold's own training cases.

    Args:
        chosen: Settings of any fold.
        cohort: All cases that take part.
        out: Folder of the cross-validation.
        invocation: Of the folds; what it is told, each fold tells again.
        say: Told of the split.
        progress: Shows how far it is.

    Raises:
        AuditError: A subject of the declared test part among the others.
        InputError: A class, or a part, that some fold would have none of.
        DelineateError: Cases that cannot be prepared.
    """
    usable = targets.of(chosen).usable(cohort).labelled
    folds, scratch = chosen.folds or 1, out / "preparing"
    for line in describe_declared(cohort, usable, folds):
        say(line)
    _require_test_apart(usable, chosen.leaky)
    splits: list[Split] = []
    notes: dict[str, list[int]] = {}
    for fold in progress.track(range(folds), "preparing the cases of every fold", folds):
        shutil.rmtree(scratch, ignore_errors=True)  # of a command that was killed
        scratch.mkdir()
        record: dict[str, Any] = {"hashes": {}}
        job = Job(dataclasses.replace(chosen, fold=fold), cohort, scratch, record, invocation)
        split, _ = job.ready(out / "cache")
        splits.append(split)
        for note in record["split_notes"]:
            notes.setdefault(note, []).append(fold)
    shutil.rmtree(scratch, ignore_errors=True)
    for note, those in notes.items():
        say(f"{'every fold' if len(those) == folds else f'fold {_listed(those)}'}: {note}")
    _require_partition(splits, {case.id for case in dealt(usable)}, cohort)
    return splits


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _require_test_apart(usable: Cohort, leaky: bool) -> None:
    """A declared test part shares no subject with the folds.

    Raises:
        AuditError: It does.
    """
    tested = tuple(case.id for case in usable.cases if case.split == "test")
    if tested:
        others = tuple(case.id for case in usable.cases if case.split != "test")
        split = Split("declared", 0, {"folds": others, "test": tested}, leaky)
        check(usable, split, allow_leaky=leaky)


def _require_partition(splits: Sequence[Split], cases: set[str], cohort: Cohort) -> None:
    """Every case is judged in one fold and in no other, by a model that has not seen its subject.

    Raises:
        InputError: It is not so.
    """
    judged = [name for split in splits for name in split["test"]]
    if len(judged) != len(set(judged)) or set(judged) != cases:
        raise InputError(
            f"expected each of {len(cases)} cases to be judged in one fold, got {len(judged)} "
            f"judgements of {len(set(judged))} cases",
            where=cohort.root,
            code="folds-overlap",
        )
