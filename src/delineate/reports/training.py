"""The page of a training run, from its folder alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from delineate.reports import audit, clusters, page
from delineate.reports._run_folder import Results, RunFolder
from delineate.reports.figures import curves
from delineate.reports.page import (
    Column,
    Section,
    as_dict,
    as_list,
    as_number,
    block,
    duration,
    facts,
    join,
    label,
    number,
    plain,
    plural,
)

_LEAKY = "The split is leaky: its parts share subjects, so the figures say nothing of new patients."
_DONE = ("finished", "done", "complete", "completed", "ok", "success")


def write(path: Path, run: Path, show: Callable[[RunFolder], Results]) -> Path:
    """Write the page of a training run.

    Args:
        path: The HTML file.
        run: The run folder; whatever is missing in it is said to be "not available".
        show: Gives what is shown of the scores of held-out cases.

    Returns:
        ``path``.

    Raises:
        OutputError: The file cannot be written.
    """
    folder = RunFolder.read(run)
    results, sentences, lead = show(folder)
    name = str(folder.run.get("name") or run.name)
    html = page.render(
        name,
        [*results, *sections(folder)],
        kind="training report",
        verdict=verdict(folder, [*sentences, *_no_figures(folder), *last_fit(folder)]),
        lead=lead,
    )
    return page.write(path, html)


def sections(folder: RunFolder) -> list[Section]:
    """How the model was made: curves, data, plan and provenance."""
    return [
        ("Training", _curves(folder)),
        ("Data", _data(folder)),
        ("Plan", _plan(folder)),
        ("Provenance", _provenance(folder)),
    ]


def verdict(folder: RunFolder, figures: Sequence[str]) -> str:
    """What was trained, what is said of its figures, and how long it took."""
    run = folder.run
    network = plain(run.get("network") or as_dict(run.get("plan")).get("network"))
    cases, subjects = _part(folder, "train")
    start = f"A {network} was trained" if network else "A network was trained"
    if run.get("method"):
        start += f" ({plain(run['method'])})"
    if file := as_dict(run.get("transfer")).get("file"):
        start += f", from the weights {plain(file)},"
    if cases:
        start += f" on {plural(cases, 'case')} of {plural(subjects, 'subject')}"
    others, subjects = _part(folder, "unlabelled")
    if others:
        start += f", and {plural(others, 'unlabelled case')} of {plural(subjects, 'subject')}"
    if in_the_end := as_dict(run.get("last_fit")).get("cases"):
        start += f", and in the end on {plural(in_the_end, 'case')}"
    sentences = [f"{start}.", *figures]
    if folder.split.get("leaky"):
        sentences.append(_LEAKY)
    if trained := plain(as_dict(run.get("trained")).get("sentence")):
        sentences.insert(0, trained)
    scored = as_dict(run.get("scored"))
    if scored.get("cases") and scored["cases"] < scored.get("of", 0):
        sentences.append(f"The figures are of {scored['cases']} of {scored['of']} held-out cases.")
    used, budget = duration(run.get("seconds")), duration(run.get("budget_seconds"))
    if used:
        sentences.append(f"It took {used}" + (f" of a budget of {budget}." if budget else "."))
    status = run.get("status")
    if status and str(status).lower() not in _DONE:
        sentences.append(f"The run's state is “{status}”, so these figures may not be its last.")
    return " ".join(sentences)


def last_fit(folder: RunFolder) -> list[str]:
    """Which model the figures of held-out subjects are of, where the run's own went on learning."""
    return [words] if (words := plain(as_dict(folder.run.get("last_fit")).get("sentence"))) else []


def _no_figures(folder: RunFolder) -> list[str]:
    return [words] if (words := plain(folder.run.get("no_figures"))) else []


