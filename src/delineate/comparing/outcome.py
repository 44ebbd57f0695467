"""What comes out of a cross-validation: one table of all cases, the ensemble, a page, and words."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from delineate import targets
from delineate.comparing import out_of_fold
from delineate.comparing.out_of_fold import Fold
from delineate.core import run
from delineate.core.atomic import atomic_write_text
from delineate.core.errors import DelineateError, PartialError
from delineate.core.tables import document, plain
from delineate.data.cohort import Cohort
from delineate.engine.allowance import REPORT_SECONDS, Clock, Costs
from delineate.reports import crossvalidation as page
from delineate.settings import RunConfig
from delineate.training import held_out
from delineate.training.job import Invocation
from delineate.training.resolving import part_words

#: Masks of all cases, each by the model that has not seen its subject.
PREDICTIONS = "predictions"


def publish(
    done: Sequence[Fold],
    plan: Mapping[str, Any],
    chosen: RunConfig,
    cohort: Cohort,
    out: Path,
    invocation: Invocation,
) -> dict[str, Any]:
    """Merge, score, report, and say what there is.

    Args:
        done: All folds, whatever became of them.
        plan: Of the cross-validation.
        chosen: Settings, as they were asked for.
        cohort: All cases that take part.
        out: Folder of everything.
        invocation: How the command was called.

    Returns:
        The content of ``summary.json``.

    Raises:
        DelineateError: No fold came so far that anything could be judged.
        PartialError: Something is missing; all else is written.
    """
    say = invocation.say

    def spent() -> float:
        return float(plan["seconds"]) + time.monotonic() - invocation.started

    troubles = [f"{fold.name}: {fold.failure}" for fold in done if fold.failure]
    troubles += _score(done, troubles, chosen, out, invocation)
    facts = out_of_fold.describe(done)
    if spread := out_of_fold.spread_line(facts):
        say(spread)
    if lost := facts["unjudged"]:
        say(f"{len(lost)} cases are not judged yet: the same command goes on with them")
    seconds = plan["testing_seconds"]
    if seconds is not None:  # and what the folds left of theirs
        seconds = max(seconds, (chosen.seconds or 0.0) - spent() - REPORT_SECONDS)
    declared = _score_declared(done, chosen, cohort, seconds, out / "test", invocation)
    troubles += [declared["failure"]] if declared and declared["failure"] else []
    facts |= {
        "declared_test": declared,
        "name": out.resolve().name,
        "seconds": round(spent(), 1),
        "budget_seconds": chosen.seconds,
    }
    summary = {**(run.read_json(out / "summary.json") or {}), page.KEY: plain(facts)}
    atomic_write_text(out / "summary.json", document(summary))
    say(f"report: {page.write(out / 'report.html', out, targets.results)}")
    words = " ".join([f"delineate predict {out} SCANS", *part_words(chosen)])
    say(
        f"{sum(fold.trained for fold in done)} models: {words} uses them "
        "together. Every case above taught all of them but one, so that the figures above are the "
        "honest ones, not those of the ensemble on these cases"
    )
    if troubles:
        raise PartialError(
            "not all of the cross-validation came to its end:"
            + "".join(f"\n  {trouble}" for trouble in troubles),
            where=out,
            fix="what there is was merged and scored; the same command goes on with the others",
        )
    return summary


def _score(
    done: Sequence[Fold],
    troubles: Sequence[str],
    chosen: RunConfig,
    out: Path,
    invocation: Invocation,
) -> list[str]:
    """Merge the predictions of all folds and score them as one; what went wrong with cases.

    Raises:
        DelineateError: There are none.
    """
    if out_of_fold.merge(done, out / PREDICTIONS) is None:
        raise DelineateError(
            f"none of {len(done)} folds has figures"
            + "".join(f"\n  {trouble}" for trouble in troubles),
            where=out,
            fix="the logs beside the folds' folders say why; the same command goes on",
            code="all-failed",
        )

    def figures(line: str) -> None:
        if not line.startswith("scores:"):  # the page of the predictions alone
            invocation.say(line)

    failures = []
    try:
        targets.score_predictions(
            out / PREDICTIONS, invocation.source, out, chosen.opening,
            say=figures, progress=invocation.progress,
        )  # fmt: skip
    except PartialError as error:
        failures = [error.message]
    (out / "report.html").replace(out / "evaluation.html")
    return failures


def _score_declared(
    done: Sequence[Fold],
    chosen: RunConfig,
    cohort: Cohort,
    seconds: float | None,
    out: Path,
    invocation: Invocation,
) -> dict[str, Any] | None:
    """Score the models together on the part that the data declare for testing.

    Args:
        done: All folds; those that were trained to their end take part.
        chosen: Settings of any fold.
        cohort: All cases.
        seconds: That it may take; None: as long as it takes.
        out: For predictions and scores.
        invocation: How the command was called.

    Returns:
        How many of its cases are scored, of how many; None where there is no such part.
    """
    usable = targets.of(chosen).usable(cohort).labelled
    tested = [case.id for case in usable.cases if case.split == "test"]
    models = [fold.model for fold in done if fold.trained]
    if not tested or not models:
        return None
    groups = held_out.subjects(usable, tested, chosen.seed)
    clock = Clock(seconds, time.monotonic())
    invocation.say(f"the {len(models)} models together on the declared test part:")
    _, scored, failure = held_out.score(
        models, invocation.source, out, chosen.opening,
        [name for group in groups for name in group], device=chosen.device,
        enough=held_out.Enough(groups, lambda: clock.left, Costs()),
        say=invocation.say, progress=invocation.progress,
    )  # fmt: skip
    if len(scored) < len(tested):
        invocation.say(f"figures are of {len(scored)} of {len(tested)} cases declared for testing")
    return {
        "cases": len(scored),
        "of": len(tested),
        "failure": None if failure is None else failure.message,
    }
