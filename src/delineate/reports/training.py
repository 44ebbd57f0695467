"""The page of a training run, from its folder alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from delineate.reports import audit, classification, clusters, evaluation, page
from delineate.reports._run_folder import RunFolder
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


def write(path: Path, run: Path) -> Path:
    """Write the page of a training run.

    Args:
        path: The HTML file.
        run: The run folder; whatever is missing in it is said to be "not available".

    Returns:
        ``path``.

    Raises:
        OutputError: The file cannot be written.
    """
    found = RunFolder.read(run)
    results, told, lead = _results(found)
    name = str(found.run.get("name") or run.name)
    html = page.render(
        name,
        [*results, *sections(found)],
        kind="training report",
        verdict=verdict(found, told),
        lead=lead,
    )
    return page.write(path, html)


def sections(found: RunFolder) -> list[Section]:
    """How the model was made: curves, data, plan and provenance."""
    return [
        ("Training", _curves(found)),
        ("Data", _data(found)),
        ("Plan", _plan(found)),
        ("Provenance", _provenance(found)),
    ]


def _results(found: RunFolder) -> tuple[list[Section], list[str], Markup]:
    """Sections, sentences and tiles of the held-out cases: outlines, or classes."""
    if found.summary.get("format") == "delineate-classification":
        rows = [_answer(row) for row in found.cases]
        sections = classification.sections(found.summary, rows, [])
        return (
            [one for one in sections if one[0] != "Worst mistakes"],  # pictures: validation/
            classification.verdict(found.summary),
            classification.tiles(found.summary),
        )
    head = evaluation.headline(found.summary, found.cases)
    told = evaluation.verdict(head, "held-out subject")
    if as_number(head["dice"].get("mean")) is None:
        told.append("No held-out cases were scored, so nothing can be said of its quality.")
    sections = evaluation.sections(found.summary, found.cases, found.pictures)
    return sections, told, evaluation.tiles(head, time_tile(found), scored_on="Held out")


def _answer(row: Mapping[str, str]) -> dict[str, Any]:
    """A line of ``cases.csv`` of a classifier as its page wants it."""
    return {
        **row,
        "right": row.get("right") == "yes",
        "confidence": as_number(row.get("confidence")),
        "probabilities": {},
    }


def verdict(found: RunFolder, told: Sequence[str]) -> str:
    """What was trained, what is said of its figures, and how long it took."""
    run = found.run
    network = plain(run.get("network") or as_dict(run.get("plan")).get("network"))
    cases, subjects = _part(found, "train")
    start = f"A {network} was trained" if network else "A network was trained"
    if run.get("method"):
        start += f" ({plain(run['method'])})"
    if cases:
        start += f" on {plural(cases, 'case')} of {plural(subjects, 'subject')}"
    sentences = [f"{start}.", *told]
    if found.split.get("leaky"):
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


def time_tile(found: RunFolder) -> tuple[str, str, str]:
    """How long a run took."""
    used, budget = duration(found.run.get("seconds")), duration(found.run.get("budget_seconds"))
    return "Time", used or page.DASH, f"of a budget of {budget}" if budget else ""


def _curves(found: RunFolder) -> Markup:
    if not found.log:
        return block("missing", "Training log")
    first, adversarial, others = curves(found.log)
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


def _data(found: RunFolder) -> Markup:
    cohort, split = found.cohort, found.split
    parts: list[Markup] = []
    if split.get("leaky"):
        words = (
            "This split is leaky: parts share subjects. The figures say nothing of new patients."
        )
        parts.append(block("note", words, "blocking"))
    if cohort:
        cases = _cases(found)
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
            lines = [f"{name}: {why}" if why else name for name, why in excluded.items()]
            parts.append(block("subheading", f"Left out on request ({len(lines)})"))
            parts.append(block("bullets", lines))
    else:
        parts.append(block("missing", "Data card"))
    parts += [block("subheading", "Split"), _split(found), block("subheading", "Audit findings")]
    if found.audit:
        parts.append(audit.findings(found.audit, headings=False))
    else:
        parts.append(block("missing", "Audit"))
    return join(*parts)


def _split(found: RunFolder) -> Markup:
    parts = as_dict(found.split.get("parts"))
    if not parts:
        return block("missing", "Split")
    rows = []
    for name in parts:
        cases, subjects = _part(found, name)
        rows.append({"part": name, "cases": cases, "subjects": subjects if found.cohort else None})
    columns = (
        Column("part", "Part"),
        Column("cases", "Cases", 0),
        Column("subjects", "Subjects", 0),
    )
    notes = [block("note", str(w), "warning") for w in as_list(found.run.get("split_notes"))]
    words = f"{found.split.get('name', 'unnamed')}, seed {found.split.get('seed', 'unknown')}."
    table = page.table("Parts of the split", columns, rows, sortable=False)
    return join(block("text", words), table, *notes)


def _plan(found: RunFolder) -> Markup:
    plan = as_dict(found.run.get("plan"))
    if not plan and not found.run:
        return block("missing", "Plan")
    told = {
        "Network": plan.get("network") or found.run.get("network"),
        "Method": found.run.get("method"),
        "Parameters": _count(plan.get("parameters")),
        "Patch": _shape(plan.get("patch")),
        "Batch": plan.get("batch"),
        "Steps": _count(found.run.get("steps") or plan.get("steps")),
        "Measured speed": _speed(plan.get("seconds_per_step")),
        "Precision": plan.get("precision"),
    }
    rest = {label(k): plain(v) for k, v in plan.items() if k not in _PLAN_KEYS}
    parts = [facts({**told, **rest})]
    if preparation := as_dict(found.run.get("preparation")):
        parts += [block("subheading", "Preparation of the images"), _preparation(preparation)]
    parts.append(clusters.section(found))
    return join(*parts)


_PLAN_KEYS = ("network", "parameters", "patch", "batch", "steps", "seconds_per_step", "precision")


def _preparation(given: dict[str, Any]) -> Markup:
    reasons = [str(words) for words in as_list(given.pop("reasons", None))]
    channels = [as_dict(channel) for channel in as_list(given.pop("channels", None))]
    given.pop("elbow", None)  # drawn below
    if learned := as_dict(given.pop("denoiser", None)):  # its weights say nothing to a reader
        given["denoiser"] = {key: value for key, value in learned.items() if key != "weights"}
    keys = dict.fromkeys(key for channel in channels for key in channel)
    rows = [{key: plain(value) for key, value in channel.items()} for channel in channels]
    columns = [Column(key, label(key)) for key in keys]
    return join(
        facts({label(key): plain(value) or "none" for key, value in given.items()}),
        page.table("Channels", columns, rows, sortable=False) if rows else Markup(),
        block("bullets", reasons) if reasons else Markup(),
    )


def _provenance(found: RunFolder) -> Markup:
    run = found.run
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
        given = {str(k): plain(v) for k, v in as_dict(run.get(key)).items()}
        tables.append(block("subheading", heading))
        tables.append(facts(given) if given else block("missing", heading))
    tables.append(block("subheading", "Settings"))
    if found.config:
        tables.append(block("listing", "The full configuration of this run", found.config))
    else:
        tables.append(block("missing", "Settings"))
    if found.problems:
        tables.append(block("subheading", "What could not be read"))
        tables += [block("note", words, "warning") for words in found.problems]
    return join(*tables)


def _cases(found: RunFolder) -> list[dict[str, Any]]:
    return [as_dict(c) for c in as_list(found.cohort.get("cases"))]


def _part(found: RunFolder, name: str) -> tuple[int, int]:
    """Cases and subjects of a part of the split."""
    ids = [str(i) for i in as_list(as_dict(found.split.get("parts")).get(name))]
    subject = {str(c.get("id")): str(c.get("subject")) for c in _cases(found)}
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
    found = as_number(seconds)
    return f"{number(found * 1000, 1)} ms a step" if found else None


def _when(value: Any) -> str | None:
    """A time as it was written, without the letter between day and hour."""
    moment = as_number(value)
    if moment is not None and 0 < moment < 1e11:
        return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return str(value).replace("T", " ", 1) if value else None
