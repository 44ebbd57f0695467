"""The parts of a benchmark's page that say what was printed elsewhere and how ours was done."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from delineate.reports import page
from delineate.reports._benchmark_parts import (
    Benchmark,
    heading_of,
    interval,
    metric,
    p_value,
    told_apart,
)
from delineate.reports.comparisons import Estimate, forest, pairs
from delineate.reports.figures import Picture
from delineate.reports.page import (
    Column,
    as_dict,
    as_list,
    as_number,
    block,
    duration,
    join,
    label,
    number,
    plain,
)

_NB = "\N{NO-BREAK SPACE}"
_PLAN = {
    "arm": "Arm", "network": "Network", "method": "Method", "parameters": "Parameters",
    "steps": "Steps", "gmac": "GMAC forward", "gmac_step": "GMAC a step",
    "gmac_total": "GMAC in all", "ms": "ms forward", "rate": "Trained a second",
    "seconds": "Training",
}  # fmt: skip


def overview(benchmark: Benchmark) -> Markup:
    """The first metric of every arm in every region, side by side."""
    regions = benchmark.regions
    if not benchmark.metrics or len(regions) < 2:
        return Markup()
    main = benchmark.metrics[0]

    def cells(arm: str) -> list[dict[str, Any]]:
        values = []
        for region in regions:
            entry = benchmark.figure(arm, region, main.key)
            small = [between] if (between := interval(entry, main.digits)) else []
            mean = as_number(entry.get("mean"))
            value = page.DASH if mean is None else number(mean, main.digits)
            values.append({"value": value, "small": small, "best": False})
        return values

    names = benchmark.ranked(regions[0], main)
    names += [name for name in benchmark.names if name not in names]
    heads = [
        "Arm",
        *(label(benchmark.region_in_words(region, "")) or str(region) for region in regions),
    ]
    row_groups = [
        [(benchmark.marked(name), cells(name)) for name in group]
        for group in (names, benchmark.baselines)
    ]
    return block("standings", f"{main.heading} everywhere", heads, *row_groups)


def fold_after(charts: Sequence[Picture], most: int = 4) -> Markup:
    """The first charts, and a fold with the others."""
    parts = [block("pictures", charts[:most], True)]
    if further := charts[most:]:
        body = block("pictures", further, True)
        parts.append(block("fold", page.plural(len(further), "more chart"), body))
    return join(*parts)


def contrasts(benchmark: Benchmark) -> Markup:
    """Differences between arms: forest plots, the table, and one line a subject."""
    differences = [c for c in benchmark.contrasts if as_number(c.get("difference")) is not None]
    if not differences:
        return Markup()
    charts = []
    for key in dict.fromkeys(str(c.get("metric")) for c in differences):
        compared = metric(key)
        chosen = [c for c in differences if str(c.get("metric")) == key]
        chosen.sort(key=lambda c: c["region"] != benchmark.region)
        rows = [_forest_row(benchmark, c) for c in chosen]
        side = {1: "above 0 the first is better", -1: "below 0 the first is better"}
        across = f"difference of {compared.axis}"
        caption = f"{label(side[compared.better])}. " if compared.better else ""
        caption += "p is corrected; hollow: not told apart."
        charts.append(forest(rows, f"Differences of {compared.name}", across, caption=caption))
    lines = _pair_charts(benchmark, differences)
    columns = [
        Column("name", "Contrast"), Column("arms", "Difference of"), Column("region", "Region"),
        Column("metric", "Metric"), Column("difference", "Difference", 3),
        Column("between", f"95{_NB}% interval"), Column("p", "p"),
        Column("p_holm", "p (Holm)"), Column("n", "n", 0, "Subjects"),
    ]  # fmt: skip
    if not any(benchmark.regions):
        columns.pop(2)
    rows_shown = [
        {**c, "name": c.get("name") or _sides(c), "arms": _sides(c), "between": interval(c, 3),
         "metric": metric(str(c.get("metric"))).name,
         **{k: p_value(c.get(k))[1:].strip(f"{_NB}=") for k in ("p", "p_holm")}}
        for c in differences
    ]  # fmt: skip
    words = (
        "Each contrast compares two arms on the same subjects. p (Holm) is corrected for the "
        "number of contrasts; the interval is not."
    )
    parts = [block("text", words), fold_after(charts, 2)]
    parts.append(page.table("Paired contrasts", columns, rows_shown))
    if lines:
        parts += [block("subheading", "Subject by subject"), fold_after(lines)]
    return join(*parts)


def _forest_row(benchmark: Benchmark, contrast: Mapping[str, Any]) -> Estimate:
    name = _contrast_name(contrast)
    if len(benchmark.regions) > 1:
        name += f", {contrast['region']}"
    low, high = as_number(contrast.get("low")), as_number(contrast.get("high"))
    words = p_value(contrast.get("p_holm", contrast.get("p")))
    return Estimate(
        name, float(contrast["difference"]), low, high, not told_apart(contrast),
        f"({words})" if words else "",
    )  # fmt: skip


def _contrast_name(contrast: Mapping[str, Any]) -> str:
    name, sides = str(contrast.get("name") or ""), _sides(contrast)
    says_no_more = not name or name.replace(" minus ", " \u2212 ") == sides
    return sides if says_no_more else f"{name}: {sides}"


def _sides(contrast: Mapping[str, Any]) -> str:
    return f"{contrast.get('a')} \u2212 {contrast.get('b')}"


def _pair_charts(benchmark: Benchmark, contrasts: Iterable[Mapping[str, Any]]) -> list[Picture]:
    """Lines between two arms for the contrasts of the headline's metric and region."""
    charts: dict[tuple[str, str], Picture] = {}
    for contrast in contrasts:
        a, b, main = str(contrast.get("a")), str(contrast.get("b")), benchmark.main
        is_headline = (
            main and contrast.get("metric") == main.key and contrast["region"] == benchmark.region
        )
        if main is None or not is_headline or (a, b) in charts:
            continue
        first, second = (benchmark.by_subject(arm, benchmark.region, main.key) for arm in (a, b))
        title, better = (
            f"{a} and {b}{benchmark.region_in_words(benchmark.region)}",
            main.better >= 0,
        )
        if picture := pairs(first, second, (a, b), title, main.axis, higher_is_better=better):
            charts[a, b] = picture
    return list(charts.values())


