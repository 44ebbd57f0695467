"""The page of a classifier: figures with intervals, curves, trust and the worst mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from delineate.reports import _class_charts as charts
from delineate.reports import page
from delineate.reports._run_folder import Results, RunFolder
from delineate.reports.figures import Picture
from delineate.reports.page import (
    Column,
    Section,
    as_dict,
    as_list,
    as_number,
    block,
    join,
    number,
    percent,
    plural,
)

Row = Mapping[str, Any]

#: Key of the summary, and what a table calls it.
_FIGURES = (
    ("accuracy", "Accuracy"),
    ("balanced_accuracy", "Balanced accuracy (recall, averaged over classes)"),
    ("precision_macro", "Precision, averaged over classes"),
    ("specificity_macro", "Specificity, averaged over classes"),
    ("f1_macro", "F1, averaged over classes"),
    ("mcc", "Matthews' correlation"),
    ("kappa", "Cohen's kappa"),
    ("roc_auc", "Area under ROC"),
    ("average_precision", "Average precision"),
    ("sensitivity_at_specificity", "Sensitivity at specificity"),
    ("ece", "Calibration error (less is better)"),
    ("brier", "Brier score (less is better)"),
    ("log_loss", "Log loss (less is better)"),
    ("aurc", "Area under risk–coverage (less is better)"),
)
_OF_CLASS = (
    ("recall", "Recall (sensitivity)"),
    ("precision", "Precision"),
    ("specificity", "Specificity"),
    ("f1", "F1"),
    ("roc_auc", "Area under ROC"),
)
_COUNTS = {"n": "Samples", "n_subjects": "Subjects", "n_answered": "Answered"}
_OF_LEVEL = (
    ("accuracy", "Accuracy"),
    ("balanced_accuracy", "Balanced accuracy"),
    ("roc_auc", "Area under ROC"),
)
#: A page shows at most so many samples; the tables beside it have all.
_MOST_ROWS = 500


def write(
    path: Path,
    summary: Mapping[str, Any],
    rows: Sequence[Row],
    images: Sequence[Mapping[str, Any]] = (),
    *,
    title: str = "Classification",
) -> Path:
    """Write the page of a classifier.

    Args:
        path: The HTML file.
        summary: ``classes``, ``unit``, ``figures``, ``levels``, ``notes``, ``rules``, ``settings``
            and ``versions``, as scoring writes them.
        rows: One dictionary a sample: ``case``, ``subject``, ``slice`` (or None), ``truth``,
            ``answer``, ``right``, ``confidence``, ``probabilities`` (class -> probability).
        images: The worst mistakes: ``row`` (one of ``rows``), ``image`` (``(I, J)`` or
            ``(C, I, J)``, rows downwards, or None) and, of a volume, which ``slice`` it is.
        title: Heading of the page.

    Returns:
        ``path``.

    Raises:
        OutputError: The file cannot be written.
        GeometryError: An image is not flat.
    """
    html = page.render(
        title,
        sections(summary, rows, images),
        kind="classification",
        verdict=" ".join(verdict(summary)) or "There are no scored cases to report.",
        lead=tiles(summary),
    )
    return page.write(path, html)


def verdict(summary: Mapping[str, Any]) -> list[str]:
    """The headline in plain sentences."""
    figures = as_dict(summary.get("figures"))
    if _value(figures, "accuracy") is None:
        return []
    subjects = int(figures.get("n_subjects") or 0)
    words = (
        f"On {plural(subjects, 'held-out subject')} the balanced accuracy over "
        f"{plural(len(as_list(summary.get('classes'))), 'class', 'classes')} is "
        f"{percent(_value(figures, 'balanced_accuracy'), 1)}"
    )
    if interval := _percents(figures, "balanced_accuracy"):
        words += f" (95\N{NO-BREAK SPACE}% interval {interval})"
    majority = as_dict(figures.get("majority"))
    sentences = [
        f"{words} and the accuracy {percent(_value(figures, 'accuracy'), 1)}.",
        f"{_always(majority)} would have {percent(majority.get('balanced_accuracy'), 1)} and "
        f"{percent(majority.get('accuracy'), 1)}.",
    ]
    if unscored := len(as_list(summary.get("failures"))):
        sentences.append(f"{plural(unscored, 'case')} could not be scored.")
    if subjects < 10:
        sentences.append("So few subjects allow no firm conclusion.")
    return sentences


def tiles(summary: Mapping[str, Any]) -> Markup:
    """The headline as tiles."""
    figures = as_dict(summary.get("figures"))
    unit = str(summary.get("unit") or "sample")
    positive = figures.get("positive")
    area = _interval(figures, "roc_auc", " to ")
    chance = as_number(as_dict(figures.get("ece_by_chance")).get("mean"))
    return block(
        "tiles",
        [
            ("Balanced accuracy", percent(_value(figures, "balanced_accuracy"), 1),
             _percents(figures, "balanced_accuracy", "95\N{NO-BREAK SPACE}%: ")),
            ("Accuracy", percent(_value(figures, "accuracy"), 1),
             _percents(figures, "accuracy", "95\N{NO-BREAK SPACE}%: ")),
            (f"Area under ROC, {positive}" if positive else "Area under ROC, averaged",
             number(_value(figures, "roc_auc")),
             area and f"95\N{NO-BREAK SPACE}%: {area}"),
            ("Calibration error", number(_value(figures, "ece")),
             "" if chance is None else f"by chance alone: {number(chance)}"),
            ("Held out", number(figures.get("n_subjects"), 0),
             f"subjects, {plural(figures.get('n_samples') or 0, unit)}"),
        ],
    )  # fmt: skip


def sections(
    summary: Mapping[str, Any], rows: Sequence[Row], images: Sequence[Mapping[str, Any]]
) -> list[Section]:
    """Results, confusion, ranking, trust, mistakes, every sample, and how it was scored."""
    figures = as_dict(summary.get("figures"))
    return [
        ("Results", _results(summary, figures)),
        ("Ranking", _charts((charts.roc(figures), charts.precision_recall(figures)), _RANKING)),
        ("Trust", _trust(figures)),
        ("Worst mistakes", _mistakes(images, rows)),
        ("Every answer", _answers(summary, rows)),
        ("Scoring", _method(summary)),
    ]


_RANKING = (
    "How well the probabilities put the samples of a class before the others, whatever the "
    "threshold. Precision depends on how common the class is; the ROC curve does not."
)


def results(folder: RunFolder) -> Results:
    """What the report of a run shows of the classes of held-out cases."""
    sections_of_page = sections(folder.summary, [_answer(row) for row in folder.cases], [])
    without_mistakes = [
        section for section in sections_of_page if section[0] != "Worst mistakes"
    ]  # their pictures: validation/
    return without_mistakes, verdict(folder.summary), tiles(folder.summary)


def _answer(row: Mapping[str, str]) -> dict[str, Any]:
    """A line of ``cases.csv`` as the page wants it."""
    return {
        **row,
        "right": row.get("right") == "yes",
        "confidence": as_number(row.get("confidence")),
        "probabilities": {},
    }


def _results(summary: Mapping[str, Any], figures: Mapping[str, Any]) -> Markup:
    if not figures:
        return block("missing", "Figures")
    parts = [block("note", str(words), "note") for words in as_list(summary.get("notes"))]
    classes = [str(name) for name in as_list(summary.get("classes"))]
    lines = [
        (row.get("class"), [*(_cell(row, key) for key, _ in _OF_CLASS),
                            *(_words(number(row.get(k), 0)) for k in _COUNTS)])
        for row in as_list(figures.get("per_class"))
    ]  # fmt: skip
    heads = ["Class", *(label for _, label in _OF_CLASS), *_COUNTS.values()]
    matrix = charts.confusion(as_list(figures.get("confusion")), classes)
    parts += [
        block("standings", "Figures by class", heads, lines, []),
        block("pictures", [matrix], True) if matrix else _matrix(figures, classes),
        block("subheading", "Over all classes"),
        _overall(figures),
    ]
    if levels := as_dict(summary.get("levels")):
        by_level = {str(summary.get("unit")): figures, **levels}
        parts += [
            block("subheading", "By slice, case and subject"),
            block(
                "standings",
                "Figures by level",
                ["Level", *(label for _, label in _OF_LEVEL), "Samples"],
                [
                    (f"By {name}", [*(_cell(level, key) for key, _ in _OF_LEVEL),
                                    _words(number(level.get("n_samples"), 0))])
                    for name in ("slice", "case", "subject")
                    if (level := as_dict(by_level.get(name)))
                ],
                [],
            ),
            block(
                "text",
                "A case's probability is the mean over its slices, a subject's the mean over its "
                "cases; every interval is over subjects.",
            ),
        ]  # fmt: skip
    return join(*parts)


def _overall(figures: Mapping[str, Any]) -> Markup:
    majority = as_dict(figures.get("majority"))
    lines = []
    for key, label in _FIGURES:
        if key == "sensitivity_at_specificity":
            label += f" {number(figures.get('specificity'), 2)}"
        lines.append((label, [_cell(figures, key), _words(number(majority.get(key)))]))
    heads = ["Figure", "Value, 95\N{NO-BREAK SPACE}% interval", _always(majority)]
    return block("standings", "Figures over all classes", heads, lines, [])


def _always(majority: Mapping[str, Any]) -> str:
    quoted = f"\N{LEFT DOUBLE QUOTATION MARK}{majority.get('class')}\N{RIGHT DOUBLE QUOTATION MARK}"
    return f"Always answering {quoted}"


def _cell(figures: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A cell of a table: the value, and its interval in small letters."""
    interval = _interval(figures, key)
    return _words(number(_value(figures, key)), *([interval] if interval else []))


