"""Figures of the held-out cases, as any user would get them, within the time that is left."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from delineate.core import run
from delineate.core.errors import PartialError
from delineate.core.progress import Progress, Say
from delineate.data.cohort import Cohort
from delineate.data.opening import Opening
from delineate.data.outputs import INDEX
from delineate.engine.allowance import Costs
from delineate.inference.options import Options
from delineate.predicting.batch import predict_batch
from delineate.targets import score_predictions

#: Scoring takes longer than measured where a network that knows little outlines much.
_SLACK = 1.5
#: How a data set is opened for its labels, which predictions do not need.
_OF_LABELS = ("class_column", "ignore_label")


def subjects(cohort: Cohort, ids: Sequence[str], seed: int) -> list[list[str]]:
    """The ids of every subject, subjects in an order that the seed draws: its start is a sample."""
    ids_of_subject: dict[str, list[str]] = {}
    for case in cohort.subset(sorted(ids)).cases:
        ids_of_subject.setdefault(case.subject, []).append(case.id)
    names = sorted(ids_of_subject)
    return [
        ids_of_subject[names[k]]
        for k in np.random.default_rng((seed, 0x5C0)).permutation(len(names))
    ]


def affordable(groups: Sequence[Sequence[str]], seconds: float, costs: Costs) -> int:
    """How many subjects ``seconds`` are enough for, one at least."""
    ends = np.cumsum([len(group) for group in groups])
    return max(1, int(np.count_nonzero(ends * costs.whole <= seconds)))


@dataclass
class Enough:
    """Whether the time is up. A subject is begun if it can be finished, and given up if it cannot.

    Args:
        groups: Cases of every subject, in the order in which they come.
        left: Seconds that are left for figures now.
        costs: Of a case, as measured before the first.
        now: Seconds that never run backwards.
    """

    groups: Sequence[Sequence[str]]
    left: Callable[[], float]
    costs: Costs
    now: Callable[[], float] = time.monotonic
    asked: int = 0
    started: float = 0.0

    def __call__(self, share: float) -> bool:
        """Told the share of the present case that is done."""
        if share > 0:
            return self.left() <= 0
        done, self.asked = self.asked, self.asked + 1
        if done == 0:
            self.started = self.now()
            return False
        ends = np.cumsum([0, *(len(group) for group in self.groups)])
        if done not in ends[:-1]:
            return False
        due = int(ends[ends.tolist().index(done) + 1])
        case = (self.now() - self.started) / done
        return case * (due - done) + _SLACK * self.costs.scoring * due > self.left()


def score(
    models: Sequence[Path],
    source: Path,
    folder: Path,
    opening: Opening,
    ids: Sequence[str],
    *,
    device: str,
    enough: Callable[[float], bool],
    say: Say,
    progress: Progress,
) -> tuple[dict[str, Any], list[str], PartialError | None]:
    """Predict and evaluate cases.

    Args:
        models: Model files; several predict together.
        source: Data set.
        folder: For predictions and scores.
        opening: How the data set is opened.
        ids: Cases, in the order in which they are predicted.
        device: To predict on.
        enough: See ``predict``.
        say: Told what a person should know.
        progress: Shows how far it is.

    Returns:
        The summary of ``evaluate``, the ids that were predicted, and what went wrong with others.
    """

    def figures(line: str) -> None:
        if "--observer" not in line:  # said when the data were opened
            say(line)

    failure: PartialError | None = None
    try:
        predict_batch(
            models, source, folder / "predictions", opening.without_labels(),
            Options(overwrite=True, force=True, device=device),
            only=ids, enough=enough, progress=progress,
        )  # fmt: skip
    except PartialError as error:  # the others count
        failure = error
    index = run.read_json(folder / "predictions" / INDEX) or {}
    if not index.get("cases"):  # there was no time for any
        return {}, [], failure
    try:
        score_predictions(
            folder / "predictions", source, folder, opening, say=figures, progress=progress
        )
    except PartialError as error:
        failure = failure or error
    summary = run.read_json(folder / "summary.json") or {}
    done = [case["id"] for case in index["cases"] if not case.get("error")]
    return summary, done, failure


def commands(
    model: Path, source: Path, opening: Opening, ids: Sequence[str], parts: Sequence[str] = ()
) -> tuple[str, str]:
    """What scores all held-out cases once there is time; ``parts`` are options of both commands."""
    options = {k: f"--{k.replace('_', '-')}={v}" for k, v in opening.non_default()}
    shared = [option for k, option in options.items() if k not in _OF_LABELS]
    masks = model.parent / "held-out"
    predict = ["delineate", "predict", str(model), str(source), "--out", str(masks), *shared]
    evaluate = ["delineate", "evaluate", str(masks), str(source), "--out", f"{masks}-scores"]
    predict, evaluate = [*predict, *parts], [*evaluate, *parts]
    return shlex.join([*predict, "--only", *ids]), shlex.join([*evaluate, *options.values()])
