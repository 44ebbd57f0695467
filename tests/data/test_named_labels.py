"""Label files that name their structures: found by name in every file, whatever their numbers."""

from __future__ import annotations

import gzip
import json
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delineate.core.case import Masks
from delineate.core.errors import GeometryError, LabelError
from delineate.core.image import Grid, Image
from delineate.core.schema import IGNORED, Label, Schema
from delineate.data.cohort import Cohort
from delineate.data.labels import read_indices
from delineate.data.opening import Opening
from delineate.data.readers import label_names, onto, read_label, union, write
from delineate.findings.examine import examine

SHAPE = (10, 12, 8)


def seg_nrrd(
    path: Path,
    layers: np.ndarray,
    segments: Sequence[Mapping[str, Any]],
    origin: Sequence[float] = (0, 0, 0),
) -> Path:
    """A file as 3D Slicer saves it: ``layers`` is ``(L, I, J, K)``, LPS, 1 mm."""
    count, *shape = layers.shape
    several = count > 1
    header = [
        "NRRD0004",
        "type: unsigned char",
        f"dimension: {4 if several else 3}",
        "space: left-posterior-superior",
        "sizes: " + " ".join(map(str, ([count] if several else []) + shape)),
        "space directions: " + "none " * several + "(1,0,0) (0,1,0) (0,0,1)",
        "kinds: " + "list " * several + "domain domain domain",
        "encoding: gzip",
        "space origin: (" + ",".join(map(str, origin)) + ")",
    ]
    for n, segment in enumerate(segments):
        header += [f"Segment{n}_{key}:={value}" for key, value in segment.items()]
    header.append("Segmentation_MasterRepresentation:=Binary labelmap")
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = gzip.compress(layers.astype(np.uint8).tobytes(order="F"), mtime=0)
    path.write_bytes(("\n".join(header) + "\n\n").encode() + voxels)
    return path


def named(*names: str, start: int = 1) -> list[dict[str, Any]]:
    """Segments in the order of drawing."""
    return [
        {"ID": f"Segment_{n}", "Name": name, "LabelValue": n, "Layer": 0}
        for n, name in enumerate(names, start)
    ]


def drawing(front: int, back: int) -> np.ndarray:
    """A block in front and a larger one behind it."""
    found = np.zeros((1, *SHAPE), np.uint8)
    found[0, 2:5, 2:5, 2:5] = front
    found[0, 5:9, 6:11, 2:7] = back
    return found


def test_one_name_in_composed_and_decomposed_unicode_is_one_structure(tmp_path: Path) -> None:
    for case, form in enumerate(("NFC", "NFD")):
        name = unicodedata.normalize(form, "Läsion")
        seg_nrrd(tmp_path / f"c{case}.seg.nrrd", drawing(1, 0), named(name))
        assert label_names(tmp_path / f"c{case}.seg.nrrd") == {1: "L\u00e4sion"}
    declared = Schema((Label(unicodedata.normalize("NFD", "Läsion"), 4),))
    assert declared.meaning({1: "L\u00e4sion"}) == {0: 0, 1: 1}


def image(path: Path) -> None:
    values = np.random.default_rng(len(path.name)).normal(100, 10, (1, *SHAPE)).astype(np.float32)
    values[0] += drawing(40, 90)[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, Image(values, Grid(SHAPE, np.diag([-1.0, -1.0, 1.0, 1.0]))))


def cohort(root: Path, orders: Sequence[Sequence[str]]) -> Cohort:
    """Cases whose segments were drawn in these orders."""
    for i, order in enumerate(orders):
        image(root / "images" / f"c{i}.nrrd")
        values = {name: n for n, name in enumerate(order, 1)}
        voxels = drawing(values.get("front", 0), values.get("back", 0))
        seg_nrrd(root / "labels" / f"c{i}.seg.nrrd", voxels, named(*order))
    return Opening().cohort(root)


def codes(found: Mapping[str, Any]) -> set[str]:
    return {finding["code"] for finding in found["findings"]}


