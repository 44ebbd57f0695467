from __future__ import annotations

import numpy as np
import pytest
from tests.reports.conftest import HOSTILE, Page

from delineate.core.errors import GeometryError
from delineate.metrics.classification import classification_figures
from delineate.reports import _class_charts as charts
from delineate.reports import classification


def scored(classes=("normal", "ill"), samples=40, seed=0, slices=False, resamples=60, **more):
    """A summary and rows, as scoring gives them."""
    rng = np.random.default_rng(seed)
    truth = np.arange(samples) % len(classes)
    table = rng.dirichlet(np.ones(len(classes)), samples)
    table[np.arange(samples), truth] += 0.3
    table /= table.sum(axis=1, keepdims=True)
    names = [f"case {i}" for i in range(samples)]
    figures = classification_figures(table, truth, names, classes, resamples=resamples)
    rows = [
        {
            "case": name, "subject": name, "slice": 3 if slices else None, "truth": classes[t],
            "answer": classes[int(p.argmax())], "right": bool(p.argmax() == t),
            "confidence": float(p.max()),
            "probabilities": dict(zip(classes, p.tolist(), strict=True)),
        }
        for name, t, p in zip(names, truth.tolist(), table, strict=True)
    ]  # fmt: skip
    summary = {
        "classes": list(classes), "unit": "case", "figures": figures, "levels": {},
        "notes": ["what to know first"], "rules": {"answer": "the largest"},
        "settings": {"seed": 0}, "versions": {"numpy": "2"}, "failures": [], **more,
    }  # fmt: skip
    return summary, rows


def render(tmp_path, *args, **kwargs):
    path = classification.write(tmp_path / "report.html", *args, **kwargs)
    return Page(path.read_text(encoding="utf-8"))


def test_the_headline_stands_on_top_with_its_interval_and_the_majority(tmp_path):
    summary, rows = scored()
    page = render(tmp_path, summary, rows)
    words = page.words()
    figure = summary["figures"]["balanced_accuracy"]
    assert f"{100 * figure['value']:.1f}\u00a0%" in page.text
    assert f"{100 * figure['ci_low']:.1f} to {100 * figure['ci_high']:.1f}" in page.text
    assert "Always answering “normal” would have 50.0 % and 50.0 %." in words
    assert words.index("what to know first") < words.index("Recall (sensitivity)")
    area = summary["figures"]["roc_auc"]
    assert f"ill: area {area['value']:.3f} ({area['ci_low']:.3f} to {area['ci_high']:.3f})" in words
    for heading in ("Ranking", "Trust", "Worst mistakes", "Every answer", "Scoring"):
        assert heading in words


def test_it_loads_nothing(tmp_path):
    summary, rows = scored(("a", "b", "c"))
    images = [{"row": rows[0], "image": np.eye(9), "slice": None}]
    page = render(tmp_path, summary, rows, images)
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object")
        for key in ("src", "href", "xlink:href"):
            assert attributes.get(key, "#").startswith(("#", "data:image/png"))
    assert len(page.named("img")) == 1
    assert len(page.named("figure")) == 6  # confusion, ROC, PR, reliability, risk, a mistake


def test_wrong_answers_come_first_and_the_surest_of_them_on_top(tmp_path):
    summary, rows = scored(samples=30)
    page = render(tmp_path, summary, rows)
    told = page.words()
    wrong = sorted((r for r in rows if not r["right"]), key=lambda r: -r["confidence"])
    assert len(wrong) > 2
    table = told[told.rindex("Every answer") :]
    places = [table.index(f"{r['case']}{r['truth']}") for r in wrong]
    assert places == sorted(places)
    right = next(r for r in rows if r["right"])
    assert table.index(f"{right['case']}{right['truth']}") > max(places)


