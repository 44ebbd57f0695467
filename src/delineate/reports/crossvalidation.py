"""The page of a cross-validation: out-of-fold figures, the folds side by side, the ensemble."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from delineate.reports import page
from delineate.reports._run_folder import Results, RunFolder
from delineate.reports.comparisons import Estimate, interval_bars
from delineate.reports.page import (
    Column,
    as_dict,
    as_list,
    as_number,
    block,
    duration,
    join,
    number,
    plural,
)

#: Of the summary of a cross-validation, what only it has.
KEY = "crossvalidation"
#: Charts of the folds; more figures stand in the table alone.
_CHARTS = 4
_COLUMNS = (
    Column("fold", "Fold"),
    Column("train", "Learned from", 0, "Cases"),
    Column("cases", "Judged", help="Cases that were judged, of those that the fold holds out"),
    Column("subjects", "Subjects", 0),
    Column("steps", "Steps", 0),
    Column("plan", "Width, patch, batch"),
    Column("time", "Time"),
)
_SPREAD = (
    Column("name", "Figure"),
    Column("min", "Least", 3),
    Column("max", "Most", 3),
    Column("sd", "SD", 3, "Standard deviation between folds"),
    Column("n", "Folds", 0),
)


def is_one(folder: Path) -> bool:
    """Whether a folder holds the figures of a cross-validation."""
    return bool(RunFolder.read(folder, Path()).summary.get(KEY))


def write(path: Path, folder: Path, show: Callable[[RunFolder], Results]) -> Path:
    """Write the page of a cross-validation.

    Args:
        path: The HTML file.
        folder: With ``summary.json`` and ``cases.csv`` of the out-of-fold predictions, and in
            ``test`` those of the ensemble on a declared test part, if there is one.
        show: Gives what is shown of scores.

    Returns:
        ``path``.

    Raises:
        OutputError: The file cannot be written.
    """
    run_folder = RunFolder.read(folder, Path())
    record = as_dict(run_folder.summary.get(KEY))
    run_folder.run = {
        "seconds": record.get("seconds"),
        "budget_seconds": record.get("budget_seconds"),
    }
    results, sentences, lead = show(run_folder)
    sections = [("Folds", _folds(record)), *results, ("The models", _models(record))]
    declared = RunFolder.read(folder, Path("test"))
    if declared.summary:
        sections.insert(-1, ("The ensemble on the declared test part", _declared(show(declared))))
    html = page.render(
        str(record.get("name") or folder.name),
        sections,
        kind="cross-validation",
        verdict=_verdict(record, sentences, run_folder),
        lead=lead,
    )
    return page.write(path, html)


def _verdict(record: Mapping[str, Any], sentences: Sequence[str], run_folder: RunFolder) -> str:
    folds = as_list(record.get("folds"))
    judged = sum(int(as_dict(fold).get("judged") or 0) for fold in folds)
    words = [
        f"{plural(len(folds), 'model')} were trained, each without one part of the subjects; "
        f"{plural(judged, 'case')} were judged once each, by the model that had not seen their "
        "subject.",
        *sentences,
        _spread(record),
    ]
    failed = [str(fold["fold"]) for fold in map(as_dict, folds) if fold.get("failure")]
    if failed:
        words.append(f"Without figures or cut short: fold {', '.join(failed)}.")
    if unjudged := as_list(record.get("unjudged")):
        words.append(f"{plural(len(unjudged), 'case')} could not be judged.")
    used, budget = (duration(run_folder.run.get(key)) for key in ("seconds", "budget_seconds"))
    if used:
        words.append(f"It took {used}" + (f" of a budget of {budget}." if budget else "."))
    return " ".join(filter(None, words))


def _spread(record: Mapping[str, Any]) -> str:
    """How far apart the folds are by their first figure; nothing where there is one alone."""
    spreads = as_dict(record.get("spread"))
    name = next(iter(spreads), "")
    spread = as_dict(spreads.get(name))
    if spread.get("n", 0) < 2:
        return ""
    return (
        f"Between {plural(spread['n'], 'fold')}, {name} goes from {number(spread['min'])} to "
        f"{number(spread['max'])} (SD {number(spread['sd'])})."
    )


def _folds(record: Mapping[str, Any]) -> Markup:
    folds = [as_dict(fold) for fold in as_list(record.get("folds"))]
    names = list(dict.fromkeys(name for fold in folds for name in as_dict(fold.get("figures"))))
    rows = [_row(fold) for fold in folds]
    columns = [*_COLUMNS, *(Column(f"figure {name}", name, 3) for name in names)]
    parts = [page.table("Folds", columns, rows, sortable=False)]
    parts += [
        block("note", f"Fold {fold['fold']}: {words}", "warning")
        for fold in folds
        for words in (fold.get("failure"), fold.get("trained"))
        if words
    ]
    spreads = [
        {"name": name, **as_dict(spread)} for name, spread in as_dict(record.get("spread")).items()
    ]
    parts.append(page.table("Between the folds", _SPREAD, spreads, sortable=False))
    charts = [_chart(name, folds) for name in names[:_CHARTS]]
    parts.append(block("pictures", charts, True) if charts else block("missing", "Figures"))
    parts.append(
        block(
            "text",
            "The figures on top and below are of all cases together, each judged once; their "
            "intervals are over subjects. Folds differ by what they learned from and by whom they "
            "judge. Models that share most of their training cases are not independent: the "
            "spread of a few folds is no interval.",
        )
    )
    plans = {row["plan"] for row in rows if row["plan"]}
    if len(plans) > 1:
        words = "The folds measured the machine apart and did not all choose the same plan."
        parts.append(block("note", f"{words} Fix width, patch and batch by --config.", "note"))
    if unjudged := as_list(record.get("unjudged")):
        words = f"Not judged, for want of time or because a fold failed ({len(unjudged)})"
        parts.append(block("fold", words, block("bullets", unjudged)))
    return join(*parts)


def _row(fold: Mapping[str, Any]) -> dict[str, Any]:
    patch = " \N{MULTIPLICATION SIGN} ".join(map(str, as_list(fold.get("patch"))))
    plan = ", ".join(
        str(setting) for setting in (fold.get("width"), patch, fold.get("batch")) if setting
    )
    figures = as_dict(fold.get("figures"))
    return {
        "fold": str(fold.get("fold")),
        "train": fold.get("train"),
        "cases": f"{fold.get('judged')} of {fold.get('test')}",
        "subjects": fold.get("subjects"),
        "steps": fold.get("steps"),
        "plan": plan,
        "time": duration(fold.get("seconds")),
        **{f"figure {name}": as_dict(figure).get("value") for name, figure in figures.items()},
    }


def _chart(name: str, folds: Sequence[Mapping[str, Any]]) -> Any:
    bars = []
    for fold in folds:
        figure = as_dict(as_dict(fold.get("figures")).get(name))
        if (value := as_number(figure.get("value"))) is not None:
            low, high = as_number(figure.get("low")), as_number(figure.get("high"))
            bars.append(Estimate(f"fold {fold['fold']}", value, low, high))
    return interval_bars(bars, f"{name} of each fold")


def _declared(figures: Results) -> Markup:
    """Figures of the ensemble on cases that the data keep for testing."""
    results, sentences, lead = figures
    words = (
        "The data declare these cases for testing: no fold learned from them, chose by them or is "
        "judged on them. The models of all folds outline or name them together, as an ensemble. "
    )
    return join(block("text", words + " ".join(sentences)), lead, results[0][1])


def _models(record: Mapping[str, Any]) -> Markup:
    n_models = len(as_list(record.get("folds")))
    return join(
        block(
            "text",
            f"delineate predict {record.get('name') or 'FOLDER'} SCANS uses the models together, "
            "as an ensemble, which is usually a little better than each of them.",
        ),
        block(
            "note",
            f"Every labelled case but those of a declared test part taught {n_models - 1} of the "
            f"{n_models} models, so the ensemble has seen it: figures of the ensemble on such "
            "cases would flatter it. The honest figures of these models are the out-of-fold ones "
            "above.",
            "warning",
        ),
    )