def test_structures_are_found_by_name_in_every_file(tmp_path: Path) -> None:
    found = cohort(tmp_path, [("front", "back"), ("back", "front"), ("front", "back")])
    assert [label.name for label in found.schema.labels] == ["back", "front"]
    assert any("differ from file to file" in note for note in found.notes)
    maps = [read_indices(case, found.schema).array for case in found.cases]
    for other in maps[1:]:
        np.testing.assert_array_equal(other, maps[0])
    assert (maps[0][0, 2:5, 2:5, 2:5] == 2).all()


def test_values_that_all_files_agree_on_are_kept(tmp_path: Path) -> None:
    found = cohort(tmp_path, [("front", "back"), ("front", "back")])
    assert found.schema.labels == (Label("front", 1), Label("back", 2))


def test_the_audit_counts_structures_by_name(tmp_path: Path) -> None:
    result = examine(cohort(tmp_path, [("front", "back"), ("back", "front")]))
    rows = {row["label"]: row for row in result["facts"]["labels"]}
    assert (rows["front"]["ml_min"], rows["front"]["ml_max"]) == (0.027, 0.027)
    assert (rows["back"]["ml_min"], rows["back"]["ml_max"]) == (0.1, 0.1)
    assert not {"label-unknown", "label-names"} & codes(result)


def test_a_file_without_names_among_named_ones_is_refused_by_name(tmp_path: Path) -> None:
    found = cohort(tmp_path, [("front", "back"), ("back", "front"), ("Segment_1", "Segment_2")])
    seg_nrrd(tmp_path / "labels/c2.seg.nrrd", drawing(1, 2), named("Segment_1", "Segment_2"))
    found = Opening().cohort(tmp_path)
    [finding] = [f for f in examine(found)["findings"] if f["code"] == "label-names"]
    assert finding["severity"] == "blocking"
    assert "c2.seg.nrrd" in finding["where"][0]
    with pytest.raises(LabelError, match="without names") as caught:
        read_indices(found["c2"], found.schema)
    assert "c2.seg.nrrd" in str(caught.value.where)


def test_where_nobody_named_anything_values_count(tmp_path: Path) -> None:
    path = seg_nrrd(tmp_path / "a.seg.nrrd", drawing(1, 2), named("Segment_1", "Segment_2"))
    assert label_names(path) is None
    assert set(np.unique(read_label(path).array)) == {0, 1, 2}


@pytest.mark.parametrize("name", ["Front", "front_", " front"])
def test_almost_the_same_name_is_told(tmp_path: Path, name: str) -> None:
    found = cohort(tmp_path, [("front", "back"), ("front", "back")])
    seg_nrrd(tmp_path / "labels/c1.seg.nrrd", drawing(1, 2), named(name, "back"))
    found = Opening().cohort(tmp_path)
    assert ("label-names-alike" in codes(examine(found))) == (name.strip() != "front")


def test_a_structure_that_some_files_do_not_name_is_told(tmp_path: Path) -> None:
    found = cohort(tmp_path, [("front", "back"), ("back",)])
    [finding] = [f for f in examine(found)["findings"] if f["code"] == "label-names-differ"]
    assert finding["where"] == ["c1"]
    assert "'front' in 1" in finding["message"]


def test_layers_that_do_not_overlap_become_one_map(tmp_path: Path) -> None:
    front, back = drawing(1, 0), drawing(0, 1)
    segments = [
        {"Name": "front", "LabelValue": 1, "Layer": 0},
        {"Name": "back", "LabelValue": 1, "Layer": 1},
    ]
    path = seg_nrrd(tmp_path / "a.seg.nrrd", np.concatenate([front, back]), segments)
    label = read_label(path)
    assert label.meta["names"] == label_names(path) == {1: "front", 2: "back"}
    np.testing.assert_array_equal(label.array, drawing(1, 2))