def printed(benchmark: Benchmark) -> Markup:
    """Figures printed elsewhere, ours beside them, and what those figures break."""
    publication = as_dict(benchmark.result.get("printed"))
    rows, columns = (
        as_list(publication.get("rows")),
        [str(c) for c in as_list(publication.get("columns"))],
    )
    columns = [c for c in columns if c.lower() != "method"]
    claims = [as_dict(c) for c in as_list(publication.get("findings"))]
    if not rows and not claims:
        return Markup()
    parts = []
    if publication.get("source"):
        parts.append(block("text", f"As printed in: {publication['source']}."))
    if rows:
        parts.append(_printed_table(benchmark, [as_dict(r) for r in rows], columns))
    if claims:
        parts.append(block("subheading", "What the printed figures say of themselves"))
        for claim in claims:
            claim["severity"] = _severity(claim.get("verdict"))
        keys = ("severity", "verdict", "claim", "arithmetic")
        claim_rows = [{k: plain(c.get(k)) or "" for k in keys} for c in claims]
        parts.append(block("claims", claim_rows))
    return join(*parts)


def _severity(verdict: Any) -> str:
    words = str(verdict or "").lower()
    if any(w in words for w in ("impossible", "contradict", "violat", "false", "cannot")):
        return "blocking"
    return "note" if words in ("consistent", "holds", "true", "ok", "possible") else "warning"


def _printed_table(
    benchmark: Benchmark, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]
) -> Markup:
    """Printed figures, each with ours below it where we have an arm and a metric of that name."""
    factor = {c: 100 if any((as_number(r.get(c)) or 0) > 1.5 for r in rows) else 1 for c in columns}
    lines, any_measured = [], False
    for row in rows:
        cells = []
        for column in columns:
            measured = benchmark.matching_mean(row.get("arm", row.get("method")), column)
            small = []
            if measured:
                metric, mean = measured
                times = 1 if metric.unit else factor[column]
                small = [f"ours {number(mean, metric.digits if times == 1 else 2, times)}"]
                any_measured = True
            cells.append({"value": plain(row.get(column)) or page.DASH, "small": small})
        lines.append((str(row.get("method", "")), [{**c, "best": False} for c in cells]))
    heads = ["Method as printed", *(heading_of(c) for c in columns)]
    table = block("standings", "Printed figures", heads, lines, [])
    words = "Other data, splits and definitions may lie behind printed figures than behind ours."
    return join(table, block("text", words)) if any_measured else table


def method(benchmark: Benchmark) -> Markup:
    """Settings, and what every arm is and cost."""
    headings = {"Suite": benchmark.result.get("suite"), "Data": benchmark.result.get("data")}
    settings = as_dict(benchmark.result.get("settings"))
    words = {**headings, **{label(k): v for k, v in settings.items()}}
    facts = {k: plain(v) for k, v in words.items() if v is not None}
    parts = [page.facts(facts)] if facts else []
    if benchmark.arms:
        rows = []
        for arm in benchmark.arms:
            seconds = [s for s in map(as_number, as_list(arm.get("seconds"))) if s is not None]
            mean = math.fsum(seconds) / len(seconds) if seconds else None
            rows.append({**arm, "training": duration(mean), "note": plain(arm.get("note"))})
        columns = []
        for key, name in _PLAN.items():
            values = [as_number(r.get(key)) for r in rows if r.get(key) is not None]
            if key == "seconds":
                columns.append(Column("training", "Training, mean of runs"))
            elif values and all(v is not None for v in values) and key != "arm":
                columns.append(Column(key, name, _digits([v for v in values if v is not None])))
            elif values:
                columns.append(Column(key, name))
        parts += [
            block("subheading", "The arms"),
            page.table("The arms", columns, rows, sortable=False),
        ]
        notes = [f"{r['arm']}: {r['note']}" for r in rows if r["note"]]
        parts += [block("bullets", notes)] if notes else []
    return join(*parts)


def _digits(values: Sequence[float]) -> int:
    if all(v.is_integer() for v in values):
        return 0
    smallest = min((abs(v) for v in values if v), default=1.0)
    return min(4, max(0, 2 - math.floor(math.log10(smallest))))


def runs(benchmark: Benchmark) -> Markup:
    """Means of every run: how far they lie apart is the noise of training."""
    rows = benchmark.runs()
    keys = {"arm": None, "run": None, "seed": 0, "fold": 0, "cases": 0}
    used = [k for k in keys if any(r.get(k) is not None for r in rows)]
    columns = [
        Column(k, label(k), keys[k] if all(as_number(r.get(k)) is not None for r in rows) else None)
        for k in used
    ]
    columns += [Column(m.key, m.axis, m.digits) for m in benchmark.metrics]
    where = benchmark.region_in_words(benchmark.region, " Region: ")
    files = block(
        "text",
        "Beside this page: cases.csv (every case of every run), summary.csv and contrasts.csv"
        f"{', curves.csv' * bool(benchmark.curves)}.",
    )
    if not rows:
        return files
    words = block("text", f"Means over the subjects of each run.{where}")
    return join(words, page.table("Every run", columns, rows), files)