def _words(value: str, *small: str) -> dict[str, Any]:
    return {"value": value, "small": small, "best": False}


def _trust(figures: Mapping[str, Any]) -> Markup:
    chance = as_dict(figures.get("ece_by_chance"))
    calibration = ""
    error, high = _value(figures, "ece"), as_number(chance.get("high"))
    if error is not None and high is not None:
        calibration = (
            f"The calibration error is {number(error)}. On so few samples perfect probabilities "
            f"would show {number(chance.get('mean'))} in the mean, and up to {number(high)}: "
        ) + (
            "nothing here says that they cannot be taken at their word."
            if error <= high
            else "these cannot be taken at their word."
        )
    return _charts((charts.reliability(figures), charts.risk_coverage(figures)), calibration)


def _charts(charts_drawn: Sequence[Picture | None], words: str) -> Markup:
    pictures = [picture for picture in charts_drawn if picture]
    if not pictures:
        return block("missing", "Curves (they need samples of two classes)")
    return join(*([block("text", words)] if words else []), block("pictures", pictures, True))


def _mistakes(images: Sequence[Mapping[str, Any]], rows: Sequence[Row]) -> Markup:
    wrong = sum(not row.get("right") for row in rows)
    if not wrong:
        return block("text", "No answer is wrong.")
    candidates = [_mistake(as_dict(image.get("row")), image) for image in images]
    pictures = [picture for picture in candidates if picture]
    words = (
        f"{plural(wrong, 'answer is', 'answers are')} wrong of {number(len(rows), 0)}. The surest "
        "of them come first: where a label is mistaken or a picture unlike the others, it shows "
        "here."
    )
    if not pictures:
        return join(block("text", words), block("missing", "Pictures"))
    return join(block("text", words), block("pictures", pictures, False))


