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
    fold_after,
    method,
    overview,
    printed,
    runs,
)
from delineate.reports._learning_curves import in_words, learning_curves
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
    """Write ``report.html``, and ``cases``, ``summary``, ``contrasts`` and ``curves`` as CSV.

    Which metrics and regions are shown is taken from the data, in its order; the first metric and
    region make the headline. Arms of the summary that are not among ``arms`` are baselines.

    Args:
        result: Plain data: ``title``, ``question``, ``suite``, ``data``, ``settings``,
            ``seconds``; ``arms`` (``arm``, ``network``, ``method``, ``parameters``, ``gmac``,
            ``gmac_step``, ``steps``, ``gmac_total``, ``ms``, ``rate``, ``seconds``, ``note``,
            ``undertrained``, ``rises``, ``converged``);
            ``rows`` (``arm``, ``run``, ``seed``, ``fold``, ``case``, ``subject``, ``region`` and
            a number or None for each metric); ``summary`` (``arm``, ``region``, ``metric``,
            ``mean``, ``low``, ``high``, ``median``, ``n``); ``contrasts`` (``name``, ``a``, ``b``,
            ``region``, ``metric``, ``difference``, ``low``, ``high``, ``p``, ``p_holm``, ``n``);
            ``curves`` (``arm``, ``run``, ``step``, ``gmac``, ``metric``, ``value``), where runs
            had validation cases, and ``criterion``, by which arms had converged;
            ``printed`` (``source``, ``columns``, ``rows``, ``findings``); ``failures`` (``arm``,
            ``run``, ``reason``); ``notes``. Whatever is missing is left out or said to be so.
        out: Folder; made if need be.

    Returns:
        The page.

    Raises:
        OutputError: The folder cannot be written.
    """
    benchmark = Benchmark(result)
    writable_folder(out)
    for name, rows in (
        ("cases", benchmark.rows),
        ("summary", benchmark.summary),
        ("contrasts", benchmark.contrasts),
        *(
            [("curves", curves)]
            if (curves := [*map(as_dict, as_list(result.get("curves")))])
            else []
        ),
    ):
        text = _csv(rows).encode("utf-8", "backslashreplace")
        atomic_write_bytes(out / f"{name}.csv", text)
    sections: list[Section] = [
        ("Read first", _warnings(benchmark)),
        ("Standings", _standings(benchmark)),
        ("Charts", _charts(benchmark)),
        ("Quality against cost", _costs(benchmark)),
        ("Learning curves", learning_curves(benchmark)),
        ("Paired contrasts", contrasts(benchmark)),
        ("Printed figures", printed(benchmark)),
        ("How it was done", method(benchmark)),
        ("Runs", runs(benchmark)),
    ]
    html = page.render(
        str(result.get("title") or result.get("suite") or "Benchmark"),
        [(heading, body) for heading, body in sections if body],
        kind="benchmark",
        verdict=_verdict(benchmark),
        lead=_tiles(benchmark),
    )
    return page.write(out / "report.html", html)


# --- the head -------------------------------------------------------------------------------------


def _verdict(benchmark: Benchmark) -> str:
    question = str(benchmark.result.get("question") or "")
    sentences = []
    main, ranked = benchmark.main, []
    if main:
        ranked = benchmark.ranked(benchmark.region, main)
    if not main or not ranked:
        sentences.append("No arm was scored, so nothing can be said.")
    else:
        best, where = ranked[0], benchmark.region_in_words(benchmark.region, " on ")
        where = " over all regions" if benchmark.region == MEAN else where
        word = {1: "highest", -1: "lowest"}.get(main.better)
        if word and len(ranked) > 1:
            start = f"Of {len(ranked)} arms, {best} has the {word} mean {main.name}{where}: "
        else:
            start = f"The mean {main.name} of {best}{where} is "
        sentences.append(start + _mean_in_words(benchmark, best, main) + ".")
        sentences += [_baseline(benchmark, name, best) for name in benchmark.baselines]
        sentences += _answers(benchmark, main)
    if poor := [arm for arm in benchmark.arms if arm.get("undertrained")]:
        sentences.append(
            f"{len(poor)} of {plural(len(benchmark.names), 'arm')} had too few steps to be judged: "
            "more compute may change their order."
        )
    sentences.append(in_words(benchmark))
    if failures := as_list(benchmark.result.get("failures")):
        sentences.append(f"{plural(len(failures), 'run')} failed.")
    return "\n".join(part for part in (question, " ".join(filter(None, sentences))) if part)


