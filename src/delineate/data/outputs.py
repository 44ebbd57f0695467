"""Where predictions are written: safe names, the format of the input, no input overwritten."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from delineate.core.case import Case, Source
from delineate.core.errors import OutputError
from delineate.core.progress import Say
from delineate.data.cohort import Cohort
from delineate.data.layouts._listing import OWN_SUBJECT

INDEX = "predictions.json"
#: Extension of the input -> extension of the mask. Whatever else is read goes to NIfTI.
FORMATS = {
    **dict.fromkeys((".nrrd", ".nhdr"), ".nrrd"),
    **dict.fromkeys((".mha", ".mhd"), ".mha"),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".bmp"), ".png"),
    **dict.fromkeys((".tif", ".tiff"), ".tif"),
}
#: Those that hold any number.
_OF_IMAGES = (".nrrd", ".mha")
_MOST_BYTES = 180
_MOST_NOTES = 8


@dataclass(frozen=True)
class CaseOutputs:
    """One case and the files that it will be written to: a mask, or one a slice."""

    case: Case
    masks: tuple[Path, ...]
    maps: Mapping[str, Path]
    stack: bool

    @property
    def outputs(self) -> tuple[Path, ...]:
        """All files of the case."""
        return (*self.masks, *self.maps.values())


def plan(
    cases: Sequence[Case], out: Path, maps: Sequence[str] = (), *, images: bool = False
) -> list[CaseOutputs]:
    """The output files of every case, all unlike each other.

    Args:
        cases: That are predicted.
        out: Folder.
        maps: Names of the maps that are written beside.
        images: What is written are images, not masks: formats of pictures do not hold them.
    """
    jobs, taken = [], set[str]()
    for case in cases:
        name = file_name(case.id)
        if taken & _stems(name, maps):
            name = file_name(case.id, always_hash=True)
        taken |= _stems(name, maps)
        source = next(iter(case.images.values()))
        first = source[0] if isinstance(source, tuple) else source
        extension = ".nii.gz" if first.is_dir() else FORMATS.get(first.suffix.lower(), ".nii.gz")
        if images and extension not in _OF_IMAGES:
            extension = ".nii.gz"
        stack = isinstance(source, tuple) and extension in (".png", ".tif")
        if isinstance(source, tuple) and stack:
            stems = [file_name(path.stem) for path in source]
            if len({s.casefold() for s in stems}) < len(stems):
                stems = [f"{k:04d}_{s}" for k, s in enumerate(stems)]
            masks = tuple(out / name / f"{s}.png" for s in stems)
        else:
            suffix = ".nii.gz" if isinstance(source, tuple) else extension
            masks = (out / f"{name}{suffix}",)
        beside = {map_name: out / f"{name}_{map_name}.nii.gz" for map_name in maps}
        jobs.append(CaseOutputs(case, masks, beside, stack))
    return jobs


def _stems(name: str, maps: Sequence[str]) -> set[str]:
    """Of a mask and its maps, as systems see them that do not tell a from A."""
    return {name.casefold(), *(f"{name}_{map_name}".casefold() for map_name in maps)}


def file_name(text: str, *, always_hash: bool = False) -> str:
    """A name for files that every system takes, as near to ``text`` as can be.

    Letters of all scripts and spaces stay. What some system forbids becomes ``_``; a name that is
    too long or was changed carries a hash of the original, so that two never meet.
    """
    name = re.sub(
        r'[\x00-\x1f\x7f\ud800-\udfff<>:"/\\|?*]', "_", unicodedata.normalize("NFC", text)
    )
    name = name.rstrip(" .").lstrip(" .") or "_"
    long = len(name.encode()) > _MOST_BYTES
    if long:
        name = name.encode()[:_MOST_BYTES].decode(errors="ignore").rstrip(" .")
    changed = name != unicodedata.normalize("NFC", text)
    if changed or always_hash:
        name += "-" + hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    return name


def refuse_inputs(cohort: Cohort, out: Path, jobs: list[CaseOutputs]) -> None:
    """Inputs are never overwritten, and masks never put among them."""
    inputs = {p.resolve() for case in cohort.cases for p in _files(case)}
    target = out.resolve()
    if target in {p.parent for p in inputs} | inputs | {cohort.root}:
        raise OutputError(
            "expected a folder apart from the scans, got the folder of the scans",
            where=out,
            fix="choose another output folder",
            code="output-is-input",
        )
    for path in (path for job in jobs for path in job.outputs):
        if path.resolve() in inputs:
            raise OutputError(
                "this would overwrite an input",
                where=path,
                fix="choose another output folder",
                code="output-is-input",
            )


def say_notes(notes: Sequence[str], say: Say) -> None:
    """Say how a folder was read: what was taken for a subject, a class or a label."""
    notes = [note for note in notes if note != OWN_SUBJECT]  # the audit has a finding on that
    for note in notes[:_MOST_NOTES]:
        say(f"  {note}")
    if len(notes) > _MOST_NOTES:
        say(f"  and {len(notes) - _MOST_NOTES} more notes")


def refuse_inside(out: Path, root: Path) -> None:
    """Nothing is written among the data."""
    home, target = root.resolve(), out.resolve()
    if target == home or home in target.parents:
        raise OutputError(
            "expected a folder outside the data",
            where=out,
            fix="choose another --out",
            code="output-in-input",
        )


def _files(case: Case) -> Iterable[Path]:
    sources: list[Source] = [*case.images.values(), *([case.label] if case.label else [])]
    for source in sources:
        yield from source if isinstance(source, tuple) else (source,)


def refuse_existing(out: Path, jobs: list[CaseOutputs], overwrite: bool) -> None:
    """Refuse older results unless told so, and links that lead out of the folder in any case."""
    for job in jobs:
        if job.stack and job.masks[0].parent.is_symlink():
            raise OutputError(
                "expected a folder, got a link",
                where=job.masks[0].parent,
                fix="remove the link, or choose another output folder",
                code="output-link",
            )
    older = [p for p in (out / INDEX, *(p for job in jobs for p in job.outputs)) if p.exists()]
    if older and not overwrite:
        raise OutputError(
            f"expected no older predictions, got {len(older)} files such as {older[0].name}",
            where=out,
            fix="choose another folder with --out, or replace them with --overwrite",
            code="output-exists",
        )