def _mistake(row: Row, image: Mapping[str, Any]) -> Picture | None:
    if image.get("image") is None:
        return None
    confidence = percent(row.get("confidence"), 1)
    caption = f"Truth: {row.get('truth')}. Answer: {row.get('answer')}, {confidence} sure."
    if row.get("slice") is None and image.get("slice") is not None:
        caption += f" Shown: slice {image['slice']}."
    return charts.thumbnail(image["image"], _name(row), caption)


def _name(row: Row) -> str:
    slice_ = row.get("slice")
    return str(row.get("case")) if slice_ is None else f"{row.get('case')}, slice {slice_}"


def _answers(summary: Mapping[str, Any], rows: Sequence[Row]) -> Markup:
    if not rows:
        return block("missing", "The table of answers")
    classes = [str(name) for name in as_list(summary.get("classes"))]
    ranked = sorted(
        rows,
        key=lambda r: (
            bool(r.get("right")),
            (1 if r.get("right") else -1) * (as_number(r.get("confidence")) or 0.0),
            _name(r),
        ),
    )
    columns = [Column("name", "Case")]
    if any(row.get("subject") != row.get("case") for row in rows):
        columns.append(Column("subject", "Subject"))
    columns += [
        Column("truth", "Truth"),
        Column("answer", "Answer"),
        Column("state", "State"),
        Column("confidence", "Confidence", 3, "Probability of the answer", bar=True),
    ]
    if any(row.get("slices") for row in rows):
        columns.append(Column("slices", "Slices", 0))
    if 2 < len(classes) <= 8:
        columns += [Column(f"p {name}", name, 3, f"Probability of {name}") for name in classes]
    lines = [
        {
            **row,
            **{f"p {k}": v for k, v in as_dict(row.get("probabilities")).items()},
            "name": _name(row),
            "state": "right" if row.get("right") else "wrong",
        }
        for row in ranked[:_MOST_ROWS]
    ]
    words = "Wrong answers first, the surest on top; then the right ones, the least sure on top."
    if len(rows) > _MOST_ROWS:
        words += f" The first {_MOST_ROWS} of {number(len(rows), 0)}; cases.csv has all."
    return join(block("text", words), page.table("Every answer", columns, lines))