def _mean_in_words(benchmark: Benchmark, arm: str, metric: Metric) -> str:
    entry = benchmark.figure(arm, benchmark.region, metric.key)
    words = number(entry["mean"], metric.digits) + (f"{_NB}{metric.unit}" if metric.unit else "")
    if between := interval(entry, metric.digits):
        words += f" (95{_NB}% interval {between}; {plural(as_number(entry.get('n')), 'subject')})"
    return words


def _baseline(benchmark: Benchmark, name: str, best: str) -> str:
    """What costs nothing already scores, accuracy above all."""
    metrics = [m for m in benchmark.metrics if m is benchmark.main or m.key == "accuracy"]
    figures = [
        f"{m.name} {percent(mean) if m.key == 'accuracy' else number(mean, m.digits)}"
        for m in metrics
        if (mean := as_number(benchmark.figure(name, benchmark.region, m.key).get("mean")))
        is not None
    ]
    if not figures:
        return ""
    words = f"“{name}” scores {' and '.join(figures)}"
    if main := benchmark.main:
        means = [benchmark.figure(n, benchmark.region, main.key).get("mean") for n in (name, best)]
        if main.better and means[0] is not None and (means[0] - means[1]) * main.better >= 0:
            words += ": no arm does better"
    return f"{words}."


def _answers(benchmark: Benchmark, main: Metric) -> list[str]:
    """The contrasts of the headline in sentences, at most three."""
    contrasts = [
        c for c in benchmark.contrasts
        if c.get("metric") == main.key and c["region"] == benchmark.region
        and as_number(c.get("difference")) is not None
    ]  # fmt: skip
    sentences = []
    for contrast in contrasts[:3]:
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
        sentences.append(_price(benchmark, str(a), str(b)))
    if len(contrasts) > 3:
        sentences.append(f"{plural(len(contrasts) - 3, 'more contrast')} below.")
    return sentences


def _price(benchmark: Benchmark, a: str, b: str) -> str:
    """What a method costs beside another on the same network; empty where networks differ."""
    arms = {str(arm["arm"]): arm for arm in benchmark.arms}
    first, second = arms.get(a, {}), arms.get(b, {})
    cost, beside = (as_number(arm.get("gmac_step")) for arm in (first, second))
    if first.get("network") != second.get("network") or not cost or not beside:
        return ""
    steps = [number(as_number(arm.get("steps")), 0) for arm in (first, second)]
    return (
        f"A step of {a} takes {number(cost / beside, 2)} times the multiplications of one of {b}: "
        f"{steps[0]} steps beside {steps[1]}."
    )


def _tiles(benchmark: Benchmark) -> Markup:
    subjects = {str(r.get("subject")) for r in benchmark.rows}
    cases = {str(r.get("case")) for r in benchmark.rows}
    trained = {(str(r.get("arm")), str(r.get("run"))) for r in benchmark.rows}
    trained = {run for run in trained if run[0] not in benchmark.baselines}
    failures = len(as_list(benchmark.result.get("failures")))
    items = [
        (
            "Arms",
            number(len(benchmark.names), 0),
            f"{plural(len(benchmark.baselines), 'baseline')}",
        ),
        ("Runs", number(len(trained), 0), f"{failures} failed" if failures else "none failed"),
        ("Subjects", number(len(subjects), 0), plural(len(cases), "case")),
        ("Time", duration(benchmark.result.get("seconds")) or page.DASH, "in all"),
    ]
    main = benchmark.main
    if main and (ranked := benchmark.ranked(benchmark.region, main)) and main.better:
        entry = benchmark.figure(ranked[0], benchmark.region, main.key)
        items.insert(0, (f"Best {main.name}", number(entry["mean"], main.digits), ranked[0]))
    return block("tiles", items)


# --- the sections ---------------------------------------------------------------------------------


def _warnings(benchmark: Benchmark) -> Markup:
    parts = []
    failures = [as_dict(f) for f in as_list(benchmark.result.get("failures"))]
    if failures:
        columns = (Column("arm", "Arm"), Column("run", "Run"), Column("reason", "Why it failed"))
        rows = [{k: plain(f.get(k)) for k in ("arm", "run", "reason")} for f in failures]
        words = "These runs gave no figures; whatever is said of their arms rests on the others."
        parts.append(block("note", words, "blocking"))
        parts.append(page.table("Runs that failed", columns, rows, sortable=False))
    if notes := as_list(benchmark.result.get("notes")):
        parts.append(block("bullets", [str(note) for note in notes]))
    return join(*parts)


