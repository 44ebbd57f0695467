"""Cases that a fold had no time for are judged afterwards, by its model and as it would have."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

from delineate.comparing.out_of_fold import Fold, copied
from delineate.core import run
from delineate.core.errors import DelineateError, OutputError, PartialError
from delineate.core.progress import Progress
from delineate.data.opening import Opening
from delineate.data.outputs import INDEX
from delineate.inference.options import Options
from delineate.predicting import predictions_json
from delineate.predicting.batch import predict_batch
from delineate.reports import training as page
from delineate.targets import results, score_predictions


def judge(
    fold: Fold,
    source: Path,
    opening: Opening,
    device: str,
    enough: Callable[[float], bool],
    progress: Progress,
) -> None:
    """Predict the cases that a fold has left, and score it anew with them.

    Args:
        fold: One that was trained to its end.
        source: Data set.
        opening: How it is opened.
        device: To predict on.
        enough: See ``predict``.
        progress: Shows how far it is.
    """
    rest, validation = fold.folder / "rest", fold.predictions.parent
    shutil.rmtree(rest, ignore_errors=True)  # of a command that was stopped
    try:
        predict_batch(
            [fold.model], source, rest, opening.without_labels(),
            Options(overwrite=True, force=True, device=device),
            only=fold.unjudged, enough=enough, progress=progress,
        )  # fmt: skip
    except OutputError:
        raise
    except DelineateError:  # the index has the fault of every case
        if not (rest / INDEX).is_file():
            raise
    _join(fold, rest)
    shutil.rmtree(rest, ignore_errors=True)
    if not (index := fold.index()).get("cases"):
        return
    with contextlib.suppress(PartialError):  # told where all folds are scored
        score_predictions(fold.predictions, source, validation, opening, progress=progress)
    done = sum(not case.get("error") for case in index["cases"])
    record = {**fold.record, "scored": {"cases": done, "of": len(fold.split["test"])}}
    run.write_json(fold.folder / "run.json", record)
    page.write(fold.folder / "report.html", fold.folder, results)


def _join(fold: Fold, rest: Path) -> None:
    """Move predictions to those that the fold has; cases keep the order in which they came."""
    more = run.read_json(rest / INDEX) or {}
    index = fold.index() or {**more, "cases": []}
    fold.predictions.mkdir(parents=True, exist_ok=True)
    taken = {str(path.relative_to(fold.predictions)).casefold()
             for path in fold.predictions.rglob("*")}  # fmt: skip
    for record in more.get("cases", ()):
        files = {
            kind: copied(named, rest, fold.predictions, taken, "rest")
            for kind, named in record["files"].items()
        }
        index["cases"].append({**record, "files": files})
    index["only"] = [record["id"] for record in index["cases"]]
    index["left_out"] = [name for name in fold.split["test"] if name not in index["only"]]
    predictions_json.write(fold.predictions, {**index, "finished": True})
