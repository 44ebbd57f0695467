"""NRRD and MetaImage: SimpleITK is the referee for sound files, not for damaged ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from delineate.core.errors import DelineateError, LabelError, OutputError, ReadError
from delineate.core.image import Grid, Image, flat_grid
from delineate.data.readers import probe, read, read_label, write

LPS_TO_RAS = np.diag([-1.0, -1, 1, 1])


def volume() -> sitk.Image:
    array = np.random.default_rng(0).integers(-1000, 1000, (6, 5, 4)).astype(np.int16)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.5, 2.0, 3.0))
    image.SetOrigin((10.0, -20.0, 30.0))
    image.SetDirection((0, -1, 0, 1, 0, 0, 0, 0, 1))
    return image


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.nhdr", "a.mhd"])
@pytest.mark.parametrize("compressed", [False, True])
def test_every_voxel_lies_where_simpleitk_puts_it(
    tmp_path: Path, name: str, compressed: bool
) -> None:
    source = volume()
    sitk.WriteImage(source, str(tmp_path / name), compressed)
    image = read(tmp_path / name)
    assert image.array.shape == (1, 4, 5, 6)
    assert probe(tmp_path / name)[0].same_as(image.grid)
    for index in [(0, 0, 0), (3, 0, 0), (1, 4, 2), (3, 4, 5)]:
        assert image.array[0][index] == source[index]
        lps = source.TransformIndexToPhysicalPoint(index)
        ras = image.grid.affine @ (*index, 1)
        np.testing.assert_allclose(ras[:3], (-lps[0], -lps[1], lps[2]), atol=1e-6)


def test_vectors_are_channels_and_flat_images_have_rows_first(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (7, 9, 3)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(rgb, isVector=True), str(tmp_path / "rgb.mha"))
    image = read(tmp_path / "rgb.mha")
    np.testing.assert_array_equal(image.array, np.moveaxis(rgb, -1, 0))
    assert not image.grid.oriented
    with pytest.raises(LabelError):
        read_label(tmp_path / "rgb.mha")


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_a_fourth_axis_of_length_1_is_dropped_as_in_nifti(tmp_path: Path, name: str) -> None:
    labels = sitk.Cast(volume() > 0, sitk.sitkUInt8)
    labels.CopyInformation(volume())
    sitk.WriteImage(labels, str(tmp_path / f"flat_{name}"))
    sitk.WriteImage(sitk.JoinSeries([labels]), str(tmp_path / name), True)
    plain, found = read_label(tmp_path / f"flat_{name}"), read_label(tmp_path / name)
    np.testing.assert_array_equal(found.array, plain.array)
    assert found.grid.same_as(plain.grid, 1e-9)
    assert probe(tmp_path / name)[0].same_as(plain.grid, 1e-9)
    assert "singleton" in found.meta["notes"][0]
    sitk.WriteImage(sitk.JoinSeries([labels, labels]), str(tmp_path / name))
    with pytest.raises(ReadError, match="4, 5, 6, 2"):
        read(tmp_path / name)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
@pytest.mark.parametrize("shape", [(1, 4, 5, 6), (3, 4, 5, 6), (1, 4, 5), (3, 4, 5)])
def test_what_is_written_is_read_again(
    tmp_path: Path, suffix: str, dtype: type, shape: tuple[int, ...]
) -> None:
    array = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    affine = LPS_TO_RAS @ np.array([[0, 2, 0, 1], [-1, 0, 0, 2], [0, 0, 3, 3], [0, 0, 0, 1.0]])
    grids = [flat_grid(shape[1:]), flat_grid(shape[1:], (2.0, 3.0, 4.0)[: len(shape) - 1])]
    grids += [Grid(shape[1:], affine)] if len(shape) == 4 else []
    for grid in grids:
        path = tmp_path / f"out{suffix}"
        write(path, Image(array, grid))
        back = read(path)
        np.testing.assert_array_equal(back.array, array.astype(np.float32))
        assert back.grid.same_as(grid, 1e-9)
        assert (back.grid.oriented, back.grid.spacing_known) == (grid.oriented, grid.spacing_known)
        if shape[0] == 1:
            assert read_label(path).array.dtype == dtype or dtype == np.float32


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("cut", [1, 60, 150])
def test_a_truncated_file_is_refused(tmp_path: Path, name: str, compressed: bool, cut: int) -> None:
    path = tmp_path / name
    sitk.WriteImage(volume(), str(path), compressed)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ReadError) as caught:
        read(path)
    assert caught.value.code == "itk-truncated"


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_damaged_compressed_voxels_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    sitk.WriteImage(volume(), str(path), True)
    data = bytearray(path.read_bytes())
    for at in (-60, -5, -100):
        damaged = data.copy()
        damaged[at] ^= 0xFF
        path.write_bytes(damaged)
        with pytest.raises(ReadError):
            read(path)


@pytest.mark.parametrize(
    ("name", "old", "new", "code"),
    [
        ("a.nrrd", b"sizes: 4 5 6", b"sizes: 4 5 7", "itk-truncated"),
        ("a.nrrd", b"sizes: 4 5 6", b"sizes: 4 5 5", "itk-length"),
        ("a.nrrd", b"sizes: 4 5 6", b"sizes: 99999 99999 9999", "too-large"),
        ("a.nrrd", b"encoding: raw", b"encoding: bzip2", "itk-encoding"),
        ("a.mha", b"DimSize = 4 5 6", b"DimSize = 4 5 7", "itk-truncated"),
        ("a.mha", b"DimSize = 4 5 6", b"DimSize = 4 5 5", "itk-length"),
        ("a.mha", b"ElementDataFile = LOCAL", b"ElementDataFile = ../x", "itk-detached"),
        ("a.mha", b"ElementDataFile = LOCAL", b"ElementDataFile = LIST", "itk-detached"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(
    tmp_path: Path, name: str, old: bytes, new: bytes, code: str
) -> None:
    path = tmp_path / name
    sitk.WriteImage(volume(), str(path), False)
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(ReadError) as caught:
        read(path)
    assert caught.value.code == code


def test_a_time_series_is_refused(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.JoinSeries([volume(), volume()]), str(tmp_path / "a.nrrd"))
    with pytest.raises(ReadError) as caught:
        probe(tmp_path / "a.nrrd")
    assert caught.value.code == "itk-4d"


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_a_sheared_affine_survives_and_two_files_are_refused(tmp_path: Path, suffix: str) -> None:
    affine = np.eye(4)
    affine[0, 2] = 0.5
    image = Image(np.zeros((1, 2, 3, 4), np.uint8), Grid((2, 3, 4), affine))
    write(tmp_path / f"a{suffix}", image)
    assert read(tmp_path / f"a{suffix}").grid.same_as(image.grid, 1e-9)
    with pytest.raises(OutputError):
        write(tmp_path / "a.mhd", image)


def test_real_nrrd_files_are_those_of_simpleitk(real_data: Callable[[str], Path]) -> None:
    for path in sorted(real_data("pyradiomics-roi").glob("*.nrrd")):
        image, referee = read(path), sitk.ReadImage(str(path))
        np.testing.assert_array_equal(image.array[0], sitk.GetArrayFromImage(referee).T)
        last = [n - 1 for n in referee.GetSize()]
        lps = referee.TransformIndexToPhysicalPoint(last)
        ras = image.grid.affine @ (*last, 1)
        np.testing.assert_allclose(ras[:3], (-lps[0], -lps[1], lps[2]), atol=1e-6)
        if "label" in path.name:
            assert read_label(path).array.dtype.kind in "iu"


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_damage_gives_an_image_or_a_typed_error(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / data.draw(st.sampled_from(["a.nrrd", "a.mha"]))
    sitk.WriteImage(volume(), str(path), data.draw(st.booleans()))
    damaged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    for reader in (read, read_label, probe):
        error = None
        try:
            reader(path)
        except DelineateError as caught:
            error = caught
        assert error is None or error.where == str(path)