def _curves(folder: RunFolder) -> Markup:
    if not folder.log:
        return block("missing", "Training log")
    first, adversarial, others = curves(folder.log)
    parts = [block("pictures", first, False)]
    if adversarial:
        parts += [
            block("subheading", "Segmenter against critic"),
            block("pictures", adversarial, False),
        ]
    if others:
        folded = block("pictures", others[:24], False)
        parts.append(block("fold", f"Everything else logged ({len(others)})", folded))
    return join(*parts)


def _data(folder: RunFolder) -> Markup:
    cohort, split = folder.cohort, folder.split
    parts: list[Markup] = []
    if split.get("leaky"):
        words = (
            "This split is leaky: parts share subjects. The figures say nothing of new patients."
        )
        parts.append(block("note", words, "blocking"))
    if cohort:
        cases = _cases(folder)
        schema = as_dict(cohort.get("schema"))
        labels = [
            f"{d.get('name')} ({d.get('value')})"
            for d in map(as_dict, as_list(schema.get("labels")))
        ]
        areas = [
            f"{name} = {' + '.join(map(str, as_list(parts)))}"
            for name, parts in as_dict(schema.get("regions")).items()
        ]
        parts.append(
            facts(
                {
                    "Layout": cohort.get("layout"),
                    "Folder": Path(str(cohort["root"])).name if cohort.get("root") else None,
                    "Cases": number(len(cases), 0),
                    "Subjects": number(len({c.get("subject") for c in cases}), 0),
                    "Sites": _census(cases, "site"),
                    "Labelled": f"{sum(bool(c.get('label')) for c in cases)} of {len(cases)}",
                    "Channels": _pairs(cohort.get("modalities")),
                    "Labels (value)": ", ".join(labels) or None,
                    "Regions": "; ".join(areas) or None,
                    "Sex": _census(cases, "sex"),
                    "Classes": ", ".join(map(str, as_list(schema.get("classes")))) or "none",
                }
            )
        )
        parts += [block("note", str(words), "note") for words in as_list(cohort.get("notes"))]
        if excluded := as_dict(cohort.get("excluded")):
            lines = [f"{name}: {reason}" if reason else name for name, reason in excluded.items()]
            parts.append(block("subheading", f"Left out on request ({len(lines)})"))
            parts.append(block("bullets", lines))
    else:
        parts.append(block("missing", "Data card"))
    parts += [block("subheading", "Split"), _split(folder), block("subheading", "Audit findings")]
    if folder.audit:
        parts.append(audit.findings(folder.audit, headings=False))
    else:
        parts.append(block("missing", "Audit"))
    return join(*parts)


def _split(folder: RunFolder) -> Markup:
    parts = as_dict(folder.split.get("parts"))
    if not parts:
        return block("missing", "Split")
    rows = []
    for name in parts:
        cases, subjects = _part(folder, name)
        rows.append({"part": name, "cases": cases, "subjects": subjects if folder.cohort else None})
    columns = (
        Column("part", "Part"),
        Column("cases", "Cases", 0),
        Column("subjects", "Subjects", 0),
    )
    notes = [block("note", str(w), "warning") for w in as_list(folder.run.get("split_notes"))]
    words = f"{folder.split.get('name', 'unnamed')}, seed {folder.split.get('seed', 'unknown')}."
    table = page.table("Parts of the split", columns, rows, sortable=False)
    return join(block("text", words), table, *notes)


def _plan(folder: RunFolder) -> Markup:
    plan = as_dict(folder.run.get("plan"))
    if not plan and not folder.run:
        return block("missing", "Plan")
    headings = {
        "Network": plan.get("network") or folder.run.get("network"),
        "Method": folder.run.get("method"),
        "Parameters": _count(plan.get("parameters")),
        "Patch": _shape(plan.get("patch")),
        "Batch": plan.get("batch"),
        "Steps": _count(folder.run.get("steps") or plan.get("steps")),
        "Measured speed": _speed(plan.get("seconds_per_step")),
        "Precision": plan.get("precision"),
    }
    other_settings = {label(k): plain(v) for k, v in plan.items() if k not in _PLAN_KEYS}
    parts = [facts({**headings, **other_settings})]
    if preparation := as_dict(folder.run.get("preparation")):
        parts += [block("subheading", "Preparation of the images"), _preparation(preparation)]
    parts.append(clusters.section(folder))
    return join(*parts)