def _matrix(figures: Mapping[str, Any], classes: Sequence[str]) -> Markup:
    """The confusion matrix as a table, where there are too many classes for a picture."""
    columns = [Column("truth", "Truth"), *(Column(name, name, 0) for name in classes)]
    lines = [
        {**dict(zip(classes, row, strict=True)), "truth": name}
        for name, row in zip(classes, as_list(figures.get("confusion")), strict=True)
    ]
    return page.table("Answers by truth", columns, lines)


def _method(summary: Mapping[str, Any]) -> Markup:
    """What could not be scored, rules, settings and versions."""
    parts = []
    failures = [f for f in as_list(summary.get("failures")) if isinstance(f, Mapping)]
    if failures:
        columns = (
            Column("case", "Case"),
            Column("code", "Code"),
            Column("message", "Why not scored"),
        )
        parts.append(page.table("Cases that could not be scored", columns, failures))
    for key in ("rules", "settings", "versions"):
        if entries := as_dict(summary.get(key)):
            parts.append(block("subheading", key.capitalize()))
            parts.append(page.facts({page.label(k): page.plain(v) for k, v in entries.items()}))
    return join(*parts) if parts else block("missing", "The rules of scoring")


def _value(figures: Mapping[str, Any], key: str) -> float | None:
    return as_number(as_dict(figures.get(key)).get("value"))


def _interval(
    figures: Mapping[str, Any], key: str, between: str = f" {page.DASH} ", *, shares: bool = False
) -> str:
    estimate = as_dict(figures.get(key))
    ends = estimate.get("ci_low"), estimate.get("ci_high")
    if as_number(ends[0]) is None:
        return ""
    low, high = (number(end, 1, 100) if shares else number(end) for end in ends)
    return f"{low}{between}{high}"


def _percents(figures: Mapping[str, Any], key: str, before: str = "") -> str:
    interval = _interval(figures, key, " to ", shares=True)
    return interval and f"{before}{interval}\N{NO-BREAK SPACE}%"
