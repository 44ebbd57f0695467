"""The synthetic glioma cohort: what a user may rely on."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from delineate.core.errors import ConfigError, LockedError, OutputError
from delineate.core.lock import folder_lock
from delineate.data.cohort import Cohort
from delineate.phantoms import _anatomy, _signal
from delineate.phantoms._draw import MODALITIES, Recipe, plan
from delineate.phantoms._tumour import _react_and_diffuse
from delineate.phantoms.generate import VERSION, generate, simulate
from delineate.tasks.phantom import phantom as phantom_task

SUBJECTS = 8
FILES = (*MODALITIES, "seg")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("phantom") / "coarse", SUBJECTS, 4.0)


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "participants.tsv").open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def array(path: Path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj)


def oracle_dice(image: np.ndarray, truth: np.ndarray) -> float:
    """Dice at the best of all thresholds, over every value that occurs."""
    best = 0.0
    for threshold in np.unique(image)[::8]:
        taken = image > threshold
        best = max(best, 2 * (taken & truth).sum() / (taken.sum() + truth.sum()))
    return best


def test_every_scan_is_complete_and_listed(cohort: Path) -> None:
    rows = table(cohort)
    assert [row["participant_id"] for row in rows] == [f"sub-{i:03d}" for i in range(1, 9)]
    for row in rows:
        there = {p.name for p in (cohort / row["participant_id"]).iterdir()}
        assert there == {f"{name}.nii.gz" for name in FILES}
    assert not [p.name for p in cohort.iterdir() if p.name.startswith(".")]


def test_the_headers_say_that_it_is_synthetic(cohort: Path) -> None:
    for name in FILES:
        header = nib.load(cohort / "sub-001" / f"{name}.nii.gz").header
        assert header["descrip"].item() == b"Delineate phantom, synthetic"
    document = json.loads((cohort / "phantom.json").read_text())
    assert "synthetic" in document["what"]
    assert document["recipe"]["seed"] == 0
    assert document["scans"]["sub-001"]["scan"]["series"][3]["ti"] > 2000


def test_geometry_is_one_across_sequences_and_right_in_size(cohort: Path) -> None:
    axes = set()
    for folder in sorted(cohort.glob("sub-*")):
        images = [nib.load(folder / f"{name}.nii.gz") for name in FILES]
        for image in images:
            assert image.shape == images[0].shape
            assert np.array_equal(image.affine, images[0].affine)
            assert np.allclose(image.header.get_zooms(), 4.0)
            assert np.allclose(image.get_qform(), image.get_sform(), atol=1e-3)
        axes.add("".join(nib.aff2axcodes(images[0].affine)))
    assert len(axes) >= 4, "scanners of different sites store their axes differently"


def test_axis_order_changes_the_array_and_not_the_place(cohort: Path) -> None:
    row = next(row for row in table(cohort) if row["axes"] != "RAS")
    stored = nib.load(cohort / row["participant_id"] / "t2.nii.gz")
    volumes = simulate(Recipe(spacing_mm=4.0), int(row["participant_id"][4:]) - 1)
    canonical = nib.as_closest_canonical(stored)
    assert np.array_equal(np.asanyarray(canonical.dataobj), volumes.images["t2"])
    assert np.allclose(canonical.affine, volumes.affine)


@pytest.mark.parametrize("name", FILES)
def test_simpleitk_reads_the_same_voxels_in_the_same_place(cohort: Path, name: str) -> None:
    path = cohort / "sub-005" / f"{name}.nii.gz"
    ours, theirs = nib.load(path), sitk.ReadImage(str(path))
    assert np.array_equal(sitk.GetArrayFromImage(theirs).T, array(path))
    for corner in ((0, 0, 0), tuple(n - 1 for n in ours.shape)):
        ras = ours.affine @ [*corner, 1]
        lps = theirs.TransformIndexToPhysicalPoint([int(n) for n in corner])
        assert np.allclose(ras[:3], np.array(lps) * (-1, -1, 1), atol=1e-3)


def test_regions_nest_inside_the_brain_and_have_the_listed_volumes(cohort: Path) -> None:
    for row in table(cohort):
        folder = cohort / row["participant_id"]
        labels, t1 = array(folder / "seg.nii.gz"), array(folder / "t1.nii.gz")
        assert set(np.unique(labels)) <= {0, 1, 2, 4}
        assert (t1[labels > 0] > 0).all()
        whole, core = float(row["wt_ml"]), float(row["tc_ml"])
        enhancing = float(row["et_ml"])
        assert whole >= core >= enhancing
        assert whole == pytest.approx((labels > 0).sum() * 0.064, abs=1e-3)
        brain_l = (t1 > 0).sum() * 64 / 1e6
        assert 1.2 < brain_l < 2.8
        if row["grade"] == "control":
            assert not labels.any()
        else:
            assert 10 < whole < 200
            assert 1 < core < 90
            assert (enhancing > 0) == (row["grade"] == "HGG")


def test_same_seed_same_bytes_whatever_the_order_or_number_of_workers(
    cohort: Path, tmp_path: Path
) -> None:
    again = generate(tmp_path / "again", SUBJECTS, 4.0, workers=3)
    for path in cohort.rglob("*.nii.gz"):
        assert path.read_bytes() == (again / path.relative_to(cohort)).read_bytes()
    other = simulate(Recipe(spacing_mm=4.0, seed=1), 0).images["t1"]
    first = simulate(Recipe(spacing_mm=4.0), 0).images["t1"]
    assert other.shape != first.shape or not np.array_equal(other, first)


def test_interrupted_and_extended_cohorts_are_finished_exactly(
    cohort: Path, tmp_path: Path
) -> None:
    out = tmp_path / "resumed"
    generate(out, 3, 4.0, workers=1)
    shutil.rmtree(out / "sub-002")
    (out / ".partial-sub-004").mkdir()
    untouched = (out / "sub-001" / "t1.nii.gz").stat().st_mtime_ns
    generate(out, SUBJECTS, 4.0)
    assert (out / "sub-001" / "t1.nii.gz").stat().st_mtime_ns == untouched
    assert not (out / ".partial-sub-004").exists()
    for path in cohort.rglob("*.*"):
        if path.is_file():
            assert path.read_bytes() == (out / path.relative_to(cohort)).read_bytes()


def test_a_scan_that_fails_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("delineate.phantoms._export.write_volumes", full)
    with pytest.raises(OutputError) as caught:
        generate(tmp_path / "full", 2, 6.0, anatomy="ellipsoid")
    assert caught.value.code == "disk-full"
    assert {p.name for p in (tmp_path / "full").iterdir()} == {"phantom.json"}


def test_a_folder_with_something_else_is_refused(cohort: Path, tmp_path: Path) -> None:
    before = (cohort / "phantom.json").read_bytes()
    with pytest.raises(OutputError, match="seed 0") as caught:
        generate(cohort, SUBJECTS, 4.0, seed=7)
    assert caught.value.code == "phantom-other"
    with pytest.raises(OutputError, match="subjects 8"):
        generate(cohort, 4, 4.0)
    assert (cohort / "phantom.json").read_bytes() == before
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError) as caught:
        generate(tmp_path, 1, 4.0)
    assert caught.value.code == "phantom-foreign"
    (tmp_path / "phantom.json").write_text("[]")
    with pytest.raises(OutputError, match="description of a phantom"):
        generate(tmp_path, 1, 4.0)


def test_a_second_writer_is_turned_away(cohort: Path) -> None:
    with folder_lock(cohort), pytest.raises(LockedError):
        generate(cohort, SUBJECTS, 4.0)


def test_quotas_hold_for_any_size_and_do_not_depend_on_it() -> None:
    plans = [plan(Recipe(), i) for i in range(48)]
    twins = [p for p in plans if p.twin_of]
    people = {p.source: p for p in plans if not p.twin_of}
    assert len(twins) == 7
    assert sum(p.tumour is None for p in plans) == 5
    assert any(p.tumour is None for p in plans[:6])
    for twin in twins:
        first = people[twin.source]
        assert twin.subject == first.id < twin.id
        assert (twin.person, twin.tumour) == (first.person, first.tumour)
        assert twin.scan != first.scan
    assert {p.scan.site for p in plans} == {f"site-{i}" for i in range(1, 7)}
    assert plan(Recipe(twins=0.0), 47).twin_of is None


def test_site_and_grade_are_confounded_on_purpose() -> None:
    plans = [plan(Recipe(), i) for i in range(300)]
    high = {}
    for site in ("site-1", "site-5"):
        grades = [p.tumour.grade for p in plans if p.scan.site == site and p.tumour]
        high[site] = grades.count("HGG") / len(grades)
    assert high["site-1"] > high["site-5"] + 0.3


def test_twins_show_the_same_head_through_another_scanner(cohort: Path) -> None:
    row = next(row for row in table(cohort) if row["twin_of"] != "n/a")
    assert row["subject"] == row["twin_of"]
    images = []
    for name in (row["participant_id"], row["twin_of"]):
        image = nib.as_closest_canonical(nib.load(cohort / name / "seg.nii.gz"))
        labels = np.asanyarray(image.dataobj)
        voxels = np.argwhere(labels > 0)
        images.append((voxels @ image.affine[:3, :3].T + image.affine[:3, 3], labels[labels > 0]))
    assert np.allclose(images[0][0], images[1][0])
    assert np.array_equal(images[0][1], images[1][1])
    one, two = (array(cohort / n / "t1.nii.gz") for n in (row["participant_id"], row["twin_of"]))
    assert one.shape != two.shape or not np.array_equal(one, two)


def test_the_cohort_reader_keeps_twins_together(cohort: Path) -> None:
    opened = Cohort.open(cohort)
    rows = {row["participant_id"]: row for row in table(cohort)}
    assert len(opened.cases) == SUBJECTS
    for case in opened.cases:
        assert case.subject == rows[case.id]["subject"]
        assert tuple(case.images) == MODALITIES


def test_a_threshold_cannot_solve_it_and_the_tumour_can_be_seen(cohort: Path) -> None:
    scores, brighter = [], []
    for row in table(cohort):
        if row["grade"] != "control":
            folder = cohort / row["participant_id"]
            flair, whole = array(folder / "flair.nii.gz"), array(folder / "seg.nii.gz") > 0
            scores.append(oracle_dice(flair, whole))
            brighter.append(flair[whole].mean() / flair[~whole & (flair > 0)].mean())
    assert np.median(scores) < 0.85
    assert np.median(brighter) > 1.3


def test_spin_echo_and_flair_by_hand() -> None:
    white = _signal.TISSUES["wm"]
    assert (white.pd, white.t1, white.t2) == (0.70, 850, 75)
    t1, t2 = np.array(850.0), np.array(75.0)
    # 0.7 (1 - e^(-550/850)) e^(-10/75) = 0.7 * 0.47644 * 0.87517
    assert _signal.spin_echo(0.7, t1, t2, 550, 10) == pytest.approx(0.2919, abs=2e-4)
    # Fluid of T1 4200 ms is nulled near TI = 4200 ln(2 / (1 + e^(-9000/4200))) = 2447 ms.
    fluid = (np.array(4200.0), np.array(1800.0))
    assert _signal.flair(1.0, *fluid, 9000, 120, 2447) == pytest.approx(0, abs=1e-3)
    assert _signal.flair(1.0, *fluid, 9000, 120, 2100) > 0.05


def test_growth_without_diffusion_is_logistic_and_stays_in_tissue() -> None:
    spread = np.zeros((12, 12, 12), np.float32)
    spread[:, :, :6] = 9.0
    start = np.full(spread.shape, 0.1, np.float32)
    rate = np.ones_like(spread)
    grown = _react_and_diffuse(start, spread, rate, 2.0, core_ml=6 * 12 * 12 * 0.008)
    assert (grown[:, :, 6:] == 0).all(), "no flux into fluid"
    assert np.allclose(grown[:, :, :6], grown[0, 0, 0], atol=1e-5), "flat stays flat"
    assert 0.6 < grown[0, 0, 0] < 0.65


def test_a_motion_free_thin_slice_series_is_the_plain_image_shifted_by_nothing() -> None:
    rng = np.random.default_rng(0)
    image = rng.random((10, 12, 9), dtype=np.float32)
    series = dataclasses.replace(
        plan(Recipe(), 0).scan.series[0],
        motion=False, kept=1.0, shift_mm=(0.0, 0.0, 0.0), thickness_mm=1.0,
    )  # fmt: skip
    same = _signal._k_space(image, series, 2.0, rng)
    assert np.allclose(same, image, atol=1e-5)
    assert _signal._slices(image, series, 2.0) is image
    moved = dataclasses.replace(series, shift_mm=(2.0, 0.0, 0.0))
    assert np.allclose(_signal._k_space(image, moved, 2.0, rng), np.roll(image, 1, 0), atol=1e-5)
    thick = dataclasses.replace(series, thickness_mm=4.0, axis=2)
    ramp = np.broadcast_to(np.arange(9, dtype=np.float32), (10, 12, 9))
    assert np.allclose(_signal._slices(ramp, thick, 2.0)[:, :, 1:7], ramp[:, :, 1:7])


def test_without_nilearn_an_analytic_head_takes_the_atlas_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_anatomy, "template_folder", lambda: None)
    out = generate(tmp_path / "plain", 1, 5.0)
    document = json.loads((out / "phantom.json").read_text())
    assert document["recipe"]["anatomy"] == "ellipsoid"
    assert document["notice"] == ""
    assert float(table(out)[0]["wt_ml"]) > 10


@pytest.mark.parametrize("contrast", ["random", "mixed"])
def test_random_contrast_keeps_the_labels_honest(contrast: str) -> None:
    recipe = Recipe(spacing_mm=5.0, contrast=contrast)  # type: ignore[arg-type]
    volumes = simulate(recipe, 1)
    assert volumes.plan.scan.contrast == "random"
    assert (volumes.images["flair"][volumes.labels > 0] > 0).all()
    assert simulate(recipe, 0).plan.scan.contrast == (
        "physics" if contrast == "mixed" else "random"
    )


def test_missing_sequences_are_left_out_only_when_asked(tmp_path: Path) -> None:
    out = generate(tmp_path / "holes", 4, 6.0, missing=0.5, anatomy="ellipsoid")
    absent = {r["participant_id"]: r["missing"] for r in table(out) if r["missing"] != "n/a"}
    assert absent
    for name, modality in absent.items():
        assert not (out / name / f"{modality}.nii.gz").exists()
        assert len(list((out / name).iterdir())) == 4


def test_the_kaggle_layout_opens_as_the_lgg_set(tmp_path: Path) -> None:
    import tifffile

    out = generate(tmp_path / "slices", 2, 4.0, layout="kaggle")
    opened = Cohort.open(out)
    assert opened.layout == "lgg"
    case = opened.cases[0]
    assert isinstance(case.images["rgb"], tuple)
    stack = np.stack([tifffile.imread(path) for path in case.images["rgb"]])
    masks = np.stack([tifffile.imread(path) for path in case.label])  # type: ignore[union-attr]
    assert stack.shape[1:] == (256, 256, 3)
    assert stack.dtype == np.uint8
    assert set(np.unique(masks)) == {0, 255}
    assert stack[masks == 255, 1].mean() > stack[(masks == 0) & (stack[..., 1] > 0), 1].mean()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("subjects", 0), ("workers", 0), ("seed", -1), ("spacing_mm", 0.2), ("contrast", "ct"),
        ("twins", 0.9), ("anatomy", "cow"), ("layout", "dicom"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused_before_anything_is_written(
    tmp_path: Path, setting: str, value: object
) -> None:
    with pytest.raises(ConfigError, match=setting):
        generate(tmp_path / "never", **{setting: value})  # type: ignore[arg-type]
    assert not (tmp_path / "never").exists()


def test_the_task_says_what_it_wrote(tmp_path: Path) -> None:
    said: list[str] = []
    out = phantom_task(tmp_path / "task", 1, 6.0, anatomy="ellipsoid", say=said.append)
    assert out == tmp_path / "task"
    assert said == [f"1 synthetic scans at 6 mm in {out}"]
    assert json.loads((out / "phantom.json").read_text())["version"] == VERSION
