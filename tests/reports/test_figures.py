"""Charts and overlays: what they show, not how they look."""

from __future__ import annotations

import base64
import io
import re
import threading
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Raster
from tests.reports.conftest import HOSTILE, cases_rows

from delineate.core.errors import GeometryError
from delineate.core.image import Grid
from delineate.core.schema import COLOURS, Label, Schema
from delineate.reports.figures import Picture, bars, boxplots, curves
from delineate.reports.overlays import overlay

ORANGE = (0xE6, 0x9F, 0x00)


def pixels(picture: Picture) -> NDArray[np.int16]:
    head, data = picture.src.split(",")
    assert head == "data:image/png;base64"
    array = np.asarray(Raster.open(io.BytesIO(base64.b64decode(data)))).astype(np.int16)
    assert array.shape[:2] == (picture.height, picture.width)
    return array


def panels(picture: Picture) -> list[NDArray[np.int16]]:
    """The four panels, less the strip with their names."""
    array = pixels(picture)
    tall, wide = (array.shape[0] - 4) // 2, (array.shape[1] - 4) // 2
    spots = [(0, 0), (0, wide + 4), (tall + 4, 0), (tall + 4, wide + 4)]
    return [array[y + 30 : y + tall, x : x + wide] for y, x in spots]


def is_colour(panel: NDArray[np.int16], colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    return np.asarray((panel == np.array(colour)).all(axis=-1))


def disc(shape: tuple[int, int], centre: tuple[float, float], radius: float) -> NDArray[np.uint8]:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    inside = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2
    return np.asarray(inside, np.uint8)


def test_outlines_of_truth_and_prediction_differ_when_the_masks_do() -> None:
    image = np.random.default_rng(0).normal(size=(40, 40))
    truth, other = disc((40, 40), (20, 20), 12), disc((40, 40), (20, 24), 9)
    same = panels(overlay(image, truth, truth))
    assert np.array_equal(same[2], same[3])
    differ = panels(overlay(image, truth, other))
    assert np.array_equal(differ[2], same[2])  # the truth is drawn alike
    drawn = [is_colour(p, ORANGE) for p in differ]
    assert (drawn[2] ^ drawn[3]).sum() > 300
    # A circle's outline is as long as its radius says: 12 to 9.
    assert drawn[2].sum() / drawn[3].sum() == pytest.approx(12 / 9, rel=0.1)
    # In the panel of both, white is the truth and the colour is the prediction.
    assert np.array_equal(is_colour(differ[1], ORANGE), drawn[3])
    white = is_colour(differ[1], (255, 255, 255)) & ~drawn[3]
    assert white.sum() > 0.5 * drawn[2].sum()


def test_a_volume_is_shown_where_most_foreground_is() -> None:
    truth = np.zeros((30, 30, 9), np.uint8)
    truth[:, :, 2] = disc((30, 30), (15, 15), 4)
    truth[:, :, 6] = disc((30, 30), (15, 15), 11)
    picture = overlay(None, truth, np.zeros_like(truth), grid=Grid(truth.shape, np.eye(4)))
    assert picture.caption == "Axial slice 7 of 9"
    assert picture.alt.count("Axial slice 7 of 9".lower())


@pytest.mark.parametrize("axes", ["RAS", "LPS", "ASL", "PIR"])
def test_the_patients_left_is_on_the_right_however_the_file_lies(axes: str) -> None:
    nib = pytest.importorskip("nibabel")
    volume = np.zeros((31, 37, 9), np.uint8)  # RAS+: first index grows to the patient's right
    volume[4:9, 8:27, 4] = 1  # so this lies in the patient's left half ...
    volume[20:24, 29:35, 4] = 2  # ... and this in the right half, to the front
    straight = overlay(volume.astype(float), volume, volume, grid=Grid(volume.shape, np.eye(4)))
    turn = nib.orientations.axcodes2ornt(tuple(axes))
    stored = nib.orientations.apply_orientation(volume, turn)
    affine = nib.orientations.inv_ornt_aff(turn, volume.shape)
    turned = overlay(stored.astype(float), stored, stored, grid=Grid(stored.shape, affine))
    assert np.array_equal(pixels(straight), pixels(turned))
    truth = panels(straight)[2]
    left, right = (is_colour(truth, c) for c in (ORANGE, (0x56, 0xB4, 0xE9)))
    middle = truth.shape[1] / 2
    assert np.nonzero(left)[1].min() > middle > np.nonzero(right)[1].max()
    assert np.nonzero(right)[0].mean() < np.nonzero(left)[0].mean()  # the front is on top


def test_letters_stand_only_where_the_sides_are_known() -> None:
    volume = np.zeros((30, 30, 5), np.uint8)
    volume[8:22, 8:22, 2] = 1
    known = overlay(None, volume, volume, grid=Grid(volume.shape, np.eye(4)))
    unknown = overlay(None, volume, volume, grid=Grid(volume.shape, np.eye(4), oriented=False))
    assert not np.array_equal(pixels(known), pixels(unknown))
    assert (
        is_colour(pixels(known), (255, 255, 255)).sum()
        > is_colour(pixels(unknown), (255, 255, 255)).sum()
    )


def test_thick_slices_are_shown_in_their_own_plane_and_in_true_proportion() -> None:
    truth = np.zeros((12, 40, 40), np.uint8)
    truth[7, 8:32, 8:32] = 1
    sagittal = overlay(None, truth, truth, grid=Grid(truth.shape, np.diag([4.0, 1, 1, 1])))
    assert sagittal.caption == "Sagittal slice 8 of 12"
    flat = np.zeros((20, 20), np.uint8)
    flat[4:16, 4:16] = 1
    one = overlay(None, flat, None, spacing_mm=(2.0, 1.0))
    assert one.height / one.width == pytest.approx(2.0, rel=0.02)


def test_a_small_structure_is_enlarged_and_framed() -> None:
    image = np.random.default_rng(0).normal(size=(200, 200))
    truth = disc((200, 200), (60, 140), 6)
    drawn = panels(overlay(image, truth, truth))
    assert is_colour(drawn[0], (255, 255, 255)).sum() > 100  # the frame on the whole slice
    height = np.ptp(np.nonzero(is_colour(drawn[2], ORANGE))[0])
    assert height > 2.5 * 12 * drawn[2].shape[1] / 200


def test_labels_are_named_and_coloured_by_the_schema() -> None:
    schema = Schema((Label("necrosis", 1), Label("oedema", 2), Label("enhancing", 4)))
    truth = np.zeros((30, 30), np.uint8)
    truth[5:25, 5:25] = 2
    truth[10:20, 10:20] = 4
    picture = overlay(None, truth, truth, schema=schema)
    assert [(n, c) for n, c, _ in picture.legend[:2]] == [
        ("oedema", COLOURS[1]), ("enhancing", COLOURS[2])
    ]  # fmt: skip


@pytest.mark.parametrize("image", [np.zeros((16, 16)), np.full((16, 16), np.nan), None])
def test_images_without_contrast_and_masks_without_foreground_are_drawn(image: Any) -> None:
    empty, full = np.zeros((16, 16), np.uint8), np.ones((16, 16), np.uint8)
    for masks in ((empty, empty), (full, empty), (full, full), (None, full)):
        assert overlay(image, *masks).src


def test_channels_colours_and_wrong_shapes() -> None:
    mask = disc((20, 24), (10, 12), 5)
    red = np.zeros((3, 20, 24), np.uint8)
    red[0] = 200
    shown = panels(overlay(red, mask, mask))[0]
    assert shown[-5, 5, 0] == 200
    assert shown[-5, 5, 1] == 0
    assert overlay(np.zeros((4, 20, 24)), mask, mask).src
    with pytest.raises(GeometryError, match="one shape"):
        overlay(None, mask, mask[:-1])
    with pytest.raises(GeometryError, match="masks' shape"):
        overlay(np.zeros((9, 9)), mask, mask)


def test_curves_say_what_they_show_and_leave_out_what_is_not_finite() -> None:
    log = [{"step": s, "steps": 50, "seconds": s, "stage": "a", "lr": 0.01, "loss": 2.0 - s / 50}
           for s in range(50)]  # fmt: skip
    log[10]["loss"] = float("nan")
    log[11]["loss"] = None
    log[49] |= {"val_dice": 0.8}
    first, adversarial, others = curves(log)
    assert [p.title for p in first] == ["Loss", "Validation Dice", "Learning rate"]
    assert not adversarial
    assert not others
    assert "from 2 at step 0 to 1.02 at step 49" in first[0].alt
    assert "nan" not in str(first[0].svg).lower().replace("nanum", "")


def test_adversarial_quantities_have_charts_of_their_own() -> None:
    line = {"d_accuracy": 0.7, "d_real": 0.6, "d_fake": 0.3, "d_loss": 1.2, "grad_ratio": 0.1}
    _, adversarial, others = curves(
        [{"step": s, "loss": 1.0, "extra": s, **line} for s in range(9)]
    )
    titles = [p.title for p in adversarial]
    assert titles[:2] == ["Critic's score", "Critic's accuracy (0.5 is chance)"]
    assert len(titles) == 4
    assert [p.title for p in others] == ["extra"]
    assert "d_real" in str(adversarial[0].svg)


def test_long_logs_stay_small() -> None:
    log = [{"step": s, "loss": float(np.sin(s)), "lr": 10.0 ** -(s % 6)} for s in range(20000)]
    assert sum(len(str(p.svg)) for p in curves(log)[0]) < 120_000


@pytest.mark.parametrize("log", [[], [{}], [{"step": "x", "loss": "y"}], [{"loss": 1.0}]])
def test_odd_logs_do_not_stop_a_page(log: list[dict[str, Any]]) -> None:
    curves(log)


def test_box_plots_tell_median_range_and_number() -> None:
    picture = boxplots(cases_rows())
    assert picture is not None
    assert "WT: median 0.75, range 0.6 to 0.9, 4 cases" in picture.alt
    assert boxplots([]) is None
    assert boxplots([{"region": "WT", "dice": "nan"}]) is None
    many = [{"region": f"r{i}", "dice": i / 100} for i in range(100)]
    picture = boxplots(many)
    assert picture is not None
    assert "the 24 worst of 100" in picture.title
    assert "r0:" in picture.alt
    assert "r99:" not in picture.alt


def test_a_structure_has_one_place_and_colour_in_every_chart() -> None:
    rows = [{"region": "a", "dice": None}, {"region": "b", "dice": 0.5}, {"region": "a", "dice": 1}]
    picture = boxplots(rows)
    assert picture is not None
    assert picture.alt.index("a: median") < picture.alt.index("b: median")


@pytest.mark.parametrize("name", HOSTILE)
def test_charts_survive_hostile_names(name: str) -> None:
    chart = boxplots([{"region": name, "dice": 0.5}])
    assert chart is not None
    for svg in (str(chart.svg), str(bars({name: 3.0}, name).svg)):
        assert not re.search(r"<(script|img|h1|a)\b", svg)
        assert "http" not in svg.replace("https://example.org", "")
        assert "<metadata" not in svg


def test_charts_are_alike_however_often_and_wherever_they_are_drawn() -> None:
    found: list[str] = []

    def draw() -> None:
        found.extend(str(p.svg) for p in [bars({"a": 1, "b": 2}, "t")])

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
