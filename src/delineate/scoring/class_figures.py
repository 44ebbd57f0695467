"""Score the classes of cases: from probabilities to figures, tables and one page.

OUT/cases.csv      one row a case, or a slice where slices have classes of their own
OUT/slices.csv     one row a slice, where a case's probability is the mean over its slices
OUT/subjects.csv   mean probability of the cases of one subject, and the share that is right
OUT/summary.json   figures with 95 % intervals over subjects, curves, settings, versions
OUT/report.html    the same for people, with the worst mistakes
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from delineate.core import run
from delineate.core.atomic import atomic_write_text, writable_folder
from delineate.core.errors import InputError, LabelError
from delineate.core.tables import document, plain, table

#: ``case``, ``subject``, ``slice`` (number or None), ``truth`` (a class), ``probabilities``.
Row = Mapping[str, Any]
#: The picture of a row: ``(I, J)``, or ``(C, I, J)``, laid out for the reader.
Show = Callable[[Row], NDArray[Any] | None]

RULES = {
    "answer": "the class of the largest probability, the first of equals",
    "probability of a case": "the mean over its slices",
    "average over classes": "each class that some sample has counts once",
    "undefined": "a class without a sample has no recall, one never answered no precision; neither "
    "is 0. In an average over classes, a class never answered has precision 0",
    "roc_auc": "of two classes the second is positive; of more, each against the rest, averaged",
    "sensitivity_at_specificity": "the threshold is chosen on these samples: an upper bound",
    "ece": "15 bins of confidence of equal width",
    "brier": "half the squared distance, 0 to 1",
    "interval": "percentile bootstrap over subjects, all samples of a subject together; none where "
    "more than 5 % of the resamples leave the figure undefined, or all give the same",
}
_WORST = 6
#: Figures that are told for every level.
_HEADLINE = ("accuracy", "balanced_accuracy", "f1_macro", "mcc", "kappa", "roc_auc",
         "average_precision", "sensitivity_at_specificity", "ece", "brier", "gain")  # fmt: skip


def score(
    rows: Sequence[Row],
    classes: Sequence[str],
    *,
    seed: int = 0,
    resamples: int = 2000,
    specificity: float = 0.9,
) -> dict[str, Any]:
    """Figures of a classifier.

    Where all slices of a case have one class, the case is what is scored, with the mean
    probability of its slices; where they differ (is a structure present in this slice?), the
    slice is. Intervals are over subjects either way.

    Args:
        rows: ``case``, ``subject``, ``slice`` (None where a case is one sample), ``truth`` (name of
            a class) and ``probabilities`` (class -> probability).
        classes: Names in index order. Of two, the second is the positive one.
        seed: Seed of the bootstrap.
        resamples: Number of bootstrap resamples.
        specificity: At which the sensitivity is told.

    Returns:
        The content of ``summary.json``, plain data: ``unit`` ("case" or "slice"), ``figures`` of
        it (see :func:`delineate.metrics.classification.classification_figures`), ``levels``
        (a few figures of slices and subjects, where these are not the unit), ``notes``,
        ``rules``, ``settings``, ``versions``. What the caller adds to it is written as well.

    Raises:
        InputError: There are no rows, a row comes twice, a case has two subjects, or
            probabilities do not sum to 1.
        LabelError: A class is unknown.
    """
    from delineate.metrics.classification import classification_figures
    from delineate.metrics.statistics import LEVEL

    _check(rows, classes)
    by_level = {
        level: level_rows
        for level in ("slice", "case", "subject")
        if (level_rows := samples(rows, classes, level)) is not None
    }
    unit = "case" if "case" in by_level else "slice"

    def figures(rows: Sequence[Row]) -> dict[str, Any]:
        return classification_figures(
            [list(row["probabilities"].values()) for row in rows],
            [classes.index(row["truth"]) for row in rows],
            [row["subject"] for row in rows],
            classes,
            specificity=specificity, seed=seed, resamples=resamples,
        )  # fmt: skip

    scored = {level: figures(level_rows) for level, level_rows in by_level.items()}
    summary: dict[str, Any] = plain(
        {
            "format": "delineate-classification",
            "classes": list(classes),
            "unit": unit,
            "n_cases": len({row["case"] for row in rows}),
            "n_subjects": scored[unit]["n_subjects"],
            "figures": scored[unit],
            "levels": {
                level: {key: level_rows[key] for key in ("n_samples", "n_subjects", *_HEADLINE)}
                for level, level_rows in scored.items()
                if level != unit
            },
            "settings": {
                "seed": seed,
                "resamples": resamples,
                "level": LEVEL,
                "specificity": specificity,
            },
            "rules": RULES,
            "versions": run.versions(),
            "failures": [],
            "notes": _notes(scored[unit], by_level, unit),
        }
    )
    return summary


def write(
    out: Path, summary: Mapping[str, Any], rows: Sequence[Row], show: Show | None = None
) -> Path:
    """Write what was scored.

    Args:
        out: Folder.
        summary: As :func:`score` gave it; the caller may have added to it.
        rows: The same rows.
        show: Gives the picture of a row, or None. It is asked for the worst mistakes alone; of a
            case with slices, for the slice that is most wrong.

    Returns:
        The page.

    Raises:
        OutputError: The folder cannot be written.
    """
    from delineate.reports import classification

    classes, unit = summary["classes"], summary["unit"]
    scored = samples(rows, classes, unit) or []
    writable_folder(out)
    atomic_write_text(out / "cases.csv", _csv(scored, classes, unit))
    if unit == "case" and (slices := samples(rows, classes, "slice")):
        atomic_write_text(out / "slices.csv", _csv(slices, classes, "slice"))
    columns = ("subject", "cases", "samples", "truth", "answer", "right", "confidence", "accuracy")
    lines = [_line(row, classes) for row in _subjects(rows, scored, classes)]
    atomic_write_text(out / "subjects.csv", table([*columns, *_names(classes)], lines))
    atomic_write_text(out / "summary.json", document(summary))
    images = []
    if show:
        for row in worst(scored):
            worst_row = _worst_slice(row, rows)
            images.append({"row": row, "slice": worst_row.get("slice"), "image": show(worst_row)})
    page: Path = classification.write(out / "report.html", summary, scored, images)
    return page


def samples(rows: Sequence[Row], classes: Sequence[str], level: str) -> list[dict[str, Any]] | None:
    """What is scored at a level: slices, cases or subjects.

    Args:
        rows: As for :func:`score`.
        classes: Names in index order.
        level: ``"slice"``, ``"case"`` or ``"subject"``.

    Returns:
        The rows with ``answer``, ``right``, ``confidence`` and ``slices`` (how many were averaged).
        None where the level does not exist: no slices, samples of several classes in one group, or
        subjects with one case each.
    """
    if level == "slice":
        return [_answered(row, classes) for row in rows] if _sliced(rows) else None
    groups = _grouped(rows, level)
    if any(len({row["truth"] for row in group}) > 1 for group in groups.values()):
        return None
    if level == "subject":
        cases = samples(rows, classes, "case") or []
        if len(cases) == len(groups):
            return None
        groups = _grouped(cases, level)
    return [
        _answered(
            {
                **group[0],
                "slice": None,
                "slices": sum(row.get("slice") is not None for row in group),
                "probabilities": {
                    name: sum(row["probabilities"][name] for row in group) / len(group)
                    for name in classes
                },
            },
            classes,
        )
        for group in groups.values()
    ]


def worst(scored: Iterable[Mapping[str, Any]], limit: int = _WORST) -> list[Mapping[str, Any]]:
    """Wrong answers, the surest first."""
    wrong = (row for row in scored if not row["right"])
    return sorted(wrong, key=lambda row: (-row["confidence"], row["case"]))[:limit]


def _answered(row: Row, classes: Sequence[str]) -> dict[str, Any]:
    probabilities = {name: float(row["probabilities"][name]) for name in classes}
    answer = max(classes, key=lambda name: probabilities[name])
    return {
        **row,
        "probabilities": probabilities,
        "answer": answer,
        "right": answer == row["truth"],
        "confidence": probabilities[answer],
    }


def _grouped(rows: Iterable[Row], key: str) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str(row[key]), []).append(row)
    return groups


def _sliced(rows: Sequence[Row]) -> bool:
    return any(row.get("slice") is not None for row in rows)


def _worst_slice(row: Row, rows: Sequence[Row]) -> Row:
    """The sample of a wrong case that is surest of the wrong answer."""
    slices = [
        sample for sample in rows
        if sample["case"] == row["case"] and row.get("slice") in (None, sample.get("slice"))
    ]  # fmt: skip
    return max(slices, key=lambda sample: float(sample["probabilities"][row["answer"]]))


def _subjects(
    rows: Sequence[Row], scored: Sequence[Row], classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Every subject with its mean probability; no class where its samples have several."""
    listed = []
    raw, by_subject = _grouped(rows, "subject"), _grouped(scored, "subject")
    for name, subject_rows in sorted(by_subject.items()):
        several = len({row["truth"] for row in subject_rows}) > 1
        means = {
            c: sum(row["probabilities"][c] for row in subject_rows) / len(subject_rows)
            for c in classes
        }
        whole = _answered({"truth": subject_rows[0]["truth"], "probabilities": means}, classes)
        blank = dict.fromkeys(("truth", "answer", "right", "confidence")) if several else {}
        listed.append(
            {
                "subject": name,
                **whole,
                **blank,
                "cases": len({row["case"] for row in subject_rows}),
                "samples": len(raw[name]),
                "accuracy": sum(row["right"] for row in subject_rows) / len(subject_rows),
            }
        )
    return listed


