"""Whole pages: training, evaluation, audit."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.reports.conftest import HOSTILE, Page, cases_rows

from delineate.core.errors import InputError
from delineate.reports import audit, demo, evaluation
from delineate.reports._run_folder import RunFolder
from delineate.tasks.report import report

MakeRun = Callable[..., Path]
PIECES = (
    "run.json", "cohort.json", "split.json", "audit.json", "log.jsonl", "config.yaml",
    "validation/cases.csv", "validation/overlays/overlays.json", "validation/overlays/worst.npz",
)  # fmt: skip


def read(path: Path) -> Page:
    return Page(path.read_text("utf-8"))


def test_a_run_is_told_in_plain_words(make_run: MakeRun) -> None:
    path = report(make_run())
    page = read(path)
    words = page.words()
    assert path.name == "report.html"
    assert "A unet was trained (d) on 2 cases of 2 subjects." in words
    assert "On 4 held-out subjects the mean Dice is 0.750" in words  # mean of 0.6 0.7 0.8 0.9
    assert "Voxel accuracy is 99.50" in words
    assert "marking nothing at all would already score 98.00" in words
    assert "It took 2 min 5 s of a budget of 1 h." in words
    assert "abc123" in words
    assert "1 234 567" in words
    assert "not available" in words  # the run did not tell when it finished
    assert len(page.named("img")) == 1


def test_pages_open_without_a_network(make_run: MakeRun) -> None:
    html = report(make_run()).read_text("utf-8")
    assert "http" not in html.replace("http-equiv", "")
    for tag, given in Page(html).tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form", "audio", "video")
        assert given.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
        assert given.get("href", given.get("xlink:href", "#")).startswith("#")
    assert "@import" not in html
    assert "fetch(" not in html


def test_every_picture_has_words(make_run: MakeRun) -> None:
    page = read(report(make_run()))
    assert all(len(image["alt"]) > 20 for image in page.named("img"))
    drawings = [s for s in page.named("svg") if s.get("aria-hidden") != "true"]
    assert drawings
    assert all(s["role"] == "img" and len(s["aria-label"]) > 20 for s in drawings)


def test_ids_are_unique_and_links_lead_somewhere(make_run: MakeRun) -> None:
    page = read(report(make_run()))
    ids = [given["id"] for _, given in page.tags if "id" in given]
    assert len(ids) == len(set(ids))
    links = {given["href"][1:] for given in page.named("a")}
    assert links <= set(ids)


def test_hostile_names_do_no_harm_anywhere(make_run: MakeRun) -> None:
    page = read(report(make_run(HOSTILE)))
    assert len(page.named("script")) == 1
    assert len(page.named("h1")) == 1
    assert all(image["src"].startswith("data:") for image in page.named("img"))
    assert not [k for _, given in page.tags for k in given if k.startswith("on")]
    assert "<script>alert(1)</script>" in page.text


def spoil(path: Path, damage: str) -> None:
    whole = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "gone":
        cut = whole[: len(whole) // 2]
        path.write_bytes({"empty": b"", "cut": cut, "foreign": b'\xff[1, "2"]\n'}[damage])


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "foreign", "folder"])
@pytest.mark.parametrize("piece", PIECES)
def test_a_damaged_piece_is_named(make_run: MakeRun, piece: str, damage: str) -> None:
    run = make_run()
    spoil(run / piece, damage)
    problems = " ".join(RunFolder.read(run).problems)
    if damage in ("cut", "foreign", "folder") and piece.endswith((".json", ".npz")):
        assert piece in problems
    if damage == "folder":
        assert f"{piece} cannot be" in problems
    if damage == "gone" and not piece.endswith(".npz"):
        assert not problems


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "foreign", "folder"])
def test_a_ruined_run_still_gives_a_page(make_run: MakeRun, damage: str) -> None:
    run = make_run()
    for piece in PIECES[1:]:
        spoil(run / piece, damage)
    words = read(report(run)).words()
    assert "not available" in words
    assert "A unet was trained" in words
    assert ("cohort.json is damaged" in words) == (damage in ("cut", "foreign"))


@pytest.mark.parametrize("strange", [None, 3, "x", [1], {"a": [None]}, float("inf")])
def test_values_of_the_wrong_kind_do_not_stop_a_page(make_run: MakeRun, strange: Any) -> None:
    run = make_run()
    (run / "log.jsonl").unlink()
    for name in ("run", "cohort", "split", "audit"):
        path = run / f"{name}.json"
        path.write_text(json.dumps(dict.fromkeys(json.loads(path.read_text()), strange)))
    (run / "validation" / "summary.json").write_text(
        json.dumps(dict.fromkeys(("structures", "mean_dice", "regions", "rules", "notes"), strange))
    )
    assert report(run).is_file()


def test_a_bare_run_folder_still_gives_a_page(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    words = read(report(tmp_path)).words()
    assert "No held-out cases were scored" in words
    assert words.count("not available") > 6


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match="expected a run folder") as caught:
            report(folder)
        assert caught.value.code == "not-a-run"
        assert caught.value.fix
    assert not list(tmp_path.iterdir())


def test_the_same_run_gives_the_same_bytes(make_run: MakeRun) -> None:
    run = make_run()
    first = report(run).read_bytes()
    assert report(run).read_bytes() == first


def test_a_leaky_split_is_shouted(make_run: MakeRun) -> None:
    run = make_run()
    split = json.loads((run / "split.json").read_text())
    (run / "split.json").write_text(json.dumps({**split, "leaky": True}))
    page = read(report(run))
    assert "leaky" in page.words()
    assert any("blocking" in p.get("class", "") for p in page.named("p"))
    verdict = page.words().split("Mean Dice")[0]
    assert "leaky" in verdict  # not only far down the page


def test_a_picture_outside_the_run_is_not_shown(make_run: MakeRun) -> None:
    run = make_run()
    listed = run / "validation" / "overlays" / "overlays.json"
    shutil.copy(run / "validation" / "overlays" / "worst.npz", run.parent / "secret.npz")
    listed.write_text(json.dumps([{"file": "../../../secret.npz", "title": "x", "aspect": 1}]))
    page = read(report(run))
    assert not page.named("img")
    assert "cannot be shown" in page.words()


def test_pickles_are_never_opened(make_run: MakeRun) -> None:
    run = make_run()
    danger = np.array([{"a": 1}], dtype=object)
    np.savez(run / "validation/overlays/worst.npz", image=danger, truth=danger, prediction=danger)
    assert "cannot be shown" in read(report(run)).words()


def test_an_evaluation_takes_its_figures_from_the_summary(tmp_path: Path) -> None:
    told = {"mean": 0.123, "ci_low": 0.1, "ci_high": 0.2, "median": 0.11, "n_subjects": 40}
    summary = {
        "structures": ["WT"], "mean_dice": told, "regions": {"WT": {"dice": told}},
        "notes": ["voxel size unknown"], "rules": {"both empty": "Dice is 1"}, "n_missing": 1,
        "failures": [{"case": "z", "code": "geometry", "message": "other grid"}],
    }  # fmt: skip
    words = read(evaluation.write(tmp_path / "r.html", summary, cases_rows())).words()
    assert "On 40 subjects the mean Dice is 0.123 (95 % interval 0.100 to 0.200)" in words
    assert "1 case had no prediction and counted as empty." in words
    assert "1 case could not be scored." in words
    for said in ("voxel size unknown", "Dice is 1", "other grid"):
        assert said in words


def test_a_headline_over_regions_leaves_single_labels_out() -> None:
    rows = cases_rows() + [
        {**r, "region": "label", "kind": "label", "dice": 0} for r in cases_rows()
    ]
    head = evaluation.headline(None, rows)
    assert head["regions"] == ["WT"]
    assert head["dice"]["mean"] == pytest.approx(0.75)
    assert evaluation.headline(None, [])["cases"] == 0


def test_a_missed_structure_has_no_say_in_the_distances_of_a_training_report(
    make_run: MakeRun,
) -> None:
    run = make_run()
    table = run / "validation" / "cases.csv"
    first, *lines = table.read_text("utf-8").splitlines()
    lines[0] = lines[0].replace(",ok", ",missed").replace(f",{10 * (1 - 0.6)},", ",345.0,")
    table.write_text("\n".join([first, *lines]), "utf-8")
    words = read(report(run)).words()
    assert "Median HD952.0 mm3 subjects where both have it; missed 1 of 4" in words


def test_the_page_of_a_demo_tells_new_brains_training_and_held_out_ones(
    make_run: MakeRun, tmp_path: Path
) -> None:
    truth = np.zeros((20, 20), np.uint8)
    truth[5:15, 5:15] = 1
    shown = [{"title": "best", "image": None, "truth": truth, "prediction": truth}]
    new = cases_rows(("n1", "n2"))
    evaluation.write(tmp_path / "scores" / "report.html", None, new, shown)
    with (tmp_path / "scores" / "cases.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(new[0]))
        writer.writeheader()
        writer.writerows(new)
    run = make_run()
    record = json.loads((run / "run.json").read_text("utf-8"))
    record["last_fit"] = {"cases": 6, "sentence": "Held-out figures are of the one before."}
    record["transfer"] = {"file": "phantom-brain-3d"}
    (run / "run.json").write_text(json.dumps(record), "utf-8")
    path = demo.write(tmp_path / "demo.html", run, tmp_path / "scores")
    page = read(path)
    words = page.words()
    started = "(d), from the weights phantom-brain-3d, on 2 cases of 2 subjects"
    assert f"{started}, and in the end on 6 cases. On 2 new subjects" in words
    held_out = words[words.index("On 4 held-out subjects") :]
    assert "Held-out figures are of the one before." in held_out, "those of new brains are not"
    assert words.count("Held-out figures are of the one before.") == 1
    assert "On 4 held-out subjects the mean Dice is 0.750" in words
    assert "Learning rate" in words
    assert "abc123" in words  # of the run's hashes
    assert len(page.named("img")) == 2
    assert not RunFolder.read(tmp_path / "nowhere", tmp_path / "scores").problems


def test_cases_are_listed_worst_first(tmp_path: Path) -> None:
    page = read(evaluation.write(tmp_path / "r.html", None, cases_rows()[::-1]))
    dice = [float(c["data-v"]) for c in page.named("td") if c["class"] == "n bar"]
    assert dice[-4:] == sorted(row["dice"] for row in cases_rows())


def test_an_evaluations_pictures_reach_the_training_report(make_run: MakeRun) -> None:
    run = make_run()
    shutil.rmtree(run / "validation" / "overlays")
    truth = np.zeros((20, 20), np.uint8)
    truth[5:15, 5:15] = 1
    pictures = [{"title": "worst: <b>a</b>", "image": None, "truth": truth, "prediction": truth}]
    evaluation.write(run / "validation" / "report.html", None, cases_rows(), pictures)
    assert (run / "validation" / "overlays" / "1.png").read_bytes()[:4] == b"\x89PNG"
    page = read(report(run))
    assert len(page.named("img")) == 1
    assert "Worst: <b>a</b>" in page.words()
    listed = run / "validation" / "overlays" / "overlays.json"
    evil = listed.read_text().replace("#E69F00", "url(//x)")
    listed.write_text(evil)
    assert "url(//x)" not in report(run).read_text("utf-8")


RESULT: dict[str, Any] = {
    "root": "/data/cohort", "layout": "msd", "cases": 12, "subjects": 10,
    "facts": {"dimensions": 3, "orientation": {"RAS": 9, "LPS": 3}, "nothing": [],
              "spacing": [{"spacing_mm": [1, 1, 3], "cases": 12}]},
    "findings": [
        {"code": "n", "severity": "note", "message": "a note", "where": [], "fix": ""},
        {"code": "b", "severity": "blocking", "message": "a block", "where": ["x"], "fix": "mend"},
        {"code": "w", "severity": "warning", "message": "a warning",
         "where": [f"case-{i}" for i in range(700)], "fix": None},
    ],
}  # fmt: skip


def test_an_audit_shows_the_gravest_first(tmp_path: Path) -> None:
    page = read(audit.write(tmp_path / "audit.html", RESULT))
    words = page.words()
    assert "12 cases of 10 subjects looked at. 1 finding must be settled before training" in words
    assert words.index("a block") < words.index("a warning") < words.index("a note")
    assert "Next move mend" in words
    assert "700 places" in words
    assert "and 200 more" in words
    assert len(page.named("details")) == 1  # long lists are folded, short ones are not
    assert "RAS" in words
    assert "1, 1, 3" in words


@pytest.mark.parametrize("result", [{}, {"findings": None}, {"findings": ["x"], "facts": [1]}])
def test_an_odd_audit_result_still_gives_a_page(tmp_path: Path, result: dict[str, Any]) -> None:
    assert audit.write(tmp_path / "audit.html", result).stat().st_size > 5000


@pytest.mark.parametrize("name", HOSTILE)
def test_an_audit_of_hostile_files_does_no_harm(tmp_path: Path, name: str) -> None:
    finding = {"code": name, "severity": name, "message": name, "where": [name] * 6, "fix": name}
    facts = {name: {name: 1}, "rows": [{name: name}], "plain": name}
    result = {"root": name, "layout": name, "cases": 1, "subjects": 1, "facts": facts,
              "findings": [finding]}  # fmt: skip
    page = read(audit.write(tmp_path / "audit.html", result))
    assert len(page.named("script")) == 1
    assert not page.named("img")
    assert not [k for _, given in page.tags for k in given if k.startswith("on")]
