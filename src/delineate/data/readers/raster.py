"""PNG, JPEG, TIFF and BMP: ``I`` is the row, ``J`` the column, pages of a TIFF are ``K``.

Such files say nothing of the body and seldom of size, so their grid is flat and nominal.
Values are those of the file at any bit depth; nothing is stretched, and alpha is never blended.
"""

from __future__ import annotations

import io
import math
import zlib
from pathlib import Path
from typing import IO, Any

import imagecodecs
import numpy as np
import PIL.Image
import tifffile
from numpy.typing import NDArray

from delineate.core.errors import GeometryError, LabelError, OutputError, ReadError
from delineate.core.image import Grid, Image, flat_grid
from delineate.data.readers._common import (
    MAX_CHANNELS,
    check_size,
    parsing,
    replace_file,
    storable,
)
from delineate.data.readers._label_values import DARK, lossless, whole

#: TIFF compressions 6 and 7, old and new.
_JPEG_IN_TIFF = (6, 7)
_PILLOW = ("PNG", "JPEG", "BMP")
_CHANNELS = {"1": 1, "L": 1, "I;16": 1, "I;16B": 1, "I": 1, "F": 1, "LA": 1, "RGB": 3, "RGBA": 3}


def read(path: Path) -> Image:
    """Read an image as ``(C, I, J)``, or ``(C, I, J, K)`` for a TIFF of several pages, float32.

    Palettes become RGB; where white is zero, values are turned so that higher is brighter and
    ``meta["inverted"]`` says so. ``meta["grey"]`` is True where three channels are identical;
    they are kept, for only the data set as a whole can say that they carry nothing.

    Raises:
        ReadError: Damaged, foreign, too large, or with transparency, CMYK or animation.
        GeometryError: TIFF pages of different shapes.
    """
    array, meta = _load(path, label=False)
    meta["grey"] = len(array) == 3 and bool((array == array[:1]).all())
    return Image(array.astype(np.float32), flat_grid(array.shape[1:]), meta=meta)


def read_label(path: Path) -> Image:
    """Read a label map as ``(1, *S)`` integers; a palette's indices are the labels.

    ``meta["colours"]`` then says which colour each index has in this file, as ``#rrggbb``.

    Stored values count, not how they look: a mask in which white is zero is not turned.

    Raises:
        LabelError: Colours that differ between channels, fractions, or values that lossy
            compression has changed.
        ReadError: As in ``read``.
    """
    array, meta = _load(path, label=True)
    labels, notes = whole(array, path)
    jpeg = meta["format"] == "jpeg" or "jpeg" in meta
    # the channels of a grey JPEG may differ by what was lost
    coloured = bool(np.ptp(labels, axis=0).max() > (DARK if jpeg else 0))
    if not coloured and "colours" not in meta:
        labels, lossy = lossless(labels, jpeg, path)
        notes += lossy
        coloured = bool((labels != labels[:1]).any())
    if coloured:
        raise LabelError(
            f"expected one value a pixel, got a colour picture of {len(array)} channels",
            where=path,
            fix="store label values, not colours: one channel, or a palette",
            code="label-channels",
        )
    meta["notes"] = (*meta["notes"], *notes)
    return Image(labels[:1], flat_grid(labels.shape[1:]), meta=meta)


def probe(path: Path) -> tuple[Grid, int]:
    """Grid and number of channels, from the header alone."""
    with parsing(path, "picture", "raster-damaged"):
        if _is_tiff(path):
            with tifffile.TiffFile(path) as tif:
                return _tiff_layout(tif, path)
        with path.open("rb") as stream, _pillow(stream, path) as picture:
            shape = (picture.height, picture.width)
            channels = 3 if picture.mode == "P" else _CHANNELS[picture.mode]
    return flat_grid(shape), channels


def write(path: Path, image: Image) -> None:
    """Write PNG (flat, 8 or 16 bit, 1 or 3 channels) or TIFF (any type; a volume as pages).

    Raises:
        OutputError: The format cannot hold the image without loss.
    """
    array = storable(image.array, path)
    if image.grid.ndim == 3 and image.grid.oriented:
        raise _not_storable("a volume that lies in the body", path, "write .nii.gz, .nrrd or .mha")
    if path.suffix.lower() in (".tif", ".tiff"):
        pages = np.moveaxis(array, (0, -1), (-1, 0)) if array.ndim == 4 else array
        pages = np.moveaxis(array, 0, -1) if array.ndim == 3 else pages
        colour = image.channels == 3
        pages = pages[..., 0] if image.channels == 1 else pages
        kind = "rgb" if colour and array.dtype in (np.uint8, np.uint16) else "minisblack"
        config = "contig" if image.channels > 1 else None
        replace_file(
            path,
            lambda temporary: tifffile.imwrite(
                temporary, pages, photometric=kind, planarconfig=config, compression="zlib"
            ),
        )
        return
    if image.grid.ndim != 2 or image.channels not in (1, 3):
        raise _not_storable(f"shape {array.shape}", path, "write .tif, .nii.gz or .nrrd")
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high < 2**16) or (array != np.rint(array)).any():
        raise _not_storable(f"values from {low:g} to {high:g}", path, "write .tif or .nii.gz")
    wide = high > 255 or array.dtype == np.uint16
    pixels = np.moveaxis(array, 0, -1).astype(np.uint16 if wide else np.uint8)
    pixels = np.ascontiguousarray(pixels[..., 0] if image.channels == 1 else pixels)
    data = imagecodecs.png_encode(pixels)
    replace_file(path, lambda temporary: temporary.write_bytes(data))