def _names(classes: Sequence[str]) -> list[str]:
    return [f"p_{name}" for name in classes]


def _line(row: Row, classes: Sequence[str]) -> dict[str, Any]:
    probabilities = row["probabilities"]
    return {**row, **dict(zip(_names(classes), (probabilities[c] for c in classes), strict=True))}


def _csv(rows: Sequence[Row], classes: Sequence[str], level: str) -> str:
    head = ["case", "subject", *(["slice"] if level == "slice" else [])]
    if level == "case" and any(row.get("slices") for row in rows):
        head.append("slices")
    columns = [*head, "truth", "answer", "right", "confidence", *_names(classes)]
    return table(columns, [_line(row, classes) for row in rows])


def _check(rows: Sequence[Row], classes: Sequence[str]) -> None:
    if not rows:
        raise InputError("expected at least one row to score, got none")
    subject_of: dict[str, str] = {}
    checked = set()
    for row in rows:
        case, key = row["case"], (row["case"], row.get("slice"))
        where = f"case {case}" if key[1] is None else f"case {case}, slice {key[1]}"
        if key in checked or (case, None) in checked or (key[1] is None and case in subject_of):
            raise InputError("expected every sample once, got it twice", where=where)
        checked.add(key)
        if subject_of.setdefault(case, row["subject"]) != row["subject"]:
            raise InputError(
                f"expected one subject a case, got {subject_of[case]!r} and {row['subject']!r}",
                where=where,
            )
        if row["truth"] not in classes or set(row["probabilities"]) != set(classes):
            raise LabelError(
                f"expected the classes {', '.join(classes)}, got the truth {row['truth']!r} and "
                f"probabilities of {', '.join(map(str, row['probabilities'])) or 'none'}",
                where=where,
                code="class-unknown",
            )


