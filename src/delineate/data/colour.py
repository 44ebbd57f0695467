"""Grey or colour: pictures of one cohort that store the same thing in one channel or in three.

Whether three equal channels are grey, a file cannot say: a colour camera sees grey things too. The
cohort as a whole can.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from delineate.core.case import Case, Colour, Source
from delineate.core.errors import DelineateError
from delineate.core.threads import cores
from delineate.data import readers
from delineate.data.cohort import Cohort
from delineate.data.layouts._listing import RASTER, is_dicom, suffix

T = TypeVar("T")
#: Modalities whose three channels would be three scans, and not the colours of one picture.
_SCANS = ("MR", "CT", "PET")
#: Pictures looked at first: in a cohort of colour one of them shows it.
_FIRST = 8


def harmonise(cohort: Cohort) -> Cohort:
    """The cohort with one way to read its pictures, where they are stored in several.

    Where no picture shows a colour, all are grey. Where most do, the grey ones are read as three
    equal channels. A few colours among grey pictures are left as they are, and do not fit.
    """
    if len(cohort.channels) != 1 or cohort.modalities.get(cohort.channels[0]) in _SCANS:
        return cohort
    cases = [case for case in cohort.cases if not case.meta.get("channels")]
    pictures = [case for case in cases if all(map(_picture, case.images.values()))]
    counts = _ask_each(_channels, pictures)
    ones = [case for case, n in zip(pictures, counts, strict=True) if n == 1]
    threes = [case for case, n in zip(pictures, counts, strict=True) if n == 3]
    if not threes or (not ones and False in _ask_each(_grey, threes[:_FIRST])):
        return cohort
    is_grey = _ask_each(_grey, threes)
    colours = is_grey.count(False)
    if not colours and True in is_grey:
        message = f"{len(threes)} of {len(pictures)} pictures store grey as three equal channels: "
        return _with(cohort, "grey", message + "one is read")
    if colours > len(ones) > 0:
        message = f"{len(ones)} of {len(pictures)} pictures are grey among colours: "
        return _with(cohort, "rgb", message + "each is read as three equal channels")
    return cohort


def as_trained(cohort: Cohort, modalities: Iterable[str]) -> Cohort:
    """The cohort with its pictures read as a model wants them.

    Args:
        cohort: What is to be outlined.
        modalities: Of the model's channels, in order.
    """
    channels = tuple(modalities)
    if len(channels) == 1 and channels[0] not in _SCANS:
        return _with(cohort, "grey")
    return _with(cohort, "rgb") if channels == ("RGB",) * 3 else cohort


def _with(cohort: Cohort, colour: Colour, note: str = "") -> Cohort:
    cases = [
        dataclasses.replace(case, reading=dataclasses.replace(case.reading, colour=colour))
        for case in cohort.cases
    ]
    before, after = ("RGB", "unknown") if colour == "grey" else ("unknown", "RGB")
    modalities = {c: after if m == before else m for c, m in cohort.modalities.items()}
    return dataclasses.replace(
        cohort,
        cases=tuple(cases),
        modalities=modalities,
        notes=(*cohort.notes, note) if note else cohort.notes,
    )


def _picture(source: Source) -> bool:
    paths = source if isinstance(source, tuple) else (source,)
    return all(suffix(path) in RASTER or (path.is_file() and is_dicom(path)) for path in paths[:1])


def _source(case: Case) -> Source:
    return next(iter(case.images.values()))


def _channels(case: Case) -> int:
    return readers.probe(_source(case), case.reading)[1]


def _grey(case: Case) -> bool:
    return bool(readers.read(_source(case), case.reading).meta.get("grey"))


def _ask_each(question: Callable[[Case], T], cases: list[Case]) -> list[T | None]:
    """The answer for each case; None where its file cannot be read, which is told elsewhere."""

    def ask(case: Case) -> T | None:
        try:
            return question(case)
        except (DelineateError, OSError):
            return None

    with ThreadPoolExecutor(min(8, cores())) as pool:
        return list(pool.map(ask, cases))