def test_pictures_of_mistakes_tell_truth_answer_and_slice(tmp_path):
    summary, rows = scored()
    wrong = next(r for r in rows if not r["right"])
    images = [
        {"row": wrong, "image": np.zeros((1, 8, 6)), "slice": 17},
        {"row": wrong, "image": None, "slice": None},
        {"row": wrong, "image": np.zeros((3, 8, 6), np.uint8), "slice": None},
    ]
    page = render(tmp_path, summary, rows, images)
    assert f"Truth: {wrong['truth']}. Answer: {wrong['answer']}," in page.words()
    assert "Shown: slice 17." in page.words()
    assert len(page.named("img")) == 2


def test_strange_names_stay_text(tmp_path):
    classes = HOSTILE[:4]
    summary, rows = scored(classes, notes=list(HOSTILE), title_of="x")
    for k, one in enumerate(rows):
        one["case"] = one["subject"] = HOSTILE[k % len(HOSTILE)] + str(k)
    summary["levels"] = {"slice": summary["figures"]}
    page = render(tmp_path, summary, rows, [{"row": rows[0], "image": np.eye(4)}], title=HOSTILE[0])
    assert not any("onerror" in a or "onmouseover" in a for _, a in page.tags)
    assert len(page.named("script")) == len(render(tmp_path, *scored()).named("script"))
    assert "alert(1)" in page.text


def test_undefined_figures_are_dashes_not_zeros(tmp_path):
    summary, rows = scored(("a", "b", "c"))
    for figure in ("recall", "precision", "f1", "roc_auc"):
        summary["figures"]["per_class"][2][figure] = dict.fromkeys(("value", "ci_low", "ci_high"))
    summary["figures"]["mcc"] = {"value": None, "ci_low": None, "ci_high": None}
    page = render(tmp_path, summary, rows)
    assert "Matthews' correlation––" in page.words()


@pytest.mark.parametrize("classes", [2, 5, 9, 14])
def test_any_number_of_classes(tmp_path, classes):
    names = tuple(f"a class of number {k}" for k in range(classes))
    summary, rows = scored(names, samples=60)
    words = render(tmp_path, summary, rows).words()
    assert "Answers by truth" in words
    assert words.count("area 0.") + words.count("area 1.") <= 7


def test_little_or_nothing_to_show(tmp_path):
    page = render(tmp_path, {"classes": ["a", "b"], "unit": "case"}, [])
    assert "There are no scored cases to report." in page.words()
    one = {"case": "x", "subject": "x", "slice": None, "truth": "a", "answer": "a", "right": True,
           "confidence": 1.0, "probabilities": {"a": 1.0, "b": 0.0}}  # fmt: skip
    figures = classification_figures([[1.0, 0.0]], [0], ["x"], ["a", "b"])
    page = render(tmp_path, {"classes": ["a", "b"], "unit": "case", "figures": figures}, [one])
    assert "So few subjects allow no firm conclusion." in page.words()
    assert "No answer is wrong." in page.words()


def test_long_tables_are_cut_and_say_so(tmp_path):
    summary, rows = scored(samples=700, resamples=0)
    page = render(tmp_path, summary, rows)
    assert "The first 500 of 700; cases.csv has all." in page.words()
    assert len(page.named("tr")) < 560


def test_the_confusion_picture_tells_counts_in_words():
    picture = charts.confusion([[3, 1], [0, 2]], ["a", "b"])
    assert "truth a: 3 answered a, 1 answered b; truth b: 0 answered a, 2 answered b" in picture.alt
    assert "75.0 %" in str(picture.svg)
    assert charts.confusion([[1, 2]], ["a", "b"]) is None


def test_thumbnails_show_grey_and_colour_and_refuse_volumes():
    ramp = np.linspace(0, 1, 64).reshape(8, 8)
    for image in (ramp, ramp[None], np.repeat((255 * ramp)[None], 3, 0).astype(np.uint8)):
        picture = charts.thumbnail(image, "x", "y")
        assert (picture.width, picture.height) == (260, 260)
    assert charts.thumbnail(np.zeros((10, 20)), "x", "y").height == 130  # rows downwards
    assert charts.thumbnail(np.full((4, 4), np.nan), "x", "y").src
    with pytest.raises(GeometryError, match="a picture"):
        charts.thumbnail(np.zeros((2, 4, 4, 4)), "x", "y")