def test_a_segment_a_layer_without_numbers_as_before_slicer_4_11(tmp_path: Path) -> None:
    layers = np.concatenate([drawing(1, 0), drawing(0, 1)])
    path = seg_nrrd(tmp_path / "a.seg.nrrd", layers, [{"Name": "front"}, {"Name": "back"}])
    np.testing.assert_array_equal(read_label(path).array, drawing(1, 2))


def test_segments_that_overlap_are_refused_by_name(tmp_path: Path) -> None:
    layers = np.concatenate([drawing(1, 0), drawing(1, 1)])
    segments = [
        {"Name": "tumour", "LabelValue": 1, "Layer": 0},
        {"Name": "organ", "LabelValue": 1, "Layer": 1},
    ]
    path = seg_nrrd(tmp_path / "a.seg.nrrd", layers, segments)
    with pytest.raises(LabelError, match="'tumour' and 'organ' share 27 voxels"):
        read_label(path)


@pytest.mark.parametrize(
    "segments",
    [
        [{"Name": "a", "LabelValue": 1}, {"Name": "b", "LabelValue": 1}],
        [{"Name": "a", "LabelValue": "one"}],
        [{"Name": "a", "LabelValue": 1, "Layer": 4}],
    ],
)
def test_a_header_that_contradicts_itself_is_refused(
    tmp_path: Path, segments: list[dict[str, Any]]
) -> None:
    path = seg_nrrd(tmp_path / "a.seg.nrrd", drawing(1, 2), segments)
    with pytest.raises(LabelError) as caught:
        read_label(path)
    assert caught.value.code == "label-segments"


def test_a_voxel_of_no_segment_is_refused(tmp_path: Path) -> None:
    path = seg_nrrd(tmp_path / "a.seg.nrrd", drawing(1, 3), named("front", "back"))
    schema = Schema((Label("front", 1), Label("back", 2)), named=True)
    label = read_label(path)
    with pytest.raises(LabelError, match="got 3"):
        schema.to_index(label.array, names=label.meta["names"])


def test_a_segmentation_cropped_to_what_is_drawn_is_placed_on_its_image(tmp_path: Path) -> None:
    cropped = drawing(1, 2)[:, 1:9, 2:11, 2:7]
    path = seg_nrrd(tmp_path / "a.seg.nrrd", cropped, named("front", "back"), origin=(1, 2, 2))
    grid = Grid(SHAPE, np.diag([-1.0, -1.0, 1.0, 1.0]))
    np.testing.assert_array_equal(read_label(path, grid=grid).array, drawing(1, 2))
    # The same image turned to RAS+: voxels are swapped, none is interpolated.
    turned = np.diag([1.0, 1.0, 1.0, 1.0])
    turned[:2, 3] = (-(SHAPE[0] - 1), -(SHAPE[1] - 1))
    found = read_label(path, grid=Grid(SHAPE, turned))
    np.testing.assert_array_equal(found.array, drawing(1, 2)[:, ::-1, ::-1])
    assert found.grid.same_as(Grid(SHAPE, turned))


def test_what_is_drawn_outside_of_the_image_is_refused(tmp_path: Path) -> None:
    path = seg_nrrd(tmp_path / "a.seg.nrrd", drawing(1, 2), named("front", "back"))
    with pytest.raises(GeometryError) as caught:
        read_label(path, grid=Grid((6, 12, 8), np.diag([-1.0, -1.0, 1.0, 1.0])))
    assert caught.value.code == "label-outside"


def test_voxels_between_voxels_are_left_where_they_are() -> None:
    label = Image(
        np.ones((1, 2, 2, 2), np.uint8), Grid((2, 2, 2), np.eye(4)), (), {"partial": True}
    )
    moved = np.eye(4)
    moved[0, 3] = 0.5
    assert onto(label, Grid((4, 4, 4), moved)) is label