_PLAN_KEYS = ("network", "parameters", "patch", "batch", "steps", "seconds_per_step", "precision")


def _preparation(preparation: dict[str, Any]) -> Markup:
    reasons = [str(words) for words in as_list(preparation.pop("reasons", None))]
    channels = [as_dict(channel) for channel in as_list(preparation.pop("channels", None))]
    preparation.pop("elbow", None)  # drawn below
    preparation.pop("target", None)  # a reason tells it
    if learned := as_dict(preparation.pop("denoiser", None)):  # its weights say nothing to a reader
        preparation["denoiser"] = {key: value for key, value in learned.items() if key != "weights"}
    keys = dict.fromkeys(key for channel in channels for key in channel)
    rows = [{key: plain(value) for key, value in channel.items()} for channel in channels]
    columns = [Column(key, label(key)) for key in keys]
    return join(
        facts({label(key): plain(value) or "none" for key, value in preparation.items()}),
        page.table("Channels", columns, rows, sortable=False) if rows else Markup(),
        block("bullets", reasons) if reasons else Markup(),
    )


def _provenance(folder: RunFolder) -> Markup:
    run = folder.run
    tables = [
        facts(
            {
                "Started": _when(run.get("started")),
                "Finished": _when(run.get("finished")),
                "State": run.get("status"),
                "Seed": run.get("seed"),
            }
        )
    ]
    for key, heading in (("hashes", "Hashes"), ("versions", "Versions"), ("machine", "Machine")):
        entries = {str(k): plain(v) for k, v in as_dict(run.get(key)).items()}
        tables.append(block("subheading", heading))
        tables.append(facts(entries) if entries else block("missing", heading))
    tables.append(block("subheading", "Settings"))
    if folder.config:
        tables.append(block("listing", "The full configuration of this run", folder.config))
    else:
        tables.append(block("missing", "Settings"))
    if folder.problems:
        tables.append(block("subheading", "What could not be read"))
        tables += [block("note", words, "warning") for words in folder.problems]
    return join(*tables)


def _cases(folder: RunFolder) -> list[dict[str, Any]]:
    return [as_dict(c) for c in as_list(folder.cohort.get("cases"))]


def _part(folder: RunFolder, name: str) -> tuple[int, int]:
    """Cases and subjects of a part of the split."""
    ids = [str(i) for i in as_list(as_dict(folder.split.get("parts")).get(name))]
    subject = {str(c.get("id")): str(c.get("subject")) for c in _cases(folder)}
    return len(ids), len({subject.get(i, i) for i in ids})


def _census(cases: list[dict[str, Any]], key: str) -> str | None:
    counts = Counter(str(c[key]) for c in cases if c.get(key) is not None)
    return ", ".join(f"{name} ({n})" for name, n in counts.most_common(12)) or None


def _pairs(value: Any) -> str | None:
    return ", ".join(f"{k} ({v})" for k, v in as_dict(value).items()) or None


def _shape(value: Any) -> str | None:
    return " \N{MULTIPLICATION SIGN} ".join(str(n) for n in as_list(value)) or (
        None if value is None else str(value)
    )


def _count(value: Any) -> str | None:
    return None if as_number(value) is None else number(value, 0)


def _speed(seconds: Any) -> str | None:
    per_step = as_number(seconds)
    return f"{number(per_step * 1000, 1)} ms a step" if per_step else None


def _when(value: Any) -> str | None:
    """A time as it was written, without the letter between day and hour."""
    moment = as_number(value)
    if moment is not None and 0 < moment < 1e11:
        return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return str(value).replace("T", " ", 1) if value else None
