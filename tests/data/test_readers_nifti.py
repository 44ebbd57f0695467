"""NIfTI: what is sound is read as nibabel reads it, what is damaged is refused by name."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from delineate.core.case import Reading
from delineate.core.errors import DelineateError, GeometryError, LabelError, OutputError, ReadError
from delineate.core.image import Grid, Image, flat_grid
from delineate.data.readers import nifti, probe, read, read_label, write

AFFINE = np.array([[-2.0, 0.1, 0, 10], [0.1, 3, 0, -20], [0, 0, 4, 30], [0, 0, 0, 1]])
# offsets of header fields of NIfTI-1
DIM, DATATYPE, PIXDIM, VOX_OFFSET, SLOPE, INTER = 40, 70, 76, 108, 112, 116
QCODE, SCODE, SROW = 252, 254, 280


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def patched(path: Path, offset: int, layout: str, *values: float) -> Path:
    data = bytearray(path.read_bytes())
    struct.pack_into("<" + layout, data, offset, *values)
    path.write_bytes(data)
    return path


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    array = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    return save(tmp_path / "sound.nii", array)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_voxels_and_affine_are_those_of_nibabel(
    tmp_path: Path, suffix: str, dtype: type, kind: type
) -> None:
    array = np.random.default_rng(0).uniform(0, 100, (4, 5, 6)).astype(dtype)
    path = tmp_path / f"image{suffix}"
    nib.save(kind(array, AFFINE), path)
    image = read(path)
    assert image.array.shape == (1, 4, 5, 6)
    assert image.array.dtype == np.float32
    np.testing.assert_array_equal(image.array[0], nib.load(path).get_fdata(dtype=np.float32))
    np.testing.assert_array_equal(image.grid.affine, nib.load(path).affine)
    grid, channels = probe(path)
    assert grid.same_as(image.grid)
    assert channels == 1


def test_big_endian_and_scaled_files_are_those_of_nibabel(tmp_path: Path) -> None:
    array = np.arange(60, dtype=">i2").reshape(3, 4, 5)
    image = nib.Nifti1Image(array, AFFINE, nib.Nifti1Header(endianness=">"))
    image.header.set_slope_inter(0.37, -11.5)
    nib.save(image, tmp_path / "big.nii.gz")
    expected = nib.load(tmp_path / "big.nii.gz").get_fdata()
    np.testing.assert_allclose(read(tmp_path / "big.nii.gz").array[0], expected, rtol=1e-6)


def test_a_short_fourth_axis_is_channels_and_a_long_one_is_refused(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(4, 5, 6, 3)).astype(np.float32)
    image = read(save(tmp_path / "channels.nii.gz", array))
    np.testing.assert_array_equal(image.array, np.moveaxis(array, -1, 0))
    with pytest.raises(ReadError, match="volumes") as caught:
        read(save(tmp_path / "series.nii.gz", np.zeros((4, 5, 6, 40), np.int16)))
    assert caught.value.code == "nifti-4d"


def test_singleton_axes_go_but_a_volume_of_one_slice_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "one.nii"
    image = nib.Nifti1Image(np.zeros((4, 5, 1, 1), np.int16), AFFINE)
    nib.save(image, path)
    assert read(path).array.shape == (1, 4, 5, 1)
    assert "dropped" in read(path).meta["notes"][0]


def test_rgb_voxels_are_three_channels(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (4, 5, 6, 3)).astype(np.uint8)
    kind = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    save(tmp_path / "rgb.nii.gz", rgb.view(kind)[..., 0])
    np.testing.assert_array_equal(read(tmp_path / "rgb.nii.gz").array, np.moveaxis(rgb, -1, 0))
    assert probe(tmp_path / "rgb.nii.gz")[1] == 3


@pytest.mark.parametrize(
    ("offset", "layout", "values", "code"),
    [
        (DIM, "8h", (3, 4, -5, 6, 1, 1, 1, 1), "nifti-dims"),
        (DIM, "8h", (3, 0, 5, 6, 1, 1, 1, 1), "nifti-dims"),
        (DIM, "8h", (3, 32000, 32000, 32000, 1, 1, 1, 1), "too-large"),
        (DIM, "8h", (3, 4, 5, 7, 1, 1, 1, 1), "nifti-truncated"),
        (DIM, "8h", (3, 4, 5, 5, 1, 1, 1, 1), "nifti-length"),
        (DATATYPE, "h", (1234,), "nifti-datatype"),
        (DATATYPE, "h", (16,), "nifti-datatype"),  # float32, but bitpix still says 16
        (DATATYPE, "2h", (32, 64), "nifti-datatype"),  # complex
        (PIXDIM + 4, "f", (0.0,), "nifti-pixdim"),
        (PIXDIM + 8, "f", (float("nan"),), "nifti-pixdim"),
        (VOX_OFFSET, "f", (0.0,), "nifti-offset"),
        (VOX_OFFSET, "f", (float("inf"),), "nifti-offset"),
        (SLOPE, "f", (float("nan"),), "nifti-scaling"),
        (SLOPE, "f", (float("inf"),), "nifti-scaling"),
        (INTER, "f", (float("nan"),), "nifti-scaling"),
        (SROW, "f", (float("nan"),), "affine-invalid"),
        (SROW, "12f", (0.0,) * 12, "affine-invalid"),
        (SROW + 12, "f", (11.0,), "nifti-forms"),
        (344, "4s", (b"ni1\0",), "nifti-pair"),
        (344, "4s", (b"junk",), "nifti-magic"),
    ],
)
def test_a_damaged_header_is_refused(
    sound: Path, offset: int, layout: str, values: tuple[float, ...], code: str
) -> None:
    image = nib.load(sound, mmap=False)
    # a qform beside the sform for the test of their agreement, none for the tests of the sform
    image.set_qform(image.get_sform(), code=1 if code == "nifti-forms" else 0, strip_shears=True)
    image.set_sform(image.get_qform() if code == "nifti-forms" else AFFINE, code=1)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), sound)
    read(sound)
    patched(sound, offset, layout, *values)
    for reader in (read, read_label, probe):
        if reader is probe and code == "nifti-length":
            continue
        with pytest.raises(DelineateError) as caught:
            reader(sound)
        assert caught.value.code == code
        assert caught.value.where == str(sound)
        assert caught.value.fix


def test_an_affine_that_is_absent_or_contradicts_itself_is_the_callers_choice(sound: Path) -> None:
    image = nib.load(sound, mmap=False)
    tilted = AFFINE.copy()
    tilted[0, 3] += 1
    image.set_qform(tilted, code=1)
    nib.save(image, sound)
    with pytest.raises(GeometryError) as caught:
        read(sound)
    assert "--geometry sform" in str(caught.value)
    assert caught.value.code == "nifti-forms"
    assert nifti.read(sound, geometry="sform").grid.affine[0, 3] == 10
    assert nifti.read(sound, geometry="qform").grid.affine[0, 3] == 11
    patched(patched(sound, QCODE, "h", 0), SCODE, "h", 0)
    with pytest.raises(GeometryError) as caught:
        read(sound)
    assert caught.value.code == "nifti-no-affine"
    by_size = nifti.read(sound, geometry="pixdim")
    assert not by_size.grid.oriented
    assert by_size.spacing_mm == pytest.approx((2.0025, 3.0017, 4), abs=1e-3)


def oblique(path: Path, degrees: float, *nudge: int) -> Path:
    """A volume as ITK writes one turned by a little out of LPS: sform and qform, 32 bits each.

    Args:
        nudge: Steps of a 32-bit float by which b, c and d are off.
    """
    around = np.array([0.2, 0.5, 0.84]) / np.linalg.norm([0.2, 0.5, 0.84])
    turn = nib.quaternions.angle_axis2mat(np.radians(degrees), around)
    rotation = turn @ np.diag([-1.0, -1.0, 1.0])
    affine = np.eye(4)
    affine[:3, :3] = rotation * (0.9, 0.9, 1.2)
    affine[:3, 3] = (120, 110, -60)
    save(path, np.zeros((256, 256, 100), np.uint8), affine)
    exact = nib.quaternions.mat2quat(rotation)
    stored = (exact[1:] * (1 if exact[0] >= 0 else -1)).astype(np.float32)
    stored += np.float32(np.spacing(np.float32(0.5))) * np.array(nudge or (0, 0, 0), np.float32)
    patched(path, 76, "f", 1.0)
    patched(path, QCODE, "2h", 1, 1)
    return patched(path, 256, "6f", *stored, 120, 110, -60)


@pytest.mark.parametrize(
    ("degrees", "nudge"),
    [(0.3, (1, 1, -1)), (0.05, (1, -1, 2)), (0.3, (2, 2, 2)), (0.0, (0, 0, 4)), (40, (1, 1, 1))],
)
def test_what_a_rounded_quaternion_explains_is_no_contradiction(
    tmp_path: Path, degrees: float, nudge: tuple[int, int, int]
) -> None:
    path = oblique(tmp_path / "oblique.nii", degrees, *nudge)
    for image in (read(path), read(path, Reading("sform"))):
        np.testing.assert_array_equal(image.grid.affine, nib.load(path).get_sform())
    assert probe(path)[0].same_as(read(path).grid)
    # the same turn, farther than rounding explains
    patched(path, SROW + 4, "f", float(nib.load(path).get_sform()[0, 1]) + 4e-3)
    with pytest.raises(GeometryError) as caught:
        read(path)
    assert caught.value.code == "nifti-forms"


def test_a_lone_quaternion_a_rounding_step_too_long_is_read(tmp_path: Path) -> None:
    path = oblique(tmp_path / "long.nii", 0.0, 0, 0, 4)  # d is 1.00000024
    patched(path, SCODE, "h", 0)
    np.testing.assert_allclose(np.diag(read(path).grid.affine), [-0.9, -0.9, 1.2, 1], rtol=1e-6)
    patched(path, 264, "f", 1.01)
    with pytest.raises(GeometryError, match=r"1\.01 long"):
        read(path)
    patched(path, SCODE, "h", 1)
    with pytest.raises(GeometryError, match=r"1\.01 long") as caught:
        read(path)
    assert "--geometry sform" in str(caught.value)
    assert "invalid" in read(path, Reading("sform")).meta["notes"][0]


def test_a_choice_of_form_decides_only_where_there_is_one(sound: Path) -> None:
    for geometry in ("sform", "qform", "pixdim"):
        assert read(sound, Reading(geometry)).grid.same_as(read(sound).grid)
        assert read(sound, Reading(geometry)).meta["notes"] == ()


def test_micrometres_become_millimetres(sound: Path) -> None:
    patched(sound, 123, "b", 3)
    assert read(sound).spacing_mm[2] == pytest.approx(0.004)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("keep", [0, 1, 200, 360, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str, keep: int) -> None:
    array = np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32)
    path = save(tmp_path / f"cut{suffix}", array)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ReadError):
        read(path)


def test_a_wrong_gzip_checksum_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "crc.nii.gz", np.ones((8, 8, 8), np.int16))
    data = bytearray(path.read_bytes())
    data[-6] ^= 1
    path.write_bytes(data)
    with pytest.raises(ReadError, match="CRC") as caught:
        read(path)
    assert caught.value.code == "nifti-damaged"


def test_a_gzip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    header = nib.Nifti1Header()
    header.set_data_dtype(np.float32)
    header.set_data_shape((1000, 1000, 350))
    header.set_sform(AFFINE, code=1)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4 + 10**6)))
    for reader in (read, probe):
        with pytest.raises(ReadError) as caught:
            reader(path)
        assert caught.value.code == "compression-bomb"


def test_a_stream_that_never_ends_is_left_after_the_voxels(tmp_path: Path) -> None:
    path = save(tmp_path / "long.nii.gz", np.ones((8, 8, 8), np.int16))
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(10**8)))
    with pytest.raises(ReadError) as caught:
        read(path)
    assert caught.value.code == "nifti-length"


def test_nan_voxels_are_left_for_the_caller(tmp_path: Path) -> None:
    array = np.ones((4, 5, 6), np.float32)
    array[1, 2, 3] = np.nan
    image = read(save(tmp_path / "nan.nii", array))
    assert np.isnan(image.array[0, 1, 2, 3])


def test_labels_keep_their_values_and_must_be_whole(tmp_path: Path) -> None:
    array = np.zeros((4, 5, 6), np.float32)
    array[0], array[1] = 255, 4
    labels = read_label(save(tmp_path / "label.nii", array))
    assert labels.array.dtype == np.int32
    assert np.unique(labels.array).tolist() == [0, 4, 255]
    array[2] = 0.5
    with pytest.raises(LabelError, match=r"0\.5"):
        read_label(save(tmp_path / "half.nii", array))
    with pytest.raises(LabelError):
        read_label(save(tmp_path / "two.nii", np.zeros((4, 5, 6, 2), np.uint8)))


def test_scaled_labels_are_whole_again(tmp_path: Path) -> None:
    path = save(tmp_path / "scaled.nii", np.arange(60, dtype=np.int16).reshape(3, 4, 5) * 10)
    patched(path, SLOPE, "f", 0.1)
    np.testing.assert_array_equal(read_label(path).array.ravel(), np.arange(60))


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int16, np.uint16])
@pytest.mark.parametrize("labels", [(0, 1), (0, 1, 2), (0, 1, 4, 7), (-1, 0, 3), tuple(range(60))])
def test_floats_under_an_integer_header_are_the_labels_that_they_were(
    tmp_path: Path, kind: type, labels: tuple[int, ...]
) -> None:
    array = np.resize(np.array(labels, np.float64), (4, 5, 6))
    image = nib.Nifti1Image(array, AFFINE)
    image.set_data_dtype(kind)
    nib.save(image, tmp_path / "scaled.nii.gz")  # nibabel draws the values out over the type
    label = read_label(tmp_path / "scaled.nii.gz")
    np.testing.assert_array_equal(label.array[0], array)
    stored = nib.load(tmp_path / "scaled.nii.gz").get_fdata()
    if np.abs(stored - array).max() > 1e-3:
        assert "scl_slope" in label.meta["notes"][0]


def test_a_scale_that_does_not_explain_fractions_is_no_excuse(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    probabilities = generator.integers(0, 256, (4, 5, 6)).astype(np.uint8)
    path = patched(save(tmp_path / "soft.nii", probabilities), SLOPE, "f", 1 / 255)
    with pytest.raises(LabelError, match=r"scl_slope 0\.00392157"):
        read_label(path)
    # two steps for one label: nobody wrote that by scaling labels
    two = np.resize(np.array([0, 127, 128, 255], np.uint8), (4, 5, 6))
    path = patched(save(tmp_path / "two.nii", two), SLOPE, "f", 2 / 255)
    with pytest.raises(LabelError, match=r"0\.996078"):
        read_label(path)
    # more labels than the steps of the type: 300 in 8 bits
    many = np.resize(np.arange(256, dtype=np.uint8), (4, 8, 8))
    path = patched(save(tmp_path / "many.nii", many), SLOPE, "f", 300 / 255)
    with pytest.raises(LabelError, match="too coarse"):
        read_label(path)
    # the same values as plain floats: what is there, and what mends it
    floats = np.resize(np.array([0, 0.9960784, 2], np.float32), (4, 5, 6))
    with pytest.raises(LabelError, match=r"0\.9960784") as caught:
        read_label(save(tmp_path / "floats.nii", floats))
    assert "round them" in str(caught.value)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_floats_a_rounding_error_off_whole_numbers_are_labels_with_a_note(
    tmp_path: Path, suffix: str
) -> None:
    array = np.resize(np.array([0, 1, 2, 3], np.float32) * np.float32(1 / 3), (1, 4, 5, 6))
    array = array.astype(np.float32) * np.float32(3.0000002)
    assert (array != np.rint(array)).any()
    path = tmp_path / f"noise{suffix}"
    write(path, Image(array, Grid((4, 5, 6), AFFINE)))
    label = read_label(path)
    np.testing.assert_array_equal(label.array, np.rint(array))
    assert "rounded to whole numbers" in label.meta["notes"][0]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.bool_, np.int64])
def test_what_is_written_is_read_again_and_by_nibabel(tmp_path: Path, dtype: type) -> None:
    array = np.random.default_rng(0).integers(0, 2, (1, 4, 5, 6)).astype(dtype)
    path = tmp_path / "out.nii.gz"
    write(path, Image(array, Grid((4, 5, 6), AFFINE)))
    back, referee = read_label(path), nib.load(path)
    np.testing.assert_array_equal(back.array, array)
    assert back.grid.same_as(Grid((4, 5, 6), AFFINE), 1e-5)
    np.testing.assert_array_equal(np.asarray(referee.dataobj), array[0])
    np.testing.assert_allclose(referee.affine, AFFINE, atol=1e-5)
    assert [p.name for p in tmp_path.iterdir()] == ["out.nii.gz"]
    first = path.read_bytes()
    write(path, Image(array, Grid((4, 5, 6), AFFINE)))
    assert path.read_bytes() == first


@pytest.mark.parametrize("channels", [1, 4])
def test_an_image_without_orientation_or_size_says_so_after_a_round_trip(
    tmp_path: Path, channels: int
) -> None:
    array = np.random.default_rng(0).normal(size=(channels, 4, 5, 6)).astype(np.float32)
    write(tmp_path / "flat.nii.gz", Image(array, flat_grid((4, 5, 6))))
    back = read(tmp_path / "flat.nii.gz")
    np.testing.assert_array_equal(back.array, array)
    assert not back.grid.oriented
    assert not back.grid.spacing_known


def test_a_sheared_affine_survives(tmp_path: Path) -> None:
    sheared = AFFINE.copy()
    sheared[0, 2] = 1.0
    image = Image(np.zeros((1, 4, 5, 6), np.uint8), Grid((4, 5, 6), sheared))
    write(tmp_path / "sheared.nii", image)
    assert read(tmp_path / "sheared.nii").grid.same_as(image.grid, 1e-5)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    image = Image(np.zeros((1, 4, 5, 6), np.uint8), Grid((4, 5, 6), AFFINE))
    with pytest.raises(OutputError):
        write(tmp_path / "absent" / "out.nii.gz", image)
    with pytest.raises(OutputError, match=r"\.jpg"):
        write(tmp_path / "out.jpg", image)
    (tmp_path / "folder.nii").mkdir()
    with pytest.raises(OutputError):
        write(tmp_path / "folder.nii", image)
    assert [p.name for p in tmp_path.iterdir()] == ["folder.nii"]


def test_every_file_of_nibabel_reads_alike_or_is_refused(real_data: Callable[[str], Path]) -> None:
    compared = 0
    for path in sorted((real_data("nifti-edge-nibabel") / "data").iterdir()):
        try:
            image = read(path)
        except DelineateError:
            continue
        if path.name.endswith((".nii", ".nii.gz")):
            referee = nib.load(path)
            expected = np.asarray(referee.get_fdata(dtype=np.float32)).squeeze()
            found = np.moveaxis(image.array, 0, -1).squeeze()
            np.testing.assert_allclose(found, expected, rtol=1e-6)
            np.testing.assert_array_equal(image.grid.affine, referee.affine)
            compared += 1
    assert compared >= 5


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_damage_gives_an_image_or_a_typed_error(sound: Path, data: st.DataObject) -> None:
    damaged = bytearray(sound.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, 351))] = data.draw(st.integers(0, 255))
    path = sound.parent / "damaged.nii"
    path.write_bytes(damaged)
    for reader in (read, read_label, probe):
        error = None
        try:
            reader(path)
        except DelineateError as caught:
            error = caught
        assert error is None or error.where == str(path)
