"""What files hold, as one hash. Files are read once, and known again by what a change would change.

SHA-256 is what processors of today hash fastest (here 720 MB/s a thread, blake2b 480).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path

from delineate.core import threads
from delineate.core.atomic import atomic_write_text
from delineate.core.case import Source
from delineate.core.errors import DelineateError, ReadError
from delineate.core.progress import QUIET, Progress

#: Name of the file, in a folder of prepared cases, that remembers hashes.
REMEMBERED = "content.json"
#: A file changed this lately may change again within one tick of its file system's clock.
_SETTLED_SECONDS = 3.0
#: Formats whose text header may name another file, which has the voxels.
_HEADERS = (".mhd", ".nhdr", ".mha", ".nrrd")
_DETACHED = re.compile(rb"\s*(?:data ?file:|ElementDataFile[ \t]*=)(.*)", re.IGNORECASE)
#: A text header has no more lines, and what counts of each is no longer.
_MOST_LINES, _LONGEST_LINE = 1000, 4096


class Hashes:
    """Hashes of files, remembered by device, inode, size and times of change.

    Args:
        file: Where they are remembered from one command to the next; None: in memory alone.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        self._known: dict[str, str] = {}
        self._new = False
        if file is not None:
            with contextlib.suppress(OSError, ValueError, AttributeError):
                text = json.loads(file.read_text(encoding="utf-8"))
                self._known = {str(key): str(value) for key, value in text.items()}

    def of(self, file: Path) -> str:
        """SHA-256 of a file's bytes, as 64 hexadecimal digits.

        Raises:
            ReadError: It is gone or may not be read.
        """
        try:
            facts = file.stat()
            # Times of change of the data, and (but on Windows) of anything else of the file.
            times = (facts.st_mtime_ns, facts.st_ctime_ns)
            key = "-".join(map(str, (facts.st_dev, facts.st_ino, facts.st_size, *times)))
            if (known := self._known.get(key)) is not None:
                return known
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise ReadError(
                f"expected a file that can be read, got: {error.strerror}",
                where=error.filename or file,
                fix="check that the file is there and that you may read it",
                code="file-missing" if isinstance(error, FileNotFoundError) else "file-denied",
            ) from error
        if time.time() - max(times) / 1e9 > _SETTLED_SECONDS:
            self._known[key] = digest
            self._new = True
        return digest

    def all(self, files: Sequence[Path], progress: Progress = QUIET) -> list[str]:
        """``of`` each file, in threads; what is new is written down.

        Args:
            files: To read, where they are not known.
            progress: Told of every file.

        Raises:
            ReadError: See ``of``.
        """
        with threads.pool(min(8, threads.cores())) as pool:
            hashes = list(progress.track(pool.map(self.of, files), "reading", len(files)))
        self.save()
        return hashes

    def save(self) -> None:
        """Write down what is new; a folder that cannot be written only costs time."""
        if self.file is None or not self._new:
            return
        with contextlib.suppress(OSError, DelineateError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            atomic_write_text(self.file, json.dumps(self._known, indent=0) + "\n")
            self._new = False


def content_hash(source: Source, hashes: Hashes | None = None) -> str:
    """SHA-256 of what a source holds, whatever its files are called: equal for equal bytes.

    Args:
        source: A file, a folder (all files below it) or the slices of a stack.
        hashes: What is known of files already.

    Raises:
        ReadError: A file is gone or may not be read.
    """
    hashes = hashes or Hashes()
    whole = hashlib.sha256()
    for file in source_files(source):
        whole.update(bytes.fromhex(hashes.of(file)))
    return whole.hexdigest()


def source_files(source: Source) -> list[Path]:
    """The files of a source in order; of a folder (a DICOM series) all files below it.

    A header that names a file of voxels beside it is followed by that file.
    """
    paths = list(source) if isinstance(source, tuple) else [source]
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(p for p in path.rglob("*") if p.is_file())
        else:
            files += [path, *_voxels(path)]
    return files


def _voxels(header: Path) -> list[Path]:
    """The file of voxels that a header of MetaImage or NRRD names, if it lies beside it."""
    if not header.name.lower().endswith(_HEADERS):
        return []
    with contextlib.suppress(OSError), header.open("rb") as stream:
        for _ in range(_MOST_LINES):
            line = stream.readline(_LONGEST_LINE)
            if not line.strip():  # what comes behind is no text
                break
            if match := _DETACHED.match(line):
                name = match[1].decode("utf-8", "replace").strip()
                # Others are not read either, nor is LOCAL a file.
                beside = name and Path(name).name == name and "\0" not in name
                file = header.parent / name
                return [file] if beside and file.is_file() else []
    return []
