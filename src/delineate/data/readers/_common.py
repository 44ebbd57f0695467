"""What all readers share: caps, one net for parser errors, label arrays, atomic writing."""

from __future__ import annotations

import contextlib
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core.atomic import atomic_path
from delineate.core.errors import (
    DelineateError,
    LabelError,
    OutputError,
    ReadError,
    ResourceError,
)
from delineate.core.schema import IGNORE

#: Most values (voxels times channels) that one image may hold; checked before anything is read.
MAX_VALUES = 2**30
#: Most bytes that one file may unpack to.
MAX_BYTES = 2**33
#: A file that unpacks to more than ``BOMB_BYTES`` and grows more than ``BOMB_RATIO``-fold is
#: refused. Small files are let through at any ratio: an empty label map shrinks 1000-fold.
BOMB_BYTES = 2**30
BOMB_RATIO = 500
#: A fourth axis up to this long holds channels; a longer one is taken for a time series.
MAX_CHANNELS = 16


def check_size(values: int, size: int, packed: int | None, path: Path) -> None:
    """Refuse what the header announces as too large, before it is read.

    Args:
        values: Number of values announced.
        size: Bytes announced, unpacked.
        packed: Bytes on disk if the file is compressed, else None.
        path: File concerned.

    Raises:
        ReadError: Code ``"too-large"`` or ``"compression-bomb"``.
    """
    if values > MAX_VALUES or size > MAX_BYTES:
        raise ReadError(
            f"the header announces {values:,} values ({size / 2**30:.1f} GiB), "
            f"at most {MAX_VALUES:,} values and {MAX_BYTES / 2**30:.0f} GiB are read",
            where=path,
            fix="check the header; crop or resample the image if it is truly this large",
            code="too-large",
        )
    if packed is not None and size > BOMB_BYTES and size > BOMB_RATIO * max(packed, 1):
        raise ReadError(
            f"{packed:,} bytes on disk would unpack to {size:,}, more than {BOMB_RATIO}-fold",
            where=path,
            fix="if the file is trusted, store it uncompressed or as 8-bit integers",
            code="compression-bomb",
        )


@contextlib.contextmanager
def parsing(path: Path, kind: str, code: str) -> Iterator[None]:
    """Turn whatever a parser of untrusted bytes throws into a typed error that names the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except DelineateError as error:
        error.where = error.where or str(path)
        raise
    except FileNotFoundError as error:
        raise ReadError(
            "no such file", where=path, fix="check the path", code="file-missing"
        ) from error
    except PermissionError as error:
        raise ReadError(
            "the file may not be read", where=path, fix="check its permissions", code="file-denied"
        ) from error
    except MemoryError as error:
        raise ResourceError("not enough memory to read the file", where=path) from error
    except Exception as error:
        raise ReadError(
            f"expected a sound {kind} file, got: {type(error).__name__}: {error}",
            where=path,
            fix="the file is damaged or not what its name says; fetch it again",
            code=code,
        ) from error


def one_channel(channels: int, path: Path) -> None:
    """Raise LabelError unless a label map has one channel."""
    if channels != 1:
        raise LabelError(
            f"expected a label map of one channel, got {channels}",
            where=path,
            fix="merge the channels into one map of label values",
            code="label-channels",
        )


def structure_name(text: str) -> str:
    """A name as label files give it, in one form: composed Unicode, ``ignore`` in small letters."""
    name = unicodedata.normalize("NFC", text.strip())
    return IGNORE if name.casefold() == IGNORE else name


def replace_file(path: Path, save: Callable[[Path], object]) -> None:
    """Write through a temporary name in the same folder, so that no half file is ever seen.

    Args:
        path: Final name.
        save: Writes the file it is given; the name keeps the suffixes of ``path``.

    Raises:
        OutputError: The folder is absent or read-only, the disk is full.
    """
    try:
        with atomic_path(path) as temporary:
            save(temporary)
    except RuntimeError as error:  # how ITK says so
        raise OutputError(
            f"cannot write: {error}",
            where=path,
            fix="check that the folder exists, may be written to and has room",
        ) from error


def storable(array: NDArray[Any], path: Path) -> NDArray[Any]:
    """The array in a type that every format holds: booleans as uint8, 64-bit integers as 32."""
    if array.dtype == np.bool_:
        return array.astype(np.uint8)
    if array.dtype in (np.int64, np.uint64):
        low, high = int(array.min()), int(array.max())
        if low < -(2**31) or high >= 2**31:
            raise OutputError(
                f"expected values within 32 bits, got {low} to {high}",
                where=path,
                fix="renumber the labels",
            )
        return array.astype(np.int32)
    if array.dtype == np.float16:
        return array.astype(np.float32)
    return array