def _notes(figures: Mapping[str, Any], levels: Mapping[str, Sequence[Row]], unit: str) -> list[str]:
    """What a reader must know before the figures."""
    notes = []
    subjects, samples_ = figures["n_subjects"], figures["n_samples"]
    if "slice" in levels:
        notes.append(
            "Slices of one subject are not independent: every interval is over subjects."
            + (" A case's probability is the mean over its slices." if unit == "case" else "")
        )
    elif samples_ > subjects:
        notes.append("Cases of one subject are not independent: every interval is over subjects.")
    if subjects > 1 and all(row["subject"] == row["case"] for row in levels[unit]):
        notes.append(
            "Every case counts as a subject of its own. If several come from one person, the "
            "intervals are too narrow."
        )
    majority, accuracy = figures["majority"], figures["accuracy"]["value"]
    notes.append(
        f"Always answering “{majority['class']}” would be right in "
        f"{100 * majority['accuracy']:.1f} % of the {unit}s, with a balanced accuracy of "
        f"{100 * majority['balanced_accuracy']:.1f} %."
    )
    gain = figures["gain"]["ci_low"]
    if accuracy <= majority["accuracy"] or not gain > 0:
        notes.append("The classifier is not shown to be better than that.")
    if accuracy == 1:
        highest_error = 100 * (1 - 0.05 ** (1 / subjects))
        notes.append(
            f"No {unit} is wrong, so resampling gives no interval. With {subjects} subjects, "
            f"errors in up to {highest_error:.1f} % of subjects would be compatible with that "
            "(95 %)."
        )
    notes += [
        f"No {unit} is of class “{row['class']}”: nothing is said of it, and averages leave it out."
        for row in figures["per_class"]
        if not row["n"]
    ]
    notes += [
        f"Only {row['n_subjects']} {'subject is' if row['n_subjects'] == 1 else 'subjects are'} of "
        f"class “{row['class']}”: too few for an interval of what rests on it."
        for row in figures["per_class"]
        if 0 < row["n_subjects"] < 3
    ]
    return notes
