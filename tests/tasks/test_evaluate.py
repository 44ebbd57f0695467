from __future__ import annotations

import csv
import json

import nibabel as nib
import numpy as np
import PIL.Image
import pytest

from delineate.core.errors import (
    ConfigError,
    InputError,
    LabelError,
    LayoutError,
    OutputError,
    PartialError,
)
from delineate.core.image import Grid, Image
from delineate.core.schema import Label, Schema, brats_schema
from delineate.data import readers
from delineate.tasks.evaluate import evaluate

TWO = Schema(labels=(Label("core", 1), Label("rim", 2)))
KINDS = (".csv", ".json")
AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])


def ball(centre=(8, 8, 6), radius=4.0, shape=(16, 18, 12)):
    place = np.indices(shape) - np.reshape(centre, (3, 1, 1, 1))
    distance = np.sqrt((place**2).sum(axis=0))
    return ((distance < radius).astype(np.uint8) + (distance < radius / 2)).astype(np.uint8)


def save(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    readers.write(path, Image(np.asarray(array)[None], Grid(array.shape, affine)))


def manifest(folder, schema, cases, **more):
    text = json.dumps({"schema": schema.to_dict(), "cases": cases, **more})
    (folder / "predictions.json").write_text(text)


@pytest.fixture(autouse=True)
def plain_page(request, monkeypatch):
    """Drawing takes a second a page: it is done where a test is marked so by its argument."""
    if "page" not in request.fixturenames:
        monkeypatch.setattr(
            "delineate.reports.evaluation.write",
            lambda path, summary, rows, overlays: path.write_text(str(len(overlays))),
        )


@pytest.fixture
def page(tmp_path):
    """The page of an evaluation, drawn in earnest."""
    return lambda: (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def flat(tmp_path):
    """Five label files and predictions that lie 0 to 4 voxels off."""
    for i in range(5):
        save(tmp_path / "labels" / f"case_{i}.nii.gz", ball())
        save(tmp_path / "predictions" / f"case_{i}.nii.gz", ball((8 - i, 8, 6)))
    return tmp_path


def run(folder, **options):
    options = {"resamples": 200} | options
    return evaluate(folder / "predictions", folder / "labels", folder / "out", **options)


def table(path):
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_foreign_predictions_against_a_folder_of_labels(flat, page):
    said = []
    summary = run(flat, say=said.append)
    rows = table(flat / "out" / "cases.csv")
    assert [r["region"] for r in rows[:2]] == ["label 1", "label 2"]
    assert len(rows) == 10
    assert rows[0]["dice"] == "1"
    assert rows[0]["hd95_mm"] == "0"
    dice = [float(r["dice"]) for r in rows if r["region"] == "label 1"]
    assert dice == sorted(dice, reverse=True)
    assert summary["regions"]["label 1"]["dice"]["mean"] == pytest.approx(np.mean(dice))
    assert summary["mean_dice"]["n_subjects"] == 5
    low, high = summary["mean_dice"]["ci_low"], summary["mean_dice"]["ci_high"]
    assert low < summary["mean_dice"]["mean"] < high
    assert json.loads((flat / "out" / "summary.json").read_text()) == summary
    assert len(table(flat / "out" / "subjects.csv")) == 10
    assert "mean Dice" in said[0]
    assert said[1].startswith("  label 1  mean Dice ")
    assert "in 5 of 5 cases, median HD95 " in said[2]
    assert said[-1] == f"scores: {flat / 'out/report.html'}"
    assert "Worst: case_4" in page()
    assert "Best: case_0" in page()


def test_the_spacing_of_the_file_is_used(tmp_path):
    # One voxel moved by one along an axis of 6.5 mm.
    for axis, step in enumerate((0.5, 1.0, 6.5)):
        truth, moved = np.zeros((9, 9, 9), np.uint8), np.zeros((9, 9, 9), np.uint8)
        truth[4, 4, 4] = 1
        moved[tuple(4 + (a == axis) for a in range(3))] = 1
        affine = np.diag([0.5, 1.0, 6.5, 1.0])
        save(tmp_path / "labels" / f"{axis}.nii.gz", truth, affine)
        save(tmp_path / "predictions" / f"{axis}.nii.gz", moved, affine)
        run(tmp_path)
        assert float(table(tmp_path / "out" / "cases.csv")[axis]["hd95_mm"]) == step


def test_a_sheared_grid_and_a_volume_of_one_slice_measure_right(tmp_path):
    box, higher = np.zeros((2, 48, 48, 12), np.uint8)
    box[10:30, 10:30, 3:9] = higher[10:30, 10:30, 4:10] = 1
    tilted = np.eye(4)
    tilted[:3, :3] = [[-0.5, 0, 0], [0, 0.5, -1.81985], [0, 0, 5.0]]
    disc = np.sum((np.indices((96, 96)) - 48) ** 2, axis=0) < 400
    pairs = {
        "sheared": (box, higher, tilted),
        "thin": (disc[..., None], np.roll(disc, 4, 1)[..., None], np.eye(4)),
    }
    for name, (truth, prediction, affine) in pairs.items():
        save(tmp_path / "labels" / f"{name}.nii.gz", truth.astype(np.uint8), affine)
        save(tmp_path / "predictions" / f"{name}.nii.gz", prediction.astype(np.uint8), affine)
    run(tmp_path)
    sheared, thin = table(tmp_path / "out" / "cases.csv")
    assert float(sheared["volume_ml_truth"]) == pytest.approx(3.0)
    assert float(sheared["hd95_mm"]) == pytest.approx(5.067, abs=5e-4)
    assert float(sheared["assd_mm"]) == pytest.approx(2.339, abs=5e-4)
    save(tmp_path / "flat" / "labels" / "a.png", disc.astype(np.uint8), np.eye(4))
    save(
        tmp_path / "flat" / "predictions" / "a.png", np.roll(disc, 4, 1).astype(np.uint8), np.eye(4)
    )
    run(tmp_path / "flat")
    (flat,) = table(tmp_path / "flat" / "out" / "cases.csv")
    for metric in ("hd95_mm", "assd_mm", "nsd", "nsd_voxels", "dice"):
        assert thin[metric] == flat[metric], metric


def test_all_background_row_empty_cases_and_states_are_counted(tmp_path):
    something, nothing = (ball() > 0).astype(np.uint8), np.zeros((16, 18, 12), np.uint8)
    for name, truth, prediction in (
        ("found", something, something),
        ("missed", something, nothing),
        ("alarm", nothing, something),
        ("empty", nothing, nothing),
    ):
        save(tmp_path / "labels" / f"{name}.nii.gz", truth)
        save(tmp_path / "predictions" / f"{name}.nii.gz", prediction)
    region = run(tmp_path)["regions"]["foreground"]
    assert region["states"] == {"ok": 1, "both empty": 1, "missed": 1, "false alarm": 1}
    assert region["dice"]["mean"] == pytest.approx(0.5)  # 1, 0, 0, 1
    assert region["dice_where_present"]["mean"] == pytest.approx(0.5)  # 1, 0
    assert region["dice_where_present"]["n_cases"] == 2
    share = something.mean()
    assert region["all_background"]["dice"] == 0.5
    assert region["all_background"]["accuracy"] == pytest.approx(1 - share / 2)
    assert region["accuracy"]["mean"] == pytest.approx(1 - share / 2)
    diagonal = np.linalg.norm(np.multiply((16, 18, 12), (1, 1.5, 2)))
    assert region["hd95_mm_penalised"]["max"] == pytest.approx(diagonal)
    assert region["hd95_mm_penalised"]["mean"] == pytest.approx(diagonal / 2)
    assert (region["hd95_mm"]["max"], region["hd95_mm"]["n_cases"]) == (0, 1)


def test_distances_are_told_where_both_have_the_structure_beside_what_was_missed(tmp_path, page):
    # Of six that have it three are missed, of six that have not two get some: 5 diagonals of 12.
    there, nothing = (ball() > 0).astype(np.uint8), np.zeros((16, 18, 12), np.uint8)
    beside = (ball((10, 8, 6)) > 0).astype(np.uint8)
    for i in range(12):
        truth = there if i < 6 else nothing
        prediction = {True: beside, False: nothing}[i < 3 or i >= 10]
        save(tmp_path / "labels" / f"{i:02}.nii.gz", truth)
        save(tmp_path / "predictions" / f"{i:02}.nii.gz", prediction)
    said = []
    summary = run(tmp_path, say=said.append)
    region = summary["regions"]["foreground"]
    hd95 = region["hd95_mm"]
    assert (hd95["median"], hd95["n_cases"]) == (2, 3)
    assert summary["mean_hd95_mm"]["median"] == 2
    diagonal = np.linalg.norm(np.multiply((16, 18, 12), (1, 1.5, 2)))
    penalised = (3 * 2 + 5 * diagonal) / 12
    assert region["hd95_mm_penalised"]["mean"] == pytest.approx(penalised)
    assert summary["mean_hd95_mm_penalised"]["mean"] == pytest.approx(penalised)
    assert (region["cases"], region["cases_with_it"]) == (12, 6)
    assert "median HD95 2.0 mm where both have the structure" in said[0]
    assert "missed 3 of 6, false alarm in 2 of 6; 12 subjects, 12 cases" in said[0]
    for name in ("cases.csv", "subjects.csv"):
        rows = table(tmp_path / "out" / name)
        assert [row["hd95_mm"] for row in rows] == ["2"] * 3 + [""] * 9, name
        assert all(row["hd95_mm_penalised"] for row in rows)
    html = page()
    for words in (
        "3 subjects where both have it; missed 3 of 6, false alarm in 2 of 6",
        f"the mean HD95 is {penalised:.1f} mm",
        "4 structures absent from truth and prediction counted as a Dice of 1",
        "foreground (n\xa0=\xa03)",  # of the distances
        "foreground (n\xa0=\xa012)",
    ):
        assert words in html, words


def test_predictions_json_gives_names_subjects_and_the_cases_asked_for(flat):
    cases = [
        {
            "id": f"case_{i}",
            "subject": "a" if i < 2 else "b",
            "files": {"labels": [f"case_{i}.nii.gz"]},
        }
        for i in range(4)
    ]
    manifest(flat / "predictions", TWO, cases, finished=True, model={"hash": "abc"})
    summary = run(flat)
    assert list(summary["regions"]) == ["core", "rim"]
    assert (summary["n_cases"], summary["n_subjects"]) == (4, 2)
    assert summary["model"] == {"hash": "abc"}
    assert any("1 of 5 labelled cases were not among" in n for n in summary["notes"])
    subjects = table(flat / "out" / "subjects.csv")
    assert [(r["subject"], r["cases"]) for r in subjects if r["region"] == "core"] == [
        ("a", "2"),
        ("b", "2"),
    ]


def test_predictions_that_were_cut_off_owe_every_case(flat):
    manifest(flat / "predictions", TWO, [{"id": "case_0", "file": "case_0.nii.gz"}], finished=False)
    with pytest.raises(PartialError, match="4 of 5 cases"):
        run(flat)


def test_missing_prediction_is_an_error_and_the_others_are_written(flat):
    (flat / "predictions" / "case_3.nii.gz").unlink()
    with pytest.raises(PartialError, match="case_3") as caught:
        run(flat)
    assert caught.value.exit_code == 3
    assert "--missing-as-empty" in str(caught.value)
    summary = json.loads((flat / "out" / "summary.json").read_text())
    assert [f["code"] for f in summary["failures"]] == ["prediction-missing"]
    assert summary["n_cases"] == 4

    summary = run(flat, missing_as_empty=True)
    assert (summary["n_cases"], summary["n_missing"]) == (5, 1)
    assert summary["regions"]["label 1"]["states"]["missed"] == 1
    missed = [r for r in table(flat / "out" / "cases.csv") if r["missing"] == "yes"]
    assert {r["case"] for r in missed} == {"case_3"}
    assert {r["dice"] for r in missed} == {"0"}


@pytest.mark.parametrize("fault", ["shape", "shift", "spacing", "flip"])
def test_another_grid_is_refused_and_both_files_are_named(flat, fault):
    affine = AFFINE.copy()
    array = ball()
    if fault == "shape":
        array = array[:-1]
    elif fault == "shift":
        affine[0, 3] = 0.01
    elif fault == "spacing":
        affine[2, 2] = 2.001
    else:
        affine[0, 0] = -1
    save(flat / "predictions" / "case_2.nii.gz", array, affine)
    with pytest.raises(PartialError):
        run(flat)
    summary = json.loads((flat / "out" / "summary.json").read_text())
    (failure,) = summary["failures"]
    assert failure["code"] == "grid-mismatch"
    assert failure["where"].endswith("predictions/case_2.nii.gz")
    assert "labels/case_2.nii.gz" in failure["message"]
    assert "original scan" in failure["fix"]


def test_a_rounding_of_the_affine_is_not_another_grid(flat):
    save(flat / "predictions" / "case_2.nii.gz", ball(), AFFINE + 1e-5 * np.eye(4, k=3))
    assert run(flat)["failures"] == []


def test_strange_values_and_broken_files_cost_their_case_alone(flat):
    save(flat / "predictions" / "case_0.nii.gz", ball() * 7)
    whole = (flat / "predictions" / "case_1.nii.gz").read_bytes()
    (flat / "predictions" / "case_1.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PartialError, match="2 of 5"):
        run(flat)
    summary = json.loads((flat / "out" / "summary.json").read_text())
    codes = {f["case"]: f["code"] for f in summary["failures"]}
    assert codes["case_0"] == "label-unknown"
    assert set(codes) == {"case_0", "case_1"}


def test_nothing_is_written_if_no_case_can_be_scored(flat):
    for i in range(5):
        save(flat / "predictions" / f"case_{i}.nii.gz", ball()[:-1])
    with pytest.raises(InputError, match="none of 5 cases") as caught:
        run(flat)
    assert caught.value.exit_code == 1
    assert list((flat / "out").iterdir()) == []


def test_names_that_do_not_pair(flat):
    for path in (flat / "predictions").iterdir():
        path.rename(path.with_name("x" + path.name))
    with pytest.raises(LayoutError, match=r"case_0.*xcase_0"):
        run(flat)


def test_endings_are_left_aside_and_two_files_of_a_case_are_not(flat):
    for path in list((flat / "labels").iterdir()):
        path.rename(path.with_name(path.name.replace(".nii", "_seg.nii")))
    assert run(flat)["n_cases"] == 5
    save(flat / "predictions" / "case_1.nrrd", ball())
    with pytest.raises(PartialError, match="got case_1"):
        run(flat)


def test_a_pair_of_files(flat):
    summary = evaluate(
        flat / "predictions" / "case_1.nii.gz", flat / "labels" / "case_2.nii.gz", flat / "one"
    )
    assert summary["n_cases"] == 1
    assert summary["mean_dice"]["ci_low"] is None


def test_regions_are_scored_beside_labels_and_make_the_headline(tmp_path):
    truth = ball(radius=5)
    truth[ball(radius=2) > 0] = 4
    save(tmp_path / "labels" / "a.nii.gz", truth)
    save(tmp_path / "predictions" / "a.nii.gz", np.where(truth == 1, 2, truth).astype(np.uint8))
    summary = run(tmp_path, schema=brats_schema())
    assert summary["structures"] == ["WT", "TC", "ET"]
    assert summary["regions"]["WT"]["dice"]["mean"] == 1
    assert summary["regions"]["necrosis"]["kind"] == "label"
    assert summary["regions"]["necrosis"]["dice"]["mean"] == 0


def test_models_are_compared_by_name_where_values_differ(tmp_path):
    # Enhancing tumour is 4 in older challenges and 3 in newer ones.
    truth = ball(radius=5)
    truth[ball(radius=2) > 0] = 4
    save(tmp_path / "labels" / "a.nii.gz", truth)
    save(tmp_path / "predictions" / "a.nii.gz", np.where(truth == 4, 3, truth).astype(np.uint8))
    manifest(tmp_path / "predictions", brats_schema(3), [{"id": "a", "file": "a.nii.gz"}])
    summary = run(tmp_path, schema=brats_schema(4))
    assert summary["regions"]["ET"]["dice"]["mean"] == 1


def test_schemas_that_contradict_each_other_are_refused(flat):
    other = Schema(labels=(Label("rim", 1), Label("vessel", 2)))
    manifest(flat / "predictions", other, [{"id": "case_0", "file": "case_0.nii.gz"}])
    with pytest.raises(LabelError, match="vessel") as caught:
        run(flat, schema=TWO)
    assert caught.value.code == "schema-mismatch"


def test_masks_of_0_and_255_are_compared_with_an_only_label(tmp_path):
    truth = (ball() > 0).astype(np.uint8)
    save(tmp_path / "labels" / "a.nii.gz", truth * 255)
    save(tmp_path / "predictions" / "a.nii.gz", truth)
    manifest(
        tmp_path / "predictions",
        Schema(labels=(Label("tumour", 1),)),
        [{"id": "a", "file": "a.nii.gz"}],
    )
    summary = run(tmp_path)
    assert summary["mean_dice"]["mean"] == 1
    assert any("only label 'tumour'" in note for note in summary["notes"])


def test_flat_pictures_have_no_volume_and_say_that_they_have_no_size(tmp_path, page):
    for name in "ab":
        save(tmp_path / "labels" / f"{name}.png", ball()[:, :, 6], np.eye(4))
        save(tmp_path / "predictions" / f"{name}.png", ball()[:, :, 6], np.eye(4))
    summary = run(tmp_path)
    assert summary["mean_dice"]["mean"] == 1
    assert summary["regions"]["label 1"]["volume_ml_truth"]["mean"] is None
    assert any("no voxel size" in note for note in summary["notes"])
    assert "Worst: a" in page()


@pytest.mark.parametrize("nested", [True, False])
def test_slices_of_a_patient_are_scored_as_one_volume(tmp_path, nested):
    truth = (ball(shape=(16, 18, 12)) > 0).astype(np.uint8)
    prediction = (ball((9, 8, 6)) > 0).astype(np.uint8)
    patient = "TCGA_CS_4941_19960909"
    for k in range(12):
        stem = f"{patient}_{k + 1}"
        base = tmp_path / "labels" / "kaggle_3m" / patient
        save(base / f"{stem}.tif", np.zeros((16, 18), np.uint8), np.eye(4))
        save(base / f"{stem}_mask.tif", truth[..., k] * 255, np.eye(4))
        place = tmp_path / "predictions" / (patient if nested else ".")
        save(place / f"{stem}.png", prediction[..., k] * 255, np.eye(4))
    summary = run(tmp_path)
    assert (summary["n_cases"], summary["n_subjects"]) == (1, 1)
    both = np.logical_and(truth, prediction).sum() / (truth.sum() + prediction.sum())
    assert summary["mean_dice"]["mean"] == pytest.approx(2 * both)
    (next((tmp_path / "predictions").rglob("*_7.png"))).unlink()
    with pytest.raises(InputError, match=r"12 slices, 1 are missing: .*_7_mask"):
        run(tmp_path)


def test_a_data_set_gives_schema_and_images(tmp_path, page):
    root = tmp_path / "labels"
    entries = []
    for i in range(3):
        save(root / "imagesTr" / f"h_{i}.nii.gz", ball().astype(np.float32) * 100)
        save(root / "labelsTr" / f"h_{i}.nii.gz", ball())
        save(tmp_path / "predictions" / f"h_{i}.nii.gz", ball((8, 8 - i, 6)))
        entries.append({"image": f"./imagesTr/h_{i}.nii.gz", "label": f"./labelsTr/h_{i}.nii.gz"})
    (root / "dataset.json").write_text(
        json.dumps(
            {
                "modality": {"0": "MRI"},
                "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
                "training": entries,
                "test": [],
            }
        )
    )
    summary = run(tmp_path)
    assert list(summary["regions"]) == ["Anterior", "Posterior"]
    assert summary["n_cases"] == 3
    assert "Median: h_1" in page()


def test_real_labels_against_themselves_are_perfect(tmp_path, real_data):
    root = real_data("msd-task04-hippocampus")
    names = [p for p in sorted((root / "labelsTr").glob("*.nii.gz")) if p.name[0] != "."][:6]
    (tmp_path / "predictions").mkdir()
    for path in names:
        (tmp_path / "predictions" / path.name).write_bytes(path.read_bytes())
    cases = [{"id": p.name[:-7], "file": p.name} for p in names]
    schema = Schema(labels=(Label("Anterior", 1), Label("Posterior", 2)))
    manifest(tmp_path / "predictions", schema, cases)
    summary = evaluate(tmp_path / "predictions", root, tmp_path / "out", resamples=200)
    assert summary["n_cases"] == len(names)
    assert summary["mean_dice"]["mean"] == 1
    assert summary["mean_hd95_mm"]["max"] == 0


def test_running_again_gives_the_same_bytes(flat):
    def written():
        return {p.name: p.read_bytes() for p in (flat / "out").iterdir() if p.suffix in KINDS}

    run(flat)
    first = written()
    run(flat)
    assert written() == first
    assert set(first) == {"cases.csv", "subjects.csv", "summary.json"}


def test_settings_and_places_are_checked_first(flat):
    with pytest.raises(ConfigError, match="tolerance"):
        run(flat, tolerance_mm=-1)
    with pytest.raises(ConfigError, match="apart"):
        evaluate(flat / "predictions", flat / "labels", flat / "labels" / "out")
    with pytest.raises(LayoutError, match="got nothing"):
        evaluate(flat / "nowhere", flat / "labels", flat / "out")
    (flat / "file").write_text("x")
    with pytest.raises(OutputError):
        evaluate(flat / "predictions", flat / "labels", flat / "file")
    assert not (flat / "out").exists()


def test_predictions_json_cannot_reach_out_of_its_folder(flat):
    cases = [{"id": "case_0", "file": "../labels/case_0.nii.gz"}]
    manifest(flat / "predictions", TWO, cases)
    with pytest.raises(InputError, match="below the folder"):
        run(flat)
    (flat / "predictions" / "predictions.json").write_text('{"cases": [1]}')
    with pytest.raises(LayoutError, match=r"predictions\.json"):
        run(flat)


def test_a_flat_file_and_a_volume_of_one_slice_are_scored(tmp_path):
    """nibabel and nnU-Net store flat masks as (48, 40, 1), other tools as (48, 40)."""
    affine = np.diag([-0.5, -0.5, 3, 1])
    disc = np.zeros((48, 40), np.uint8)
    disc[10:20, 12:22] = 1
    moved = np.roll(disc, 4, axis=0)
    for folder, array in (("ref", disc[..., None]), ("pred", moved)):
        (tmp_path / folder).mkdir()
        nib.save(nib.Nifti1Image(array, affine), tmp_path / folder / "a.nii.gz")
    for pred, ref in (("pred", "ref"), ("ref", "pred")):
        scores = evaluate(tmp_path / pred, tmp_path / ref, tmp_path / f"scores-{pred}")
        region = scores["regions"]["foreground"]
        assert region["dice"]["mean"] == pytest.approx(0.6)
        assert region["hd95_mm"]["mean"] == pytest.approx(2.0)
    elsewhere = nib.Nifti1Image(moved, np.diag([-0.5, 0.5, 3, 1]))
    nib.save(elsewhere, tmp_path / "pred/a.nii.gz")
    with pytest.raises(InputError, match="grid-mismatch"):
        evaluate(tmp_path / "pred", tmp_path / "ref", tmp_path / "none")


def test_masks_whose_palettes_number_colours_differently_are_not_scored(tmp_path):
    black_white = [0, 0, 0, 255, 255, 255]
    drawn = np.zeros((16, 16), np.uint8)
    drawn[4:9, 5:12] = 1
    for folder, palette, array in (
        ("ref", black_white, drawn),
        ("pred", black_white[::-1], 1 - drawn),
    ):
        (tmp_path / folder).mkdir()
        picture = PIL.Image.fromarray(array).convert("P")
        picture.putpalette(palette)
        picture.save(tmp_path / folder / "a.png")
    with pytest.raises(InputError, match="label-palettes") as caught:
        evaluate(tmp_path / "pred", tmp_path / "ref", tmp_path / "scores")
    assert "without a palette" in str(caught.value)


@pytest.mark.parametrize(("ours", "theirs"), [(1, 255), (255, 1)])
def test_masks_of_1_against_masks_of_255_are_told_as_such(tmp_path, ours, theirs):
    drawn = np.zeros((16, 16), np.uint8)
    drawn[4:9, 5:12] = 1
    for folder, value in (("pred", ours), ("ref", theirs)):
        (tmp_path / folder).mkdir()
        PIL.Image.fromarray(drawn * np.uint8(value)).save(tmp_path / folder / "a.png")
    with pytest.raises(InputError, match="write every mask with one value"):
        evaluate(tmp_path / "pred", tmp_path / "ref", tmp_path / "scores")
