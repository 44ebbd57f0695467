from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest

from delineate.core.errors import InputError, LabelError
from delineate.scoring import class_figures
from delineate.scoring.class_figures import score, write

TWO = ("normal", "ill")


def row(case, truth, p, subject=None, slice_=None, classes=TWO):
    p = (1 - p, p) if isinstance(p, float | int) else p
    return {
        "case": case,
        "subject": subject or case,
        "slice": slice_,
        "truth": truth,
        "probabilities": dict(zip(classes, p, strict=True)),
    }


def cohort(subjects=12, cases=1, slices=0, seed=0):
    """Subjects of alternating class whose probabilities lean towards it."""
    rng = np.random.default_rng(seed)
    return [
        row(f"s{s:02d}-{c}", TWO[s % 2],
            float(np.clip(0.25 + 0.5 * (s % 2) + rng.normal(0, 0.25), 0.01, 0.99)),
            subject=f"s{s:02d}", slice_=z)
        for s in range(subjects) for c in range(cases) for z in (range(slices) or [None])
    ]  # fmt: skip


def table(path):
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def plain_page(monkeypatch):
    """Drawing takes a second a page."""
    seen = []

    def fake(path, summary, rows, images):
        seen.extend(images)
        path.write_text("page")
        return path

    monkeypatch.setattr("delineate.reports.classification.write", fake)
    return seen


def test_four_cases_by_hand(tmp_path, plain_page):
    rows = [
        row("a", "ill", 0.9),
        row("b", "ill", 0.4),
        row("c", "normal", 0.2),
        row("d", "ill", 0.8),
    ]
    summary = score(rows, TWO, resamples=200)
    figures = summary["figures"]
    assert (summary["unit"], summary["n_cases"], summary["n_subjects"]) == ("case", 4, 4)
    assert figures["accuracy"]["value"] == pytest.approx(3 / 4)
    assert figures["balanced_accuracy"]["value"] == pytest.approx((1 + 2 / 3) / 2)
    assert figures["roc_auc"]["value"] == 1
    assert figures["majority"]["class"] == "ill"
    assert any("Always answering “ill” would be right in 75.0 %" in n for n in summary["notes"])
    assert any("not shown to be better" in n for n in summary["notes"])
    assert any("Only 1 subject is of class “normal”" in n for n in summary["notes"])
    write(tmp_path, summary, rows)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    cases = table(tmp_path / "cases.csv")
    assert list(cases[1].values()) == ["b", "b", "ill", "normal", "no", "0.6", "0.6", "0.4"]
    assert list(cases[0]) == [
        "case", "subject", "truth", "answer", "right", "confidence", "p_normal", "p_ill",
    ]  # fmt: skip
    assert [r["accuracy"] for r in table(tmp_path / "subjects.csv")] == ["1", "0", "1", "1"]
    assert not (tmp_path / "slices.csv").exists()


def test_a_case_has_the_mean_probability_of_its_slices(tmp_path, plain_page):
    rows = [row("a", "ill", p, slice_=z) for z, p in enumerate((0.9, 0.8, 0.1))]
    rows += [row("b", "normal", p, slice_=z) for z, p in enumerate((0.6, 0.1))]
    summary = score(rows, TWO, resamples=50)
    assert summary["unit"] == "case"
    assert summary["figures"]["accuracy"]["value"] == 1
    assert summary["figures"]["n_samples"] == 2
    assert summary["levels"]["slice"]["accuracy"]["value"] == pytest.approx(3 / 5)
    assert summary["levels"]["slice"]["n_subjects"] == 2
    assert "subject" not in summary["levels"]  # one case each: the same figures again
    assert "not independent" in summary["notes"][0]
    write(tmp_path, summary, rows)
    cases, slices = (table(tmp_path / f"{name}.csv") for name in ("cases", "slices"))
    assert float(cases[0]["p_ill"]) == pytest.approx(0.6)
    assert [r["slices"] for r in cases] == ["3", "2"]
    assert [r["slice"] for r in slices] == ["0", "1", "2", "0", "1"]
    assert table(tmp_path / "subjects.csv")[0]["samples"] == "3"


def test_slices_with_classes_of_their_own_are_scored_as_slices(tmp_path, plain_page):
    rows = [
        row(f"s{s}", TWO[z % 2], 0.2 + 0.6 * (z % 2), slice_=z) for s in range(6) for z in range(5)
    ]
    summary = score(rows, TWO, resamples=50)
    assert (summary["unit"], summary["figures"]["n_samples"]) == ("slice", 30)
    assert summary["figures"]["n_subjects"] == 6
    assert summary["levels"] == {}
    write(tmp_path, summary, rows)
    assert len(table(tmp_path / "cases.csv")) == 30
    subject = table(tmp_path / "subjects.csv")[0]
    assert (subject["truth"], subject["answer"], subject["accuracy"]) == ("", "", "1")


