"""The page of a benchmark: what it says, what it leaves out, and its tables as files."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from tests.reports.conftest import HOSTILE, Page

from delineate.core.errors import OutputError
from delineate.reports import benchmark, comparisons
from delineate.reports.comparisons import Estimate

ARMS = {"fcn": (0.70, 12.0, 9.0), "unet": (0.80, 13.0, 11.0), "big": (0.79, 40.0, 30.0)}
FILES = {"report.html", "cases.csv", "summary.csv", "contrasts.csv"}


def make(metrics: tuple[str, ...] = ("dice", "accuracy", "hd95"), region: str = "WT") -> Any:
    """Six subjects, two runs; the numbers of an arm lie about what ``ARMS`` says."""
    rows, summary = [], []
    for arm, quality in [*((a, v[0]) for a, v in ARMS.items()), ("all background", 0.0)]:
        for run, subject in itertools.product(range(2), range(6)):
            value = quality + 0.01 * (subject - 2.5) * (quality > 0)
            numbers = dict.fromkeys(metrics, value)
            numbers |= (
                {"hd95": None if quality == 0 else 20 * (1 - value)} if "hd95" in metrics else {}
            )
            rows.append(
                {
                    "arm": arm,
                    "run": f"r{run}",
                    "seed": run,
                    "fold": 0,
                    "case": f"c{subject}",
                    "subject": f"s{subject}",
                    "region": region,
                    **numbers,
                }
            )
        for m in metrics:
            values = [r[m] for r in rows if r["arm"] == arm and r[m] is not None]
            mean = float(np.mean(values)) if values else None
            ends = {} if mean is None else {"low": mean - 0.02, "high": mean + 0.02, "median": mean}
            summary.append(
                {"arm": arm, "region": region, "metric": m, "mean": mean, "n": 6, **ends}
            )
    contrasts = [
        {
            "name": "skips",
            "a": "unet",
            "b": "fcn",
            "region": region,
            "metric": metrics[0],
            "difference": 0.1,
            "low": 0.08,
            "high": 0.12,
            "p": 0.0005,
            "p_holm": 0.001,
            "n": 6,
        },
        {
            "name": "size",
            "a": "big",
            "b": "unet",
            "region": region,
            "metric": metrics[0],
            "difference": -0.01,
            "low": -0.03,
            "high": 0.01,
            "p": 0.4,
            "p_holm": 0.4,
            "n": 6,
        },
    ]
    arms = [
        {
            "arm": a,
            "network": a,
            "method": "supervised",
            "parameters": int(1e6 * g),
            "gmac": g,
            "gmac_step": 3 * g,
            "steps": 100,
            "gmac_total": 300 * g,
            "ms": ms,
            "seconds": [60.0, 62.0],
            "note": None,
        }
        for a, (_, g, ms) in ARMS.items()
    ]
    return {
        "suite": "small", "title": "Three networks", "data": "phantoms", "seconds": 400.0,
        "question": "Do skips help?", "settings": {"split": "by subject", "seeds": [0, 1]},
        "arms": arms, "rows": rows, "summary": summary, "contrasts": contrasts,
        "printed": {
            "source": "a paper", "columns": ["method", "accuracy", "F1"],
            "rows": [{"method": "FCN", "accuracy": 95.4, "F1": 67.08}],
            "findings": [{"claim": "F1 99.99 of P 99.90 and R 98.99",
                          "arithmetic": "2PR/(P+R) = 99.44", "verdict": "impossible"}],
        },
        "failures": [{"arm": "big", "run": "r2", "reason": "memory ran out"}],
        "notes": ["two subjects were left out"],
    }  # fmt: skip


def show(result: Any, out: Path) -> Page:
    return Page(benchmark.write(result, out).read_text("utf-8"))


def test_an_arm_that_had_too_few_steps_is_called_undertrained_wherever_it_is_ranked(tmp_path):
    result = make()
    result["arms"][0] |= {"undertrained": True, "note": "undertrained, with 100 of 900 steps"}
    page = benchmark.write(result, tmp_path).read_text("utf-8")
    assert "<bdi>fcn (undertrained)</bdi>" in page
    assert "<bdi>unet</bdi>" in page
    assert "1 of 3 arms had too few steps to be judged" in page
    assert "fcn: undertrained, with 100 of 900 steps" in page
    assert "(undertrained)" not in (tmp_path / "summary.csv").read_text()


def test_learning_curves_are_drawn_and_who_still_gained_is_named_wherever_it_is_ranked(tmp_path):
    result = make()
    result["curves"] = [
        {"arm": arm, "run": run, "step": step, "gmac": 3 * step, "metric": "dice",
         "value": 0.5 + step / 400 + run / 50}
        for arm in ARMS for run in range(2) for step in (5, 50, 95)
    ]  # fmt: skip
    for arm, rises in zip(result["arms"], ([0.04, 0.02], [0.001, -0.002], [0.0, 0.0]), strict=True):
        arm |= {"rises": rises, "converged": sum(rises) / 2 < 0.01}
    result["criterion"] = "converged: less than 0.01 gained"
    html = benchmark.write(result, tmp_path).read_text("utf-8")
    assert "Still gaining when the compute was spent: fcn; more compute" in html
    assert "<bdi>fcn (still gaining)</bdi>" in html
    assert "unet (" not in html
    assert "fcn: 0.522 after 15 GMAC, 0.748 after 285" in html  # the mean of its runs
    assert "0.020 to 0.040" in html
    assert "converged: less than 0.01 gained." in html
    with (tmp_path / "curves.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 18
    for arm in result["arms"]:
        arm |= {"rises": [0.0], "converged": True}
    assert "all had converged" in benchmark.write(result, tmp_path).read_text("utf-8")


def test_a_method_is_said_to_cost_what_it_costs_beside_another_on_the_same_network(tmp_path):
    result = make()
    result["contrasts"][0] |= {"a": "fcn", "b": "unet"}
    result["arms"][0] |= {"network": "unet", "gmac_step": 48.75, "steps": 80}
    html = benchmark.write(result, tmp_path).read_text("utf-8")
    words = "A step of fcn takes 1.25 times the multiplications of one of unet: 80 steps beside 100"
    assert words in html
    assert "A step of big" not in html


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("benchmark")
    return benchmark.write(make(), out).read_text("utf-8")


def test_the_question_is_answered_in_words(html: str) -> None:
    words = Page(html).words()
    assert "Do skips help? Of 3 arms, unet has the highest mean Dice on WT: 0.800" in words
    assert "“all background” scores Dice 0.000 and Accuracy 0.00" in words
    assert "unet is better than fcn (Dice 0.100, 95 % 0.080 to 0.120, corrected p = 0.001)" in words
    assert "These data do not tell big and unet apart" in words
    assert "1 run failed." in words


def test_a_benchmark_that_nothing_wins_says_so(tmp_path: Path) -> None:
    result = make()
    for entry in result["summary"]:
        if entry["arm"] == "all background" and entry["metric"] == "dice":
            entry["mean"] = 0.85
    words = show(result, tmp_path).words()
    assert "“all background” scores Dice 0.850 and Accuracy 0.00 %: no arm does better." in words


def test_arms_judged_on_other_subjects_say_on_how_many(html: str, tmp_path: Path) -> None:
    result = make()
    for entry in result["summary"]:
        if entry["arm"] == "big":
            entry["n"] = 3
    assert "3 subjects" in show(result, tmp_path).words()
    assert "median 0.800 6 subjects" not in Page(html).words()


def test_failures_and_notes_come_first(html: str, tmp_path: Path) -> None:
    page = Page(html)
    words = page.words().split("Skip to the content")[1].split("Read first", 2)[2]
    assert words.index("two subjects were left out") < words.index("Standings")
    assert words.index("memory ran out") < words.index("Standings")
    calm = {**make(), "failures": [], "notes": []}
    assert "Read first" not in show(calm, tmp_path).words()


def test_the_best_is_in_bold_by_the_metrics_own_direction(html: str) -> None:
    table = html.split('<table class="standings">')[1].split("</table>")[0]
    unet = table.split("<bdi>unet</bdi>")[1].split("</tr>")[0]
    assert unet.count("best") == 3  # Dice and accuracy are highest, HD95 is lowest
    assert table.count(" best") == 3
    contestants, apart = table.split('<tbody class="apart">')
    assert "all background" in apart
    assert "all background" not in contestants


def test_a_metric_of_unknown_direction_has_no_best(tmp_path: Path) -> None:
    html = benchmark.write(make(("zeal",)), tmp_path).read_text("utf-8")
    assert 'class="n best"' not in html
    assert "The mean Zeal of" in Page(html).words()


def test_metrics_are_taken_from_the_data(tmp_path: Path) -> None:
    words = show(make(("accuracy", "macro_f1", "auc"), region="all"), tmp_path).words()
    for name in ("Macro F1", "AUC"):
        assert name in words
    assert "Dice" not in words


def test_a_classification_needs_no_region(tmp_path: Path) -> None:
    result = make(("auc", "f1"))
    for key in ("rows", "summary", "contrasts"):
        for entry in result[key]:
            entry["region"] = None
    words = show(result, tmp_path).words()
    assert "unet has the highest mean AUC: 0.800" in words
    assert "None" not in words


def test_printed_figures_stand_beside_ours_in_their_own_scale(html: str) -> None:
    words = Page(html).words()
    assert "95.4ours 70.00" in words.replace(" ours", "ours")  # accuracy of fcn, in percent
    assert "67.08ours 70.00" in words.replace(" ours", "ours")  # F1 is Dice
    assert "2PR/(P+R) = 99.44" in words


def test_the_files_hold_every_number(tmp_path: Path) -> None:
    result = make()
    benchmark.write(result, tmp_path / "new" / "folder")
    out = tmp_path / "new" / "folder"
    assert {p.name for p in out.iterdir()} == FILES
    with (out / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(result["rows"])
    for row, given in zip(rows, result["rows"], strict=True):
        assert float(row["dice"]) == pytest.approx(given["dice"], rel=1e-6)
        assert row["hd95"] == "" if given["hd95"] is None else float(row["hd95"]) > 0
    with (out / "contrasts.csv").open(newline="") as file:
        assert [r["name"] for r in csv.DictReader(file)] == ["skips", "size"]


def test_the_same_result_gives_the_same_bytes(html: str, tmp_path: Path) -> None:
    assert benchmark.write(make(), tmp_path).read_text("utf-8") == html


def test_the_page_stands_alone_and_its_charts_have_words(html: str) -> None:
    page = Page(html)
    assert "http" not in html.replace("http-equiv", "")
    assert all(a.get("href", "#").startswith("#") for _, a in page.tags)
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    drawings = [s for s in page.named("svg") if s.get("aria-hidden") != "true"]
    told = " ".join(s["aria-label"] for s in drawings)
    assert all(len(s["aria-label"]) > 20 for s in drawings)
    for kind in ("Bar chart", "Scatter plot", "Forest plot", "Paired lines of 6 subjects"):
        assert kind in told
    assert "Not beaten at their cost: fcn, unet." in told


@pytest.mark.parametrize("strange", [None, "x", [1, {}], {"a": [None]}])
@pytest.mark.parametrize("key", [None, *make()])
def test_what_is_missing_or_odd_does_not_stop_a_page(
    tmp_path: Path, key: str | None, strange: Any
) -> None:
    result = {**make(), key: strange} if key else dict.fromkeys(make(), strange)
    for big in ("rows", "summary"):  # short, for the sake of time
        if key not in (None, big):
            result[big] = []
    benchmark.write(result, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == FILES


def test_an_empty_result_says_so(tmp_path: Path) -> None:
    assert "No arm was scored" in show({}, tmp_path).words()


def test_hostile_names_do_no_harm(tmp_path: Path) -> None:
    name = "".join(HOSTILE)
    result = make(("dice", name))
    for key in ("arms", "rows", "summary", "contrasts"):
        for entry in result[key]:
            for field in ("arm", "a"):
                if entry.get(field) == "unet":
                    entry[field] = name
            entry["region"] = name
    result |= {"title": name, "question": name, "settings": {name: name}, "notes": [name]}
    page = show(result, tmp_path)
    assert len(page.named("script")) == 1
    assert len(page.named("h1")) == 1
    assert not page.named("img")
    assert not [k for _, given in page.tags for k in given if k.startswith("on")]


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError):
        benchmark.write(make(), tmp_path / "file" / "out")


def test_the_front_holds_what_nothing_beats() -> None:
    points = {"cheap": (1.0, 0.5), "same cost": (1.0, 0.4), "worse": (3.0, 0.45),
              "good": (2.0, 0.8), "equal": (4.0, 0.8), "best": (9.0, 0.9)}  # fmt: skip
    assert comparisons.front(points) == ["cheap", "good", "best"]
    assert comparisons.front(points, higher_is_better=False) == ["same cost"]


def test_labels_of_a_crowd_do_not_cover_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Figure] = []
    real = comparisons._label_points

    def spy(figure: Figure, *rest: Any) -> None:
        real(figure, *rest)
        kept.append(figure)

    monkeypatch.setattr(comparisons, "_label_points", spy)
    rng = np.random.default_rng(3)
    points = {f"arm_number_{i}": (float(10 + rng.uniform(0, 2)), 0.8 + float(rng.uniform(0, 0.01)))
              for i in range(12)}  # fmt: skip
    comparisons.pareto(points, "t", "GMAC", "Dice")
    boxes = [t.get_window_extent() for t in kept[0].axes[0].texts if t.get_text()]
    assert len(boxes) == 12
    overlaps = [a.overlaps(b) for a, b in itertools.combinations(boxes, 2)]
    assert not any(overlaps)


def test_pairs_count_who_is_ahead() -> None:
    a, b = {"x": 0.9, "y": 0.5, "z": 0.7, "lone": 1.0}, {"x": 0.8, "y": 0.6, "z": 0.7}
    picture = comparisons.pairs(a, b, ("A", "B"), "t", "Dice")
    assert picture is not None
    assert "A ahead in 1 (blue), B in 1 (red), equal in 1" in picture.caption
    assert "of 3 subjects" in picture.alt
    assert comparisons.pairs(a, {}, ("A", "B"), "t", "Dice") is None
    less = comparisons.pairs({"x": 1.0}, {"x": 2.0}, ("A", "B"), "t", "mm", higher_is_better=False)
    assert less is not None
    assert "A ahead in 1" in less.caption


def test_a_long_forest_says_what_it_leaves_out() -> None:
    rows = [Estimate(f"c{i}", 0.1, 0.0, 0.2) for i in range(40)]
    assert "first 30 of 40" in comparisons.forest(rows, "Differences", "Dice").title
