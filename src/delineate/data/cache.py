"""Prepared cases on disk: memory-mapped, keyed by content and preparation, safe to interrupt.

    FOLDER/<key>/image.npy     (C, *S) float32
                 label.npy     (*S) uint8 indices, where the case is labelled
                 target.npy    (K, *S) float32 in units of the file, where images are to be given
                 samples.npz   up to 10,000 voxel coordinates of every foreground label, and of
                               all that is annotated where some of the case is not
                 case.json     grid, history, subject, facts, and size and sha256 of the other files

The key is the sha256 of what the source files hold and how they are read, of the recipe and of
this format, so an entry never goes stale: another file, another preparation or another version is
another entry.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core import threads
from delineate.core.atomic import (
    atomic_path,
    atomic_write_text,
    check_space,
    remove_stale,
    writable_folder,
)
from delineate.core.case import STRICT, Case
from delineate.core.errors import DelineateError, OutputError, PartialError, ResourceError
from delineate.core.image import Grid
from delineate.core.progress import QUIET, Progress
from delineate.core.schema import IGNORED
from delineate.data.content import REMEMBERED, Hashes, content_hash

#: Goes up when entries written by an older version can no longer be read.
FORMAT = 1
#: Coordinates kept of each label.
SAMPLES = 10_000
#: NumPy parses headers as Python literals, which Python 3.11 can do in one thread at a time alone
#: (python/cpython#106905: now and then "AST constructor recursion depth mismatch").
_PARSING = threading.Lock()


@dataclass(frozen=True, eq=False)
class PreparedArrays:
    """What a preparation gives back for one case.

    Args:
        image: ``(C, *S)`` float32.
        label: ``(*S)`` uint8 indices (``IGNORED`` where nobody annotated), None where unlabelled.
        history: Steps that led from the original grid to this one.
        original: Grid of the first image file.
        grid: Grid of ``image``.
        meta: Whatever else should be kept; plain data for JSON.
        target: ``(K, *S)`` float32, the image that a model is to give, in the units of its file.
    """

    image: NDArray[np.float32]
    label: NDArray[np.uint8] | None
    history: tuple[dict[str, Any], ...]
    original: Grid
    grid: Grid
    meta: Mapping[str, Any] = field(default_factory=dict)
    target: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """A case that is ready for sampling. Small in memory, and safe to send to other processes.

    Args:
        id: Of the case.
        subject: Of the case.
        folder: Where its files lie.
        shape: ``(C, *S)``.
        labelled: False where ``label`` is None.
        history: Steps that led from the original grid to this one.
        original: Grid of the first image file.
        grid: Grid of ``image``.
        meta: What the preparation kept.
        class_name: Class of the case as the cohort gives it now; never kept in the cache.
        targets: Channels of ``target``, 0 where there is none.
    """

    id: str
    subject: str
    folder: Path
    shape: tuple[int, ...]
    labelled: bool
    history: tuple[dict[str, Any], ...]
    original: Grid
    grid: Grid
    meta: Mapping[str, Any]
    class_name: str | None = None
    targets: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes that image, label and target take on disk."""
        voxels = math.prod(self.shape[1:])
        return voxels * (4 * (self.shape[0] + self.targets) + self.labelled)

    @property
    def image(self) -> NDArray[np.float32]:
        """``(C, *S)``, read-only, mapped from disk."""
        return _open(self.folder / "image.npy")

    @property
    def label(self) -> NDArray[np.uint8] | None:
        """``(*S)`` label indices, read-only, mapped from disk."""
        return _open(self.folder / "label.npy") if self.labelled else None

    @property
    def target(self) -> NDArray[np.float32] | None:
        """``(K, *S)`` in the units of the file, read-only, mapped from disk."""
        return _open(self.folder / "target.npy") if self.targets else None

    @cached_property
    def samples(self) -> dict[int, NDArray[np.int32]]:
        """Coordinates ``(n, nd)`` of voxels of each label index that occurs.

        Index 0 is there where some voxels are ``IGNORED``, and holds any of those that are not.
        """
        if not self.labelled:
            return {}
        with _PARSING, np.load(self.folder / "samples.npz", allow_pickle=False) as arrays:
            return {int(index): arrays[index] for index in arrays.files}