def test_the_union_of_two_parts_of_a_grid() -> None:
    one, other = np.diag([1.0, -1.0, 2.0, 1.0]), np.diag([1.0, -1.0, 2.0, 1.0])
    other[:3, 3] = (-3, -1, 4)
    both = union(Grid((4, 4, 4), one), Grid((4, 4, 4), other))
    assert both.shape == (7, 5, 6)
    assert both.affine[:3, 3].tolist() == [-3, 0, 0]


def test_names_do_not_overrule_what_a_data_set_declares() -> None:
    declared = Schema((Label("liver", 1), Label("tumour", 2)))
    values = np.array([0, 1, 2], np.uint8)
    assert declared.to_index(values, names={1: "tumour", 2: "liver"}).tolist() == [0, 2, 1]
    assert declared.to_index(values, names={1: "L", 2: "T"}).tolist() == [0, 1, 2]
    with pytest.raises(LabelError, match="2 'spleen'"):
        declared.to_index(values, names={1: "liver", 2: "spleen"})
    with pytest.raises(LabelError):  # a number is no name
        Schema((Label("label 1", 1), Label("label 2", 2))).to_index(values, names={1: "a", 2: "b"})


def test_a_declaration_that_overrules_names_is_told(tmp_path: Path) -> None:
    """nnU-Net declares values; the files say something else of them."""
    for i, order in enumerate([("front", "back"), ("V", "H")]):
        image(tmp_path / f"imagesTr/c{i}_0000.nrrd")
        seg_nrrd(tmp_path / f"labelsTr/c{i}.nrrd", drawing(1, 2), named(*order))
    document = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "back": 1, "front": 2},
        "file_ending": ".nrrd",
    }
    (tmp_path / "dataset.json").write_text(json.dumps(document))
    found = Opening().cohort(tmp_path)
    by_name, by_value = (read_indices(case, found.schema).array[0, 3, 3, 3] for case in found.cases)
    assert (by_name, by_value) == (2, 1)
    [finding] = [f for f in examine(found)["findings"] if f["code"] == "label-names-overruled"]
    assert finding["where"] == ["c1"]
    assert "'H', 'V'" in finding["message"]


def test_a_file_for_each_structure_of_an_image(tmp_path: Path) -> None:
    """Named in a table: each under its name, though both are number 1 of their own file."""
    grid = Grid(SHAPE, np.diag([-1.0, -1.0, 1.0, 1.0]))
    front = seg_nrrd(tmp_path / "f.seg.nrrd", drawing(1, 0), named("front"))
    back = seg_nrrd(
        tmp_path / "b.seg.nrrd", drawing(0, 1)[:, 5:9, 6:11, 2:7], named("back"), (5, 6, 2)
    )
    both = Masks((front, back))
    for label in (read_label(both, grid=grid), onto(read_label(both), grid)):
        assert label.meta["names"] == label_names(both) == {1: "front", 2: "back"}
        np.testing.assert_array_equal(label.array, drawing(1, 2))
    other = seg_nrrd(tmp_path / "o.seg.nrrd", drawing(1, 1), named("organ"))
    with pytest.raises(LabelError, match="'front' and 'organ' share 27 voxels"):
        read_label(Masks((front, other)))
    nameless = seg_nrrd(tmp_path / "n.seg.nrrd", drawing(0, 1), named("Segment_1"))
    with pytest.raises(LabelError, match="a name of every structure"):
        read_label(Masks((front, nameless)))


def test_a_segment_called_ignore_is_not_a_structure(tmp_path: Path) -> None:
    for i, order in enumerate([("front", "ignore"), ("ignore", "front")]):
        image(tmp_path / f"images/c{i}.nrrd")
        values = {name: n for n, name in enumerate(order, 1)}
        voxels = drawing(values["front"], values["ignore"])
        seg_nrrd(tmp_path / f"labels/c{i}.seg.nrrd", voxels, named(*order))
    found = Opening().cohort(tmp_path)
    assert [label.name for label in found.schema.labels] == ["front"]
    for case in found.cases:
        indices = read_indices(case, found.schema).array[0]
        assert (indices[5:9, 6:11, 2:7] == IGNORED).all()
