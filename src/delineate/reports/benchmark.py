"""The page of a benchmark: standings with intervals, quality against cost, paired contrasts."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from markupsafe import Markup

from delineate.core.atomic import atomic_write_bytes, writable_folder
from delineate.reports import page
from delineate.reports._benchmark_parts import (
    MEAN,
    Benchmark,
    Metric,
    interval,
    p_value,
    told_apart,
)
from delineate.reports._benchmark_sections import (
    contrasts,
    few,
    method,
    overview,
    printed,
    runs,
)
from delineate.reports.comparisons import Estimate, interval_bars, pareto
from delineate.reports.figures import Picture
from delineate.reports.page import (
    Column,
    Section,
    as_dict,
    as_list,
    as_number,
    block,
    duration,
    join,
    label,
    number,
    percent,
    plain,
    plural,
)

_NB = "\N{NO-BREAK SPACE}"


def write(result: Mapping[str, Any], out: Path) -> Path:
    """Write ``report.html``, ``cases.csv``, ``summary.csv`` and ``contrasts.csv``.

    Which metrics and regions are shown is taken from the data, in its order; the first metric and
    region make the headline. Arms of the summary that are not among ``arms`` are baselines.

    Args:
        result: Plain data: ``title``, ``question``, ``suite``, ``data``, ``settings``,
            ``seconds``; ``arms`` (``arm``, ``network``, ``method``, ``parameters``, ``gmac``,
            ``gmac_step``, ``steps``, ``gmac_total``, ``ms``, ``rate``, ``seconds``, ``note``);
            ``rows`` (``arm``, ``run``, ``seed``, ``fold``, ``case``, ``subject``, ``region`` and
            a number or None for each metric); ``summary`` (``arm``, ``region``, ``metric``,
            ``mean``, ``low``, ``high``, ``median``, ``n``); ``contrasts`` (``name``, ``a``, ``b``,
            ``region``, ``metric``, ``difference``, ``low``, ``high``, ``p``, ``p_holm``, ``n``);
            ``printed`` (``source``, ``columns``, ``rows``, ``findings``); ``failures`` (``arm``,
            ``run``, ``reason``); ``notes``. Whatever is missing is left out or said to be so.
        out: Folder; made if need be.

    Returns:
        The page.

    Raises:
        OutputError: The folder cannot be written.
    """
    found = Benchmark(result)
    writable_folder(out)
    for name, rows in (
        ("cases", found.rows), ("summary", found.summary), ("contrasts", found.contrasts)
    ):  # fmt: skip
        text = _csv(rows).encode("utf-8", "backslashreplace")
        atomic_write_bytes(out / f"{name}.csv", text)
    sections: list[Section] = [
        ("Read first", _warnings(found)),
        ("Standings", _standings(found)),
        ("Charts", _charts(found)),
        ("Quality against cost", _costs(found)),
        ("Paired contrasts", contrasts(found)),
        ("Printed figures", printed(found)),
        ("How it was done", method(found)),
        ("Runs", runs(found)),
    ]
    html = page.render(
        str(result.get("title") or result.get("suite") or "Benchmark"),
        [(heading, body) for heading, body in sections if body],
        kind="benchmark",
        verdict=_verdict(found),
        lead=_tiles(found),
    )
    return page.write(out / "report.html", html)


# --- the head -------------------------------------------------------------------------------------


def _verdict(found: Benchmark) -> str:
    question = str(found.result.get("question") or "")
    sentences = []
    main, ranked = found.main, []
    if main:
        ranked = found.ranked(found.region, main)
    if not main or not ranked:
        sentences.append("No arm was scored, so nothing can be said.")
    else:
        best, where = ranked[0], found.told(found.region, " on ")
        where = " over all regions" if found.region == MEAN else where
        word = {1: "highest", -1: "lowest"}.get(main.better)
        if word and len(ranked) > 1:
            start = f"Of {len(ranked)} arms, {best} has the {word} mean {main.name}{where}: "
        else:
            start = f"The mean {main.name} of {best}{where} is "
        sentences.append(start + _say(found, best, main) + ".")
        sentences += [_baseline(found, name, best) for name in found.baselines]
        sentences += _answers(found, main)
    if failures := as_list(found.result.get("failures")):
        sentences.append(f"{plural(len(failures), 'run')} failed.")
    return "\n".join(part for part in (question, " ".join(filter(None, sentences))) if part)


def _say(found: Benchmark, arm: str, given: Metric) -> str:
    entry = found.figure(arm, found.region, given.key)
    words = number(entry["mean"], given.digits) + (f"{_NB}{given.unit}" if given.unit else "")
    if between := interval(entry, given.digits):
        words += f" (95{_NB}% interval {between}; {plural(as_number(entry.get('n')), 'subject')})"
    return words


def _baseline(found: Benchmark, name: str, best: str) -> str:
    """What costs nothing already scores, accuracy above all."""
    shown = [m for m in found.metrics if m is found.main or m.key == "accuracy"]
    told = [
        f"{m.name} {percent(mean) if m.key == 'accuracy' else number(mean, m.digits)}"
        for m in shown
        if (mean := as_number(found.figure(name, found.region, m.key).get("mean"))) is not None
    ]
    if not told:
        return ""
    words = f"“{name}” scores {' and '.join(told)}"
    if main := found.main:
        means = [found.figure(n, found.region, main.key).get("mean") for n in (name, best)]
        if main.better and means[0] is not None and (means[0] - means[1]) * main.better >= 0:
            words += ": no arm does better"
    return f"{words}."


def _answers(found: Benchmark, main: Metric) -> list[str]:
    """The contrasts of the headline in sentences, at most three."""
    asked = [
        c for c in found.contrasts
        if c.get("metric") == main.key and c["region"] == found.region
        and as_number(c.get("difference")) is not None
    ]  # fmt: skip
    sentences = []
    for contrast in asked[:3]:
        difference = float(contrast["difference"])
        a, b = contrast.get("a"), contrast.get("b")
        details = [
            f"{main.name} {number(difference, main.digits)}",
            interval(contrast, main.digits) and f"95{_NB}% {interval(contrast, main.digits)}",
            p_value(contrast.get("p")) if "p_holm" not in contrast
            else f"corrected {p_value(contrast['p_holm'])}",
        ]  # fmt: skip
        if told_apart(contrast):
            words = f"{a} differs from {b}"
            if main.better:
                words = f"{a} is {'better' if difference * main.better > 0 else 'worse'} than {b}"
        else:
            words = f"These data do not tell {a} and {b} apart"
        sentences.append(f"{words} ({', '.join(filter(None, details))}).")
    if len(asked) > 3:
        sentences.append(f"{plural(len(asked) - 3, 'more contrast')} below.")
    return sentences


def _tiles(found: Benchmark) -> Markup:
    subjects = {str(r.get("subject")) for r in found.rows}
    cases = {str(r.get("case")) for r in found.rows}
    trained = {(str(r.get("arm")), str(r.get("run"))) for r in found.rows}
    trained = {run for run in trained if run[0] not in found.baselines}
    failures = len(as_list(found.result.get("failures")))
    items = [
        ("Arms", number(len(found.names), 0), f"{plural(len(found.baselines), 'baseline')}"),
        ("Runs", number(len(trained), 0), f"{failures} failed" if failures else "none failed"),
        ("Subjects", number(len(subjects), 0), plural(len(cases), "case")),
        ("Time", duration(found.result.get("seconds")) or page.DASH, "in all"),
    ]
    main = found.main
    if main and (ranked := found.ranked(found.region, main)) and main.better:
        entry = found.figure(ranked[0], found.region, main.key)
        items.insert(0, (f"Best {main.name}", number(entry["mean"], main.digits), ranked[0]))
    return block("tiles", items)


# --- the sections ---------------------------------------------------------------------------------


def _warnings(found: Benchmark) -> Markup:
    parts = []
    failures = [as_dict(f) for f in as_list(found.result.get("failures"))]
    if failures:
        columns = (Column("arm", "Arm"), Column("run", "Run"), Column("reason", "Why it failed"))
        shown = [{k: plain(f.get(k)) for k in ("arm", "run", "reason")} for f in failures]
        words = "These runs gave no figures; whatever is said of their arms rests on the others."
        parts.append(block("note", words, "blocking"))
        parts.append(page.table("Runs that failed", columns, shown, sortable=False))
    if notes := as_list(found.result.get("notes")):
        parts.append(block("bullets", [str(note) for note in notes]))
    return join(*parts)


def _standings(found: Benchmark) -> Markup:
    if not found.metrics:
        return block("missing", "Figures of the arms")
    parts = [overview(found)]
    for region in found.regions:
        if len(found.regions) > 1:
            parts.append(block("subheading", label(found.told(region, ""))))
        names = found.ranked(region, found.metrics[0])
        names += [n for n in found.names if n not in names]
        best = {m.key: _best(found, region, m) for m in found.metrics}
        told: list[list[tuple[str, list[dict[str, Any]]]]] = [
            [(name, [_cell(found, name, region, m, best[m.key]) for m in found.metrics])
             for name in group]
            for group in (names, found.baselines)
        ]  # fmt: skip
        heads = ["Arm", *(m.heading for m in found.metrics)]
        caption = f"Standings, {region}" if region else "Standings"
        parts.append(block("standings", caption, heads, *told))
    words = (
        "Means over subjects, with 95 % bootstrap intervals over subjects and medians. The best "
        "mean of a column is in bold; it is no victory where intervals overlap: see the paired "
        "contrasts."
    )
    if found.baselines:
        words += " Rows set apart below were not trained: what an arm must beat."
    return join(*parts, block("text", words))


def _best(found: Benchmark, region: str, given: Metric) -> float | None:
    """The best mean of the arms, of those that took part; None where better is not known."""
    ranked = found.ranked(region, given)
    if not given.better or len(ranked) < 2:
        return None
    return float(found.figure(ranked[0], region, given.key)["mean"])


def _cell(
    found: Benchmark, arm: str, region: str, given: Metric, best: float | None
) -> dict[str, Any]:
    entry = found.figure(arm, region, given.key)
    sizes = {found.figure(n, region, given.key).get("n") for n in found.names} - {None}
    small = [interval(entry, given.digits).replace(" to ", f"\u2009{page.DASH}\u2009")]
    if as_number(entry.get("median")) is not None:
        small.append(f"median {number(entry['median'], given.digits)}")
    if len(sizes) > 1 and entry:
        small.append(plural(as_number(entry.get("n")), "subject"))
    mean = number(entry.get("mean"), given.digits)
    tied = best is not None and mean == number(best, given.digits)
    return {
        "value": mean,
        "small": [words for words in small if words],
        "best": tied and arm not in found.baselines,
    }


def _charts(found: Benchmark) -> Markup:
    """Bars of every metric in the headline's region; other regions are folded away."""
    if not found.metrics:
        return Markup()
    groups: list[list[Picture]] = []
    for region in found.regions:
        names = found.ranked(region, found.metrics[0]) + found.baselines
        charts = []
        for given in found.metrics:
            bars = [
                Estimate(n, e["mean"], as_number(e.get("low")), as_number(e.get("high")),
                         apart=n in found.baselines)
                for n in names
                if (e := found.figure(n, region, given.key))
            ]  # fmt: skip
            if bars:
                title = given.heading + found.told(region, f" {page.DASH} ")
                charts.append(interval_bars(bars, title, given.digits))
        groups.append(charts)
    return few(list(chain(*groups)), len(groups[0])) if any(groups) else Markup()


def _costs(found: Benchmark) -> Markup:
    main, charts = found.main, []
    if main and main.better:
        for key, cost, unit in (
            ("gmac", "GMAC of a forward pass", 1.0), ("ms", "ms of a forward pass", 1.0),
            ("parameters", "million parameters", 1e6),
        ):  # fmt: skip
            points = {}
            for arm in found.arms:
                mean = found.figure(str(arm["arm"]), found.region, main.key).get("mean")
                price = as_number(arm.get(key))
                if mean is not None and price is not None and price > 0:
                    points[str(arm["arm"])] = (price / unit, float(mean))
            if len(points) > 1:
                title = f"{main.name} against {cost}"
                up = main.heading + found.told(found.region)
                good = main.better > 0
                charts.append(pareto(points, title, cost, up, higher_is_better=good))
    return block("pictures", charts, True) if charts else Markup()


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows under the union of their keys; what is not defined stays empty."""
    columns = list(dict.fromkeys(str(key) for row in rows for key in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_csv_cell(row.get(column)) for column in columns] for row in rows)
    return text.getvalue()


def _csv_cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.7g}" if isinstance(value, float) else plain(value) or ""