def _standings(benchmark: Benchmark) -> Markup:
    if not benchmark.metrics:
        return block("missing", "Figures of the arms")
    parts = [overview(benchmark)]
    for region in benchmark.regions:
        if len(benchmark.regions) > 1:
            parts.append(block("subheading", label(benchmark.region_in_words(region, ""))))
        names = benchmark.ranked(region, benchmark.metrics[0])
        names += [n for n in benchmark.names if n not in names]
        best = {m.key: _best(benchmark, region, m) for m in benchmark.metrics}
        row_groups: list[list[tuple[str, list[dict[str, Any]]]]] = [
            [(benchmark.marked(name),
              [_cell(benchmark, name, region, m, best[m.key]) for m in benchmark.metrics])
             for name in group]
            for group in (names, benchmark.baselines)
        ]  # fmt: skip
        heads = ["Arm", *(m.heading for m in benchmark.metrics)]
        caption = f"Standings, {region}" if region else "Standings"
        parts.append(block("standings", caption, heads, *row_groups))
    words = (
        "Means over subjects, with 95 % bootstrap intervals over subjects and medians. The best "
        "mean of a column is in bold; it is no victory where intervals overlap: see the paired "
        "contrasts."
    )
    if benchmark.baselines:
        words += " Rows set apart below were not trained: what an arm must beat."
    return join(*parts, block("text", words))


def _best(benchmark: Benchmark, region: str, metric: Metric) -> float | None:
    """The best mean of the arms, of those that took part; None where better is not known."""
    ranked = benchmark.ranked(region, metric)
    if not metric.better or len(ranked) < 2:
        return None
    return float(benchmark.figure(ranked[0], region, metric.key)["mean"])


def _cell(
    benchmark: Benchmark, arm: str, region: str, metric: Metric, best: float | None
) -> dict[str, Any]:
    entry = benchmark.figure(arm, region, metric.key)
    sizes = {benchmark.figure(n, region, metric.key).get("n") for n in benchmark.names} - {None}
    small = [interval(entry, metric.digits).replace(" to ", f"\u2009{page.DASH}\u2009")]
    if as_number(entry.get("median")) is not None:
        small.append(f"median {number(entry['median'], metric.digits)}")
    if len(sizes) > 1 and entry:
        small.append(plural(as_number(entry.get("n")), "subject"))
    mean = number(entry.get("mean"), metric.digits)
    tied = best is not None and mean == number(best, metric.digits)
    return {
        "value": mean,
        "small": [words for words in small if words],
        "best": tied and arm not in benchmark.baselines,
    }


def _charts(benchmark: Benchmark) -> Markup:
    """Bars of every metric in the headline's region; other regions are folded away."""
    if not benchmark.metrics:
        return Markup()
    groups: list[list[Picture]] = []
    for region in benchmark.regions:
        names = benchmark.ranked(region, benchmark.metrics[0]) + benchmark.baselines
        charts = []
        for metric in benchmark.metrics:
            bars = [
                Estimate(n, e["mean"], as_number(e.get("low")), as_number(e.get("high")),
                         apart=n in benchmark.baselines)
                for n in names
                if (e := benchmark.figure(n, region, metric.key))
            ]  # fmt: skip
            if bars:
                title = metric.heading + benchmark.region_in_words(region, f" {page.DASH} ")
                charts.append(interval_bars(bars, title, metric.digits))
        groups.append(charts)
    return fold_after(list(chain(*groups)), len(groups[0])) if any(groups) else Markup()


def _costs(benchmark: Benchmark) -> Markup:
    main, charts = benchmark.main, []
    if main and main.better:
        for key, cost, unit in (
            ("gmac", "GMAC of a forward pass", 1.0), ("ms", "ms of a forward pass", 1.0),
            ("parameters", "million parameters", 1e6),
        ):  # fmt: skip
            points = {}
            for arm in benchmark.arms:
                mean = benchmark.figure(str(arm["arm"]), benchmark.region, main.key).get("mean")
                price = as_number(arm.get(key))
                if mean is not None and price is not None and price > 0:
                    points[str(arm["arm"])] = (price / unit, float(mean))
            if len(points) > 1:
                title = f"{main.name} against {cost}"
                up = main.heading + benchmark.region_in_words(benchmark.region)
                higher_is_better = main.better > 0
                charts.append(pareto(points, title, cost, up, higher_is_better=higher_is_better))
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