def _not_storable(content: str, path: Path, fix: str) -> OutputError:
    return OutputError(
        f"{path.suffix} cannot hold {content} without loss",
        where=path,
        fix=fix,
        code="output-format",
    )


def _is_tiff(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _load(path: Path, label: bool) -> tuple[NDArray[Any], dict[str, Any]]:
    """Pixels ``(C, I, J[, K])`` as stored, with the alpha channel checked and dropped."""
    with parsing(path, "picture", "raster-damaged"):
        return _load_tiff(path, label) if _is_tiff(path) else _load_pillow(path, label)


def _opaque(array: NDArray[Any], top: float, path: Path) -> NDArray[Any]:
    """``(..., C + alpha)`` without its alpha channel, which must be opaque everywhere."""
    if (array[..., -1] != top).any():
        raise ReadError(
            "the picture is transparent in places, so its values depend on the background",
            where=path,
            fix="flatten it onto the background you mean",
            code="raster-alpha",
        )
    return array[..., :-1]


def _pillow(stream: IO[bytes], path: Path) -> PIL.Image.Image:
    picture = PIL.Image.open(stream, formats=_PILLOW)
    check_size(
        picture.width * picture.height * len(picture.getbands()),
        picture.width * picture.height * len(picture.getbands()),
        path.stat().st_size,
        path,
    )
    if picture.mode not in (*_CHANNELS, "P", "PA"):
        raise ReadError(
            f"expected grey, RGB or a palette, got colour mode {picture.mode}",
            where=path,
            fix="convert it to RGB",
            code="raster-colours",
        )
    if getattr(picture, "n_frames", 1) > 1:
        raise ReadError(
            f"expected one picture, got an animation of {picture.n_frames} frames",  # type: ignore[attr-defined]
            where=path,
            fix="store the frames as pages of a TIFF",
            code="raster-animation",
        )
    if picture.format != "PNG" or "exif" in picture.info:
        _refuse_turned(picture, path)
    return picture


def _refuse_turned(picture: PIL.Image.Image, path: Path) -> None:
    """Refuse a picture that viewers turn; of a PNG this decodes all of it, to find a late tag."""
    if picture.getexif().get(0x0112, 1) != 1:
        raise GeometryError(
            "the EXIF tag asks viewers to turn the picture, so a mask may lie either way",
            where=path,
            fix="turn the pixels themselves and remove the tag, then check the mask",
            code="raster-exif",
        )


def _load_pillow(path: Path, label: bool) -> tuple[NDArray[Any], dict[str, Any]]:
    data = path.read_bytes()
    with io.BytesIO(data) as stream, _pillow(stream, path) as picture:
        meta: dict[str, Any] = {"format": (picture.format or "").lower(), "notes": ()}
        depth, colour = 8, 0
        if meta["format"] == "png":
            _check_png(data, path)
            _refuse_turned(picture, path)
            depth, colour = data[24], data[25]
        if picture.mode in ("P", "PA") and label:
            pixels = np.asarray(picture.getchannel("P") if picture.mode == "PA" else picture)
            colours = np.array(picture.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
            meta["colours"] = _colours(pixels, colours)
        elif depth == 16 and colour != 0:  # Pillow would cut 16-bit colours down to 8 bits
            pixels = np.asarray(imagecodecs.png_decode(data))
            pixels = _opaque(pixels, 65535, path) if colour & 4 else pixels
        else:
            pixels = _values(picture, path)
        if depth in (2, 4) and colour == 0:  # stretched to 8 bits by the decoder
            pixels = pixels // (255 // (2**depth - 1))
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    return np.ascontiguousarray(np.moveaxis(pixels, -1, 0)), meta


def _colours(indices: NDArray[Any], palette: NDArray[np.uint8]) -> dict[int, str]:
    """Index -> colour, of the indices that a picture holds; ``palette`` is ``(N, 3)``."""
    present = np.unique(indices).tolist()
    return {i: "#" + palette[i].tobytes().hex() for i in present if i < len(palette)}


def _values(picture: PIL.Image.Image, path: Path) -> NDArray[Any]:
    """Pixels ``(I, J)`` or ``(I, J, C)``, transparency checked."""
    if picture.has_transparency_data or picture.mode in ("LA", "RGBA", "PA"):
        grey = picture.mode in ("1", "L", "LA")
        return _opaque(np.asarray(picture.convert("LA" if grey else "RGBA")), 255, path)
    if picture.mode == "P":
        picture = picture.convert("RGB")
    pixels = np.asarray(picture)
    return pixels.astype(np.uint8) if pixels.dtype == np.bool_ else pixels


def _check_png(data: bytes, path: Path) -> None:
    """Compare the checksum of every chunk: decoders skip some of them."""
    at = 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        body = data[at + 4 : at + 8 + length]
        stored = data[at + 8 + length : at + 12 + length]
        if zlib.crc32(body).to_bytes(4, "big") != stored:
            break
        if body[:4] == b"IEND":
            return
        at += 12 + length
    raise ReadError(
        "a PNG chunk is cut off or its checksum is wrong",
        where=path,
        fix="fetch the file again",
        code="raster-damaged",
    )


def _tiff_layout(tif: tifffile.TiffFile, path: Path) -> tuple[Grid, int]:
    """Grid and channels without alpha; every page must look like the first."""
    first: Any = tif.pages[0]
    on_disk = path.stat().st_size
    for number, page in enumerate(map(_whole, tif.pages)):
        if page.shape != first.shape or page.dtype != first.dtype or page.axes != first.axes:
            raise GeometryError(
                f"page {number} is {page.shape} {page.dtype}, page 0 {first.shape} {first.dtype}",
                where=path,
                fix="store pages of one shape; pyramids and thumbnails are not read",
                code="raster-pages",
            )
        ends = [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
        if not ends or max(ends) > on_disk or 0 in page.databytecounts:
            raise ReadError(
                f"truncated: page {number} lies beyond the end of the file",
                where=path,
                fix="fetch the file again",
                code="raster-truncated",
            )
    if first.axes not in ("YX", "YXS", "SYX") or len(tif.pages) == 0:
        raise ReadError(
            f"expected rows, columns and samples, got axes {first.axes}",
            where=path,
            fix="store one plane a page",
            code="raster-axes",
        )
    if len(tif.pages) == 1 and (tif.imagej_metadata or {}).get("images", 1) > 1:
        raise ReadError(
            "an ImageJ stack that describes one page only",
            where=path,
            fix="store every plane as a page of its own",
            code="raster-pages",
        )
    samples = int(first.samplesperpixel)
    channels = samples - (1 if _has_alpha(first) else 0)
    photometric = first.photometric.name if hasattr(first.photometric, "name") else "?"
    if photometric not in ("MINISBLACK", "MINISWHITE", "RGB", "PALETTE") and not (
        photometric == "YCBCR" and first.compression == 7
    ):
        raise ReadError(
            f"expected grey, RGB or a palette, got {photometric}",
            where=path,
            fix="convert it to RGB",
            code="raster-colours",
        )
    channels = 3 if photometric == "PALETTE" else channels
    if channels > MAX_CHANNELS:
        raise ReadError(
            f"expected at most {MAX_CHANNELS} channels, got {channels}",
            where=path,
            code="raster-channels",
        )
    count = len(tif.pages)
    shape = (first.imagelength, first.imagewidth, *((count,) if count > 1 else ()))
    values = math.prod(shape) * max(samples, channels)
    check_size(values, values * first.dtype.itemsize, on_disk, path)
    return flat_grid(shape), channels


def _whole(page: Any) -> Any:
    """The page with all its tags; tifffile gives later pages without."""
    return page.aspage() if hasattr(page, "aspage") else page


def _has_alpha(page: Any) -> bool:
    return any(int(kind) in (1, 2) for kind in page.extrasamples[-1:])


def _load_tiff(path: Path, label: bool) -> tuple[NDArray[Any], dict[str, Any]]:
    meta: dict[str, Any] = {"format": "tiff", "notes": ()}
    planes = []
    with tifffile.TiffFile(path) as tif:
        _tiff_layout(tif, path)
        for page in map(_whole, tif.pages):
            pixels = page.asarray()
            if int(page.compression) in _JPEG_IN_TIFF:
                meta["jpeg"] = True
            pixels = np.moveaxis(pixels, 0, -1) if page.axes == "SYX" else pixels
            pixels = pixels if pixels.ndim == 3 else pixels[..., None]
            if pixels.dtype == np.bool_:
                pixels = pixels.astype(np.uint8)
            if _has_alpha(page):
                top = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "iu" else 1
                pixels = _opaque(pixels, top, path)
            if page.photometric.name == "MINISWHITE" and not label:
                bits = int(page.bitspersample)
                if pixels.dtype.kind != "u":
                    raise ReadError(
                        "white is zero, but values are not unsigned",
                        where=path,
                        code="raster-colours",
                    )
                pixels = (2**bits - 1 - pixels).astype(pixels.dtype)
                meta["inverted"] = True
            if page.photometric.name == "PALETTE":
                colours = np.asarray(page.colormap)
                shift = 8 if (colours % 257 == 0).all() or colours.max() > 255 else 0
                palette = (colours.T >> shift).astype(np.uint8)
                if label:
                    meta["colours"] = meta.get("colours", {}) | _colours(pixels, palette)
                else:
                    pixels = palette[pixels[..., 0]]
            planes.append(np.moveaxis(pixels, -1, 0))
    array = planes[0] if len(planes) == 1 else np.stack(planes, axis=-1)
    if array.dtype.kind not in "iuf":
        raise ReadError(
            f"expected integers or floats, got {array.dtype}", where=path, code="raster-datatype"
        )
    return np.ascontiguousarray(array), meta
