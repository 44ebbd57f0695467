"""Pictures: values at any bit depth, nothing blended, nothing guessed."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import PIL.Image
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from delineate.core.errors import (
    DelineateError,
    GeometryError,
    LabelError,
    OutputError,
    ReadError,
)
from delineate.core.image import Grid, Image, flat_grid
from delineate.data.readers import probe, read, read_label, write

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("shape", [(1, 7, 9), (3, 7, 9)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pictures_come_back_as_they_were_written(
    tmp_path: Path, suffix: str, shape: tuple[int, ...], dtype: type
) -> None:
    array = RNG.integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    path = tmp_path / f"picture{suffix}"
    write(path, Image(array, flat_grid(shape[1:])))
    image = read(path)
    np.testing.assert_array_equal(image.array, array.astype(np.float32))
    assert image.grid.shape == (7, 9)
    assert not image.grid.oriented
    assert not image.grid.spacing_known
    grid, channels = probe(path)
    assert (grid.shape, channels) == ((7, 9), shape[0])
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_16_bit_colours_are_not_cut_to_8(tmp_path: Path) -> None:
    rgb = RNG.integers(0, 65535, (5, 6, 3)).astype(np.uint16)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(rgb))
    np.testing.assert_array_equal(read(tmp_path / "a.png").array, np.moveaxis(rgb, -1, 0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint32])
def test_tiff_holds_volumes_of_any_type(tmp_path: Path, dtype: type) -> None:
    array = RNG.integers(0, 30000, (1, 5, 6, 4)).astype(dtype)
    write(tmp_path / "a.tif", Image(array, flat_grid((5, 6, 4))))
    np.testing.assert_array_equal(read(tmp_path / "a.tif").array, array.astype(np.float32))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), array[0].transpose(2, 0, 1))
    assert probe(tmp_path / "a.tif")[0].shape == (5, 6, 4)


def test_one_bit_masks_are_0_and_1(tmp_path: Path) -> None:
    mask = RNG.integers(0, 2, (8, 9)).astype(bool)
    PIL.Image.fromarray(mask).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "b.tif", mask)
    for name in ("a.png", "b.tif"):
        np.testing.assert_array_equal(read_label(tmp_path / name).array[0], mask)


def test_a_tiff_in_which_white_is_zero_is_turned(tmp_path: Path) -> None:
    array = RNG.integers(0, 255, (8, 9)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", 255 - array, photometric="miniswhite")
    image = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.array[0], array)
    assert image.meta["inverted"]
    np.testing.assert_array_equal(read_label(tmp_path / "a.tif").array[0], 255 - array)


def test_a_palette_is_colour_for_images_and_index_for_labels(tmp_path: Path) -> None:
    index = RNG.integers(0, 3, (8, 9)).astype(np.uint8)
    colours = np.array([[0, 0, 0], [250, 10, 20], [30, 40, 200]], np.uint8)
    picture = PIL.Image.fromarray(index, mode=None).convert("P")
    picture.putdata(index.ravel().tolist())
    picture.putpalette(colours.ravel().tolist())
    for name in ("a.png", "a.bmp", "a.tif"):
        picture.save(tmp_path / name)
        label = read_label(tmp_path / name)
        np.testing.assert_array_equal(label.array[0], index)
        assert label.meta["colours"] == {0: "#000000", 1: "#fa0a14", 2: "#1e28c8"}
        image = read(tmp_path / name)
        np.testing.assert_array_equal(np.moveaxis(image.array, 0, -1), colours[index])
        assert probe(tmp_path / name)[1] == 3


@pytest.mark.parametrize(("mode", "channels"), [("LA", 1), ("RGBA", 3)])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_alpha_goes_only_if_opaque(tmp_path: Path, mode: str, channels: int, suffix: str) -> None:
    pixels = RNG.integers(0, 255, (8, 9, channels + 1)).astype(np.uint8)
    pixels[..., -1] = 255
    path = tmp_path / f"a{suffix}"
    PIL.Image.fromarray(pixels).save(path)
    np.testing.assert_array_equal(read(path).array, np.moveaxis(pixels[..., :-1], -1, 0))
    assert probe(path)[1] == channels
    pixels[2, 3, -1] = 254
    PIL.Image.fromarray(pixels).save(path)
    with pytest.raises(ReadError) as caught:
        read(path)
    assert caught.value.code == "raster-alpha"


def test_equal_channels_are_kept_and_said_to_be_grey(tmp_path: Path) -> None:
    grey = np.repeat(RNG.integers(0, 2, (8, 9, 1)).astype(np.uint8) * 255, 3, axis=-1)
    PIL.Image.fromarray(grey).save(tmp_path / "a.png")
    image = read(tmp_path / "a.png")
    assert image.channels == 3
    assert image.meta["grey"]
    label = read_label(tmp_path / "a.png")
    assert label.array.shape == (1, 8, 9)
    assert np.unique(label.array).tolist() == [0, 255]


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_coloured_mask_is_no_label(tmp_path: Path, suffix: str) -> None:
    two = np.where(RNG.integers(0, 2, (8, 9, 1)) > 0, (11, 248, 11), (0, 0, 255))
    for pixels in (RNG.integers(0, 255, (8, 9, 3)), two):
        PIL.Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"a{suffix}")
        with pytest.raises(LabelError) as caught:
            read_label(tmp_path / f"a{suffix}")
        assert caught.value.code == "label-channels"


def test_a_jpeg_is_a_label_only_if_its_values_survived(tmp_path: Path) -> None:
    disc = (np.add.outer(np.arange(-32, 32) ** 2, np.arange(-32, 32) ** 2) < 400) * np.uint8(255)
    PIL.Image.fromarray(disc).save(tmp_path / "blurred.jpg", quality=75)
    with pytest.raises(LabelError, match="lossy"):
        read_label(tmp_path / "blurred.jpg")
    blocks = np.kron(RNG.integers(0, 2, (4, 4)), np.ones((8, 8))).astype(np.uint8) * 255
    PIL.Image.fromarray(blocks).save(tmp_path / "blocks.jpg", quality=100)
    np.testing.assert_array_equal(read_label(tmp_path / "blocks.jpg").array[0], blocks)


def disc(side: int = 64) -> np.ndarray:
    """A mask of 0 and 255."""
    square = np.arange(-side // 2, side // 2) ** 2
    return (np.add.outer(square, square) < (side // 3) ** 2).astype(np.uint8) * np.uint8(255)


@pytest.mark.parametrize("colour", [False, True])
def test_a_jpeg_of_two_values_that_stayed_apart_is_one_structure_and_says_so(
    tmp_path: Path, colour: bool
) -> None:
    mask = disc()
    picture = PIL.Image.fromarray(mask).convert("RGB" if colour else "L")
    picture.save(tmp_path / "a.jpg", quality=100, subsampling=0)
    assert len(np.unique(np.asarray(PIL.Image.open(tmp_path / "a.jpg")))) > 2
    label = read_label(tmp_path / "a.jpg")
    np.testing.assert_array_equal(label.array[0], mask)
    assert "JPEG is lossy: 0, 1" in label.meta["notes"][0]


@pytest.mark.parametrize(
    "mask",
    [
        disc() // 255,  # noise is as large as the label
        disc() // 255 * 2 + disc(32).repeat(2, 0).repeat(2, 1) // 255,
        np.where(disc() > 0, np.uint8(255), np.uint8(128)),
        np.kron(np.array([[0, 128], [255, 0]]), np.ones((32, 32))).astype(np.uint8),
    ],
)
@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_no_jpeg_holds_labels_other_than_0_and_255(
    tmp_path: Path, mask: np.ndarray, suffix: str
) -> None:
    how = {"quality": 100} if suffix == ".jpg" else {"compression": "jpeg", "quality": 100}
    PIL.Image.fromarray(mask).save(tmp_path / f"a{suffix}", **how)
    with pytest.raises(LabelError) as caught:
        read_label(tmp_path / f"a{suffix}")
    assert caught.value.code == "label-lossy"


def test_a_copy_of_a_lossy_mask_is_refused_but_close_labels_are_not(
    tmp_path: Path,
) -> None:
    mask = disc()
    mask[::7] = mask[::7] // 255 * 253 + 1  # 1 and 254 among 0 and 255
    for suffix in (".png", ".tif", ".nii.gz", ".nrrd"):
        write(tmp_path / f"a{suffix}", Image(mask[None], flat_grid(mask.shape)))
        with pytest.raises(LabelError, match="set all above 127") as caught:
            read_label(tmp_path / f"a{suffix}")
        assert caught.value.code == "label-lossy"
    for values in ((0, 1, 255), (0, 1, 2, 3), (0, 100, 200), (0, 1, 128, 254, 255)):
        few = np.resize(np.array(values, np.uint8), (8, 8))
        PIL.Image.fromarray(few).save(tmp_path / "b.png")
        np.testing.assert_array_equal(read_label(tmp_path / "b.png").array[0], few)
        assert read_label(tmp_path / "b.png").meta["notes"] == ()


@pytest.mark.parametrize("how", [PIL.Image.Resampling.BILINEAR, PIL.Image.Resampling.BOX])
def test_a_mask_resized_with_interpolation_is_refused_but_greys_with_an_inside_are_labels(
    tmp_path: Path, how: PIL.Image.Resampling
) -> None:
    PIL.Image.fromarray(disc(96)).resize((48, 48), how).save(tmp_path / "soft.png")
    with pytest.raises(LabelError, match="along edges alone") as caught:
        read_label(tmp_path / "soft.png")
    assert caught.value.code == "label-lossy"
    rings = np.where(disc() > 0, np.uint8(255), np.uint8(0))
    rings[20:30, 20:30], rings[40:44, 30:40], rings[5:8, 5:60] = 85, 170, 128
    PIL.Image.fromarray(rings).save(tmp_path / "rings.png")
    np.testing.assert_array_equal(read_label(tmp_path / "rings.png").array[0], rings)


def test_what_no_picture_can_hold_is_refused_on_writing(tmp_path: Path) -> None:
    for name, array, grid in (
        ("a.png", np.full((1, 4, 5), 0.5, np.float32), flat_grid((4, 5))),
        ("a.png", np.full((1, 4, 5), -1, np.int16), flat_grid((4, 5))),
        ("a.png", np.zeros((2, 4, 5), np.uint8), flat_grid((4, 5))),
        ("a.tif", np.zeros((1, 4, 5, 6), np.uint8), Grid((4, 5, 6), np.eye(4))),
    ):
        with pytest.raises(OutputError) as caught:
            write(tmp_path / name, Image(array, grid))
        assert caught.value.code == "output-format"
    assert list(tmp_path.iterdir()) == []


def test_odd_pictures_are_refused(tmp_path: Path) -> None:
    frames = [PIL.Image.fromarray(RNG.integers(0, 255, (8, 9)).astype(np.uint8)) for _ in range(2)]
    frames[0].save(tmp_path / "moving.png", save_all=True, append_images=frames[1:])
    PIL.Image.new("CMYK", (8, 9)).save(tmp_path / "cmyk.jpg")
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    frames[0].save(tmp_path / "turned.jpg", exif=exif)
    frames[0].save(tmp_path / "turned.png", exif=exif)
    with tifffile.TiffWriter(tmp_path / "pages.tif") as tif:
        tif.write(np.zeros((8, 9), np.uint8))
        tif.write(np.zeros((4, 5), np.uint8))
    for name, code in (
        ("moving.png", "raster-animation"),
        ("cmyk.jpg", "raster-colours"),
        ("turned.jpg", "raster-exif"),
        ("turned.png", "raster-exif"),
        ("pages.tif", "raster-pages"),
    ):
        for reader in (read, probe):
            with pytest.raises(DelineateError) as caught:
                reader(tmp_path / name)
            assert caught.value.code == code


def test_a_file_is_read_for_what_it_is_not_for_its_name(tmp_path: Path) -> None:
    array = RNG.integers(0, 255, (8, 9)).astype(np.uint8)
    PIL.Image.fromarray(array).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read(tmp_path / "a.nii.gz").array[0], array)
    (tmp_path / "empty.png").touch()
    (tmp_path / "words.txt").write_text("not an image")
    for name, code in (
        ("empty.png", "empty-file"),
        ("words.txt", "unknown-format"),
        ("absent.png", "file-missing"),
    ):
        with pytest.raises(ReadError) as caught:
            read(tmp_path / name)
        assert caught.value.code == code


def test_a_stack_of_slices_is_a_volume_with_the_slice_last(tmp_path: Path) -> None:
    slices = RNG.integers(0, 255, (4, 8, 9, 3)).astype(np.uint8)
    paths = tuple(tmp_path / f"{i}.png" for i in range(4))
    for path, pixels in zip(paths, slices, strict=True):
        PIL.Image.fromarray(pixels).save(path)
    image = read(paths)
    np.testing.assert_array_equal(image.array, slices.transpose(3, 1, 2, 0))
    assert not image.grid.spacing_known
    grid, channels = probe(paths)
    assert (grid.shape, channels) == ((8, 9, 4), 3)
    PIL.Image.fromarray(slices[0][:5]).save(paths[2])
    for reader in (read, probe):
        with pytest.raises(GeometryError) as caught:
            reader(paths)
        assert caught.value.where == str(paths[2])


@pytest.mark.parametrize("format_", ["png", "jpeg", "tiff", "bmp"])
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_damage_gives_an_image_or_a_typed_error(
    tmp_path: Path, format_: str, data: st.DataObject
) -> None:
    picture = io.BytesIO()
    PIL.Image.fromarray(np.arange(7 * 9 * 3, dtype=np.uint8).reshape(7, 9, 3)).save(
        picture, format_
    )
    damaged = bytearray(picture.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / f"a.{format_}"
    path.write_bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    for reader in (read, read_label, probe):
        error = None
        try:
            reader(path)
        except DelineateError as caught:
            error = caught
        assert error is None or error.where == str(path)


@pytest.mark.parametrize("format_", ["png", "tiff"])
def test_damaged_pixels_are_refused(tmp_path: Path, format_: str) -> None:
    pixels = RNG.integers(0, 255, (64, 64)).astype(np.uint8)
    path = tmp_path / f"a.{format_}"
    options = {"compression": "tiff_adobe_deflate"} if format_ == "tiff" else {}
    PIL.Image.fromarray(pixels).save(path, **options)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ReadError):
        read(path)


def test_real_pictures_are_those_of_pillow_and_tifffile(real_data: Callable[[str], Path]) -> None:
    chase = real_data("chase-db1")
    for path in sorted(chase.glob("Image_01*.jpg")):
        np.testing.assert_array_equal(
            read(path).array, np.moveaxis(np.asarray(PIL.Image.open(path)), -1, 0)
        )
    for path in sorted(chase.glob("Image_01*HO.png")):
        assert set(np.unique(read_label(path).array)) == {0, 1}
    lgg = sorted((real_data("lgg-mri-segmentation") / "kaggle_3m").glob("*/*_1[0-2].tif"))
    for path in lgg[:10]:
        np.testing.assert_array_equal(read(path).array, np.moveaxis(tifffile.imread(path), -1, 0))