def prepare(
    cases: Sequence[Case],
    recipe_key: str,
    make: Callable[[Case], PreparedArrays],
    folder: Path,
    *,
    workers: int | None = None,
    progress: Progress = QUIET,
    verify: bool = False,
) -> list[PreparedCase]:
    """Prepare every case that is not yet in the cache, and open all of them, in order.

    May be killed at any moment and called again: entries appear whole or not at all. Damaged
    entries are made anew. Threads do the work, since reading, interpolation and hashing leave
    the interpreter's lock.

    Args:
        cases: What to prepare.
        recipe_key: Says everything about ``make`` that changes its result.
        make: Reads and prepares one case.
        folder: Of the cache; made if need be.
        workers: Threads; by default as many as processors, at most 8.
        progress: Told of every case.
        verify: Read every byte of existing entries and compare sha256, not only sizes.

    Raises:
        PartialError: Some cases could not be prepared; all are listed, the others are kept.
        OutputError: The folder cannot be written, or the disk is too small or got full.
        ResourceError: Memory ran out.
    """
    folder = writable_folder(folder)
    failed: dict[int, DelineateError] = {}
    hashes = Hashes(folder / REMEMBERED)

    def look_up(case: Case) -> PreparedCase | _Missing | DelineateError:
        try:
            prints = content_hashes(case, hashes)
        except DelineateError as error:
            return error
        entry = folder / _key(case, recipe_key, prints)
        return _load(entry, verify) or _Missing(case, prints, entry)

    count = workers or min(8, threads.cores())
    with progress.task(len(cases), "prepare") as bar, threads.pool(count) as pool:
        looked_up = dict(enumerate(pool.map(look_up, cases)))
        hashes.save()
        failed = {i: e for i, e in looked_up.items() if isinstance(e, DelineateError)}
        missing = {i: m for i, m in looked_up.items() if isinstance(m, _Missing)}
        done = {i: c for i, c in looked_up.items() if isinstance(c, PreparedCase)}
        bar.advance(len(cases) - len(missing))
        running = {pool.submit(_make, m, make): i for i, m in missing.items()}
        bytes_written: list[int] = []
        for future in as_completed(running):
            try:
                case = done[running[future]] = future.result()
            except (ResourceError, OutputError):
                raise
            except DelineateError as error:
                failed[running[future]] = error
            else:
                bytes_written.append(case.nbytes)
                left = len(missing) - len(bytes_written)
                if len(bytes_written) >= 3:  # enough to tell whether the disk will hold the others
                    check_space(folder, left * sum(bytes_written) // len(bytes_written))
            bar.advance(1)
    if failed:
        _raise_failed(cases, failed)
    # What a table says of a case may change while its files do not.
    return [replace(done[i], class_name=case.class_name) for i, case in enumerate(cases)]


@dataclass(frozen=True)
class _Missing:
    """A case that must be prepared: what its files hold, and where its entry goes."""

    case: Case
    prints: Mapping[str, str]
    entry: Path


def _raise_failed(cases: Sequence[Case], failed: Mapping[int, DelineateError]) -> None:
    failures = "".join(f"\n  {cases[i].id}: {failed[i]}" for i in sorted(failed))
    raise PartialError(
        f"{len(failed)} of {len(cases)} cases could not be prepared:{failures}",
        fix="correct these cases, or leave them out: --exclude FILE, one id a line; the others are "
        "kept in the cache",
        code="prepare-failed",
    ) from failed[min(failed)]


# ------------------------------------------------------------------------------------- the key


def content_hashes(case: Case, hashes: Hashes | None = None) -> dict[str, str]:
    """sha256 of what each channel and the label (``""``) hold, whatever the files are called.

    Raises:
        ReadError: A file is gone or may not be read.
    """
    sources = [*case.images.items(), ("", case.label or ())]
    return {channel: content_hash(source, hashes) for channel, source in sources}


def _key(case: Case, recipe_key: str, prints: Mapping[str, str]) -> str:
    """Name of a case's entry: content of its files and how it is read, recipe, and who it is."""
    facts = [FORMAT, recipe_key, case.id, case.subject, list(prints.items())]
    if case.reading != STRICT:
        facts.append(asdict(case.reading))
    if names := case.meta.get("channels"):  # which channel of a file is which
        facts.append(list(names))
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _sha256(file: Path) -> bytes:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


# ------------------------------------------------------------------------------------- reading


def _open(file: Path) -> NDArray[Any]:
    facts = file.stat()
    return _mapped(file, facts.st_ino, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=256)
def _mapped(file: Path, *version: int) -> NDArray[Any]:
    # Opening costs 0.1 ms, which a sampler pays at each patch; every open map holds a file
    # descriptor, of which many systems grant 1024.
    with _PARSING:
        array: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    return array


def _load(entry: Path, verify: bool) -> PreparedCase | None:
    """Open an entry; None if there is none or it is damaged."""
    try:
        text = (entry / "case.json").read_text(encoding="utf-8")
        seal, _, body = text.partition("\n")
        if seal != hashlib.sha256(body.encode()).hexdigest():
            return None
        facts = json.loads(body)
        for name, (size, digest) in facts["files"].items():
            file = entry / name
            if file.stat().st_size != size or (verify and _sha256(file).hex() != digest):
                return None
        case = PreparedCase(
            id=facts["id"],
            subject=facts["subject"],
            folder=entry,
            shape=tuple(facts["shape"]),
            labelled="label.npy" in facts["files"],
            history=tuple(facts["history"]),
            original=_grid_from(facts["original"]),
            grid=_grid_from(facts["grid"]),
            meta=facts["meta"],
            targets=facts.get("targets", 0),
        )
        return case if case.image.shape == case.shape else None
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def _grid_to(grid: Grid) -> dict[str, Any]:
    return {
        "shape": grid.shape,
        "affine": grid.affine.tolist(),
        "oriented": grid.oriented,
        "spacing_known": grid.spacing_known,
    }


def _grid_from(data: Mapping[str, Any]) -> Grid:
    return Grid(
        tuple(data["shape"]), np.array(data["affine"]), data["oriented"], data["spacing_known"]
    )


# ------------------------------------------------------------------------------------- writing


def _make(missing: _Missing, make: Callable[[Case], PreparedArrays]) -> PreparedCase:
    """Prepare one case and write its entry; ``case.json`` comes last and makes it valid."""
    case, entry = missing.case, missing.entry
    try:
        arrays = make(case)
    except MemoryError as error:
        raise ResourceError(
            "memory ran out while this case was prepared",
            where=case.id,
            fix="prepare with fewer workers, or with a coarser voxel size",
            code="memory",
        ) from error
    writable_folder(entry)
    remove_stale(entry)
    (entry / "case.json").unlink(missing_ok=True)
    _write(entry, case, arrays, missing.prints)
    written = _load(entry, verify=False)
    if written is None:
        raise OutputError(
            "expected to read back the entry just written", where=entry, code="cache-write"
        )
    return written


def _write(entry: Path, case: Case, arrays: PreparedArrays, prints: Mapping[str, str]) -> None:
    contents: dict[str, NDArray[Any]] = {
        "image.npy": np.ascontiguousarray(arrays.image, dtype=np.float32)
    }
    if arrays.label is not None:
        contents["label.npy"] = np.ascontiguousarray(arrays.label, dtype=np.uint8)
    if arrays.target is not None:
        contents["target.npy"] = np.ascontiguousarray(arrays.target, dtype=np.float32)
    files = {}
    for name, array in contents.items():
        with atomic_path(entry / name, array.nbytes) as temporary:
            np.save(temporary, array, allow_pickle=False)
            files[name] = _facts(temporary)
    if arrays.label is not None:
        samples = foreground_samples(contents["label.npy"], seed=int(entry.name[:16], 16))
        with atomic_path(entry / "samples.npz") as temporary:
            named = {str(index): voxels for index, voxels in samples.items()}
            np.savez(temporary, allow_pickle=False, **named)
            files["samples.npz"] = _facts(temporary)
    facts = {
        "format": FORMAT, "id": case.id, "subject": case.subject,
        "shape": list(arrays.image.shape), "history": list(arrays.history),
        "original": _grid_to(arrays.original), "grid": _grid_to(arrays.grid),
        "meta": dict(arrays.meta), "sources": dict(prints), "files": files,
        "targets": 0 if arrays.target is None else len(arrays.target),
    }  # fmt: skip
    body = json.dumps(facts, ensure_ascii=False, indent=1)
    seal = hashlib.sha256(body.encode()).hexdigest()
    atomic_write_text(entry / "case.json", f"{seal}\n{body}")


def _facts(file: Path) -> tuple[int, str]:
    return file.stat().st_size, _sha256(file).hex()


def foreground_samples(
    label: NDArray[np.uint8], seed: int, limit: int = SAMPLES
) -> dict[int, NDArray[np.int32]]:
    """Up to ``limit`` coordinates ``(n, nd)`` of each label index of ``(*S)``, drawn evenly.

    Where some voxels are ``IGNORED``, also of index 0: of all that are not.
    """
    generator = np.random.default_rng(seed)

    def sample_coordinates(flat_indices: NDArray[np.intp]) -> NDArray[np.int32]:
        if flat_indices.size > limit:
            flat_indices = np.sort(
                generator.choice(flat_indices, limit, replace=False, shuffle=False)
            )
        return np.stack(np.unravel_index(flat_indices, label.shape), 1).astype(np.int32)

    where = np.flatnonzero((label > 0) & (label != IGNORED))
    values = label.reshape(-1)[where]
    samples = {
        int(index): sample_coordinates(where[values == index]) for index in np.unique(values)
    }
    if (label == IGNORED).any():
        samples[0] = sample_coordinates(np.flatnonzero(label != IGNORED))
    return samples