def test_subjects_with_several_cases_are_a_level():
    summary = score(cohort(subjects=14, cases=3), TWO, resamples=100)
    assert summary["levels"]["subject"]["n_samples"] == 14
    assert summary["figures"]["n_samples"] == 42
    assert summary["figures"]["n_subjects"] == 14
    assert "Cases of one subject are not independent" in summary["notes"][0]


def test_intervals_are_over_subjects():
    once = cohort(subjects=20)
    many = [r | {"case": f"{r['case']}-{k}"} for r in once for k in range(8)]
    first, other = (score(rows, TWO, resamples=200)["figures"] for rows in (once, many))
    assert other["accuracy"] == pytest.approx(first["accuracy"])


def test_nothing_wrong_is_not_shown_as_certainty():
    rows = [row(f"c{i}", TWO[i % 2], float(i % 2)) for i in range(20)]
    summary = score(rows, TWO, resamples=200)
    assert summary["figures"]["accuracy"] == {"value": 1.0, "ci_low": None, "ci_high": None}
    # 0.05 ** (1 / 20) = 0.861
    assert any("up to 13.9 % of subjects" in note for note in summary["notes"])


def test_a_class_without_a_case_is_told_and_is_not_zero():
    classes = ("a", "b", "c")
    rows = [row(f"c{i}", "ab"[i % 2], (0.6, 0.3, 0.1), classes=classes) for i in range(12)]
    summary = score(rows, classes, resamples=100)
    assert summary["figures"]["per_class"][2]["recall"]["value"] is None
    assert any("No case is of class “c”" in note for note in summary["notes"])


def test_pictures_are_asked_for_the_worst_mistakes_alone(tmp_path, plain_page):
    rows = [row(f"c{i:02d}", "normal", 0.5 + i / 100, slice_=0) for i in range(1, 20)]
    rows += [row("c19", "normal", 0.99, slice_=1), row("right", "ill", 0.9, slice_=0)]
    asked = []

    def show(one):
        asked.append((one["case"], one["slice"]))
        return np.zeros((4, 4))

    write(tmp_path, score(rows, TWO, resamples=50), rows, show)
    assert asked[0] == ("c19", 1)  # of its slices the one that is most wrong
    assert asked[1] == ("c18", 0)
    assert len(asked) == len(plain_page) == 6
    assert plain_page[0]["slice"] == 1


def test_what_cannot_be_scored_is_told():
    with pytest.raises(InputError, match="at least one row"):
        score([], TWO)
    with pytest.raises(InputError, match="every sample once"):
        score([row("a", "ill", 0.5), row("a", "ill", 0.5)], TWO)
    with pytest.raises(InputError, match="every sample once"):
        score([row("a", "ill", 0.5, slice_=0), row("a", "ill", 0.5)], TWO)
    with pytest.raises(InputError, match="one subject a case, got 'x' and 'y'"):
        score([row("a", "ill", 0.5, "x", 0), row("a", "ill", 0.5, "y", 1)], TWO)
    with pytest.raises(LabelError, match="got the truth 'odd'"):
        score([row("a", "odd", 0.5)], TWO)
    with pytest.raises(LabelError, match="probabilities of normal"):
        score([row("a", "ill", [1.0], classes=("normal",))], TWO)
    with pytest.raises(InputError, match="sum to 1"):
        score([row("a", "ill", (0.5, 0.6))], TWO)
    with pytest.raises(InputError, match="sum to 1"):
        score([row("a", "ill", (math.nan, 1.0))], TWO)


def test_the_whole_page_from_rows_to_disk(tmp_path):
    rows = cohort(subjects=16, cases=2, slices=3, seed=3)
    summary = score(rows, TWO, resamples=100)
    summary["failures"] = [{"case": "lost", "code": "read", "message": "cannot be read"}]
    page = write(tmp_path / "out", summary, rows, lambda one: np.eye(12) * one["slice"])
    text = page.read_text(encoding="utf-8")
    assert page == tmp_path / "out" / "report.html"
    for words in (
        "Always answering",
        "By slice, case and subject",
        "cannot be read",
        "Shown: slice",
    ):
        assert words in text
    files = {p.name for p in page.parent.iterdir()}
    assert files == {"cases.csv", "slices.csv", "subjects.csv", "summary.json", "report.html"}


def test_thousands_of_cases_are_grouped_in_no_time(monkeypatch):
    import time

    rows = cohort(subjects=3000, cases=1, slices=2)
    start = time.perf_counter()
    for level in ("slice", "case", "subject"):
        class_figures.samples(rows, TWO, level)
    assert time.perf_counter() - start < 2
