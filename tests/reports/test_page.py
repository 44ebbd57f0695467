"""Bricks and the page around them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from tests.reports.conftest import HOSTILE, Page

from delineate.core.errors import OutputError
from delineate.reports import page
from delineate.reports.page import Column, block


def test_a_page_carries_its_own_security_policy_and_the_disclaimer() -> None:
    read = Page(page.render("Title", [("One", block("text", "words"))]))
    policies = [m for m in read.named("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policies[0]["content"].startswith(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
    )
    assert "Research use only; not a medical device" in read.words()
    assert read.named("html")[0]["lang"] == "en"


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_shown_and_never_obeyed(name: str) -> None:
    table = page.table(name, [Column("k", name)], [{"k": name}])
    finding = {
        "severity": "note", "code": name, "message": name, "fix": name, "where": [name]
    }  # fmt: skip
    body = page.join(table, page.facts({name: name}), block("findings", [finding]))
    html = page.render(name, [(name, body)], verdict=name)
    read = Page(html)
    assert len(read.named("script")) == 1
    assert len(read.named("style")) == 1
    assert not read.named("img")
    assert len(read.named("h1")) == 1
    assert not [k for _, given in read.tags for k in given if k.startswith("on")]
    assert str(page.clean(name)).split()[0] in read.text
    assert "\x00" not in html
    html.encode("utf-8")


def test_numbers_are_written_once_and_for_all() -> None:
    assert page.number(0.87654) == "0.877"
    assert page.number("0.5", 1) == "0.5"  # as read from a CSV
    assert page.number(1234567, 0) == "1\u202f234\u202f567"
    assert page.number(-2.5, 1) == "\u22122.5"
    assert page.number(float("nan")) == page.number(None) == page.number("x") == page.DASH
    assert page.plural(1, "case") == "1 case"
    assert page.plural(3, "case") == "3 cases"


def test_durations_read_as_people_say_them() -> None:
    said = {s: (page.duration(s) or "").replace("\N{NO-BREAK SPACE}", " ") for s in (9, 2292, 5400)}
    assert said == {9: "9 s", 2292: "38 min 12 s", 5400: "1 h 30 min"}
    assert page.duration(3600) == "1\N{NO-BREAK SPACE}h"
    assert page.duration(None) is None
    assert page.duration(float("nan")) is None


def test_sortable_tables_have_buttons_states_and_keys() -> None:
    columns = [Column("case", "Case"), Column("dice", "Dice", 3, bar=True)]
    rows = [{"case": "a", "dice": "0.25"}, {"case": "b", "dice": float("nan")}]
    read = Page(page.table("Cases", columns, rows))
    assert [t["aria-sort"] for t in read.named("th") if t.get("scope") == "col"] == ["none"] * 2
    assert len(read.named("button")) == 2
    assert [t["data-v"] for t in read.named("td")] == ["0.25", ""]
    assert read.named("td")[0]["style"] == "--v:0.250"
    assert "caption" in {tag for tag, _ in read.tags}


def test_writing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "report.html"
    page.write(path, "first")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OutputError, match="No space left"):
        page.write(path, "second")
    assert path.read_text() == "first"
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_a_file_where_the_folder_should_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError) as caught:
        page.write(tmp_path / "file" / "report.html", "x")
    assert caught.value.fix


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("ink", ["ink", "soft", "accent", "blocking", "warning", "note"])
def test_words_stand_out_from_the_paper(scheme: str, ink: str) -> None:
    """Contrast of at least 4.5 : 1, as WCAG 2.2 asks of text."""
    css = page.render("t", [])
    roots = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", roots[scheme == "dark"]))
    for paper in ("paper", "page", f"{ink}-bg"):
        if paper in colours:
            light, dark = sorted((_luminance(colours[c]) for c in (ink, paper)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, paper)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
