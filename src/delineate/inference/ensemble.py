"""Several models as one: maps are averaged on the grid of the image, before they are judged.

Members may differ in network, patch and preparation, so each brings its maps home first (Hansen &
Salamon 1990, doi:10.1109/34.58871, averaged what networks say of one input). Memory holds the sum
of the maps on the image's own grid, beside what one member needs.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from delineate.core.errors import ConfigError, ModelFileError
from delineate.core.image import Image
from delineate.core.model_output import target
from delineate.core.schema import Schema
from delineate.inference.runtimes import PROBABILITIES
from delineate.inference.session import Request, Session
from delineate.inference.sliding_window import Tick
from delineate.preprocess.inverse import VOXELS, Rows

if TYPE_CHECKING:
    from delineate.inference.crf import Config as Crf

#: What cross-validation leaves in a folder: a model of every fold.
FOLDS = "fold-*"
MODEL = "model.safetensors"

#: What members must have in common, and where a session has it.
_SHARED: Mapping[str, Callable[[Session], Any]] = {
    "target": lambda model: target(model.document)["name"],
    "channels": lambda model: ", ".join(model.channels),
    "classes": lambda model: ", ".join(model.classes),
    "labels": lambda model: _labels(model.schema),
    "regions": lambda model: ", ".join(
        f"{k} = {' + '.join(v)}" for k, v in model.schema.regions.items()
    ),
    "maps": lambda model: ", ".join(f"{name} ({k})" for name, k in model.maps.items()),
}


def model_files(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Model files as they are, and those of its folds for the folder of a cross-validation.

    Raises:
        ModelFileError: A fold has none.
    """
    return [file for path in paths for file in _models(Path(path))]


def open_models(
    paths: Sequence[str | os.PathLike[str]],
    device: str = "auto",
    runtime: str | None = None,
    parts: Sequence[str] = (),
) -> Session | Ensemble:
    """One session of one model file or of several.

    Args:
        paths: Model files.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        runtime: What computes the networks, see ``Session.open``.
        parts: Beside the predictor, see ``Session.open``.

    Raises:
        ConfigError: Models that cannot be averaged, or one given twice.
        ModelFileError: A file that is none.
        ResourceError: No such device.
    """
    opened = [Session.open(path, device, runtime, parts) for path in paths]
    if len({session.name for session in opened}) < len(opened):  # model.safetensors, most of them
        for session, path in zip(opened, paths, strict=True):
            session.name = os.fspath(path)
    return opened[0] if len(opened) == 1 else Ensemble(opened)


class Ensemble:
    """A session of sessions.

    Args:
        members: Two or more, of one target.

    Raises:
        ConfigError: They cannot be averaged; the difference is named. Or one is given twice.
    """

    def __init__(self, members: Sequence[Session]) -> None:
        self.members = tuple(members)
        first = self.members[0]
        for other in self.members[1:]:
            for matter, of in _SHARED.items():
                if of(first) != of(other):
                    raise ConfigError(
                        f"expected models that answer the same question, got {matter} "
                        f"{of(first) or 'none'} in {first.name}, but {of(other) or 'none'} in "
                        f"{other.name}",
                        fix="predict with each of them apart",
                        code="ensemble",
                    )
        duplicated, times = Counter(member.hash for member in self.members).most_common(1)[0]
        if times > 1:
            names = ", ".join(member.name for member in self.members if member.hash == duplicated)
            raise ConfigError(
                f"expected models that differ, got the same one {times} times: {names}",
                fix="name each model once",
                code="ensemble-twice",
            )
        self.channels, self.classes = first.channels, first.classes
        self.schema, self.maps = first.schema, first.maps
        self.preparation = first.preparation

    @property
    def name(self) -> str:
        """Of every member."""
        return " + ".join(member.name for member in self.members)

    @property
    def hash(self) -> str:
        """Names all members together, in their order."""
        return hashlib.sha256("".join(member.hash for member in self.members).encode()).hexdigest()

    def outside(self, name: str) -> float:
        """What a map holds where every preparation cuts an image off."""
        return float(np.mean([member.outside(name) for member in self.members]))

    @property
    def device(self) -> str:
        """Where the networks are computed."""
        return self.members[0].device

    @property
    def peak_bytes(self) -> int:
        """Most memory of the device that was in use so far; 0 where it has none of its own."""
        return max(member.peak_bytes for member in self.members)

    @property
    def keep_largest(self) -> tuple[str, ...]:
        """Labels of which every member keeps the largest component alone."""
        first, *others = (member.keep_largest for member in self.members)
        return tuple(label for label in first if all(label in other for other in others))

    @property
    def least_volume(self) -> Mapping[str, float]:
        """Label -> the least of the members' volumes, where every member has one."""
        first, *others = (member.least_volume for member in self.members)
        return {
            label: min([volume, *(other[label] for other in others)])
            for label, volume in first.items()
            if all(label in other for other in others)
        }

    @property
    def crf(self) -> Crf | None:
        """Settings of the CRF that every member asks for alike; each refines its own maps."""
        first = self.members[0].crf
        return first if all(member.crf == first for member in self.members) else None

    def rows(self, image: Image, request: Request, seconds: dict[str, float]) -> Iterator[Rows]:
        """Averaged maps of an image on its own grid, some rows at a time; see ``Session.rows``.

        Where a member's preparation cut the image off, it says background.
        """
        shape = image.grid.shape
        sums = {name: np.zeros((self.maps[name], *shape), np.float32) for name in request.maps}
        covered = np.zeros((1, *shape), np.uint8)
        own_bytes = sum(array.nbytes for array in sums.values()) + 2 * covered.nbytes
        for number, member in enumerate(self.members):
            member_request = replace(
                request,
                beside=request.beside + own_bytes,
                progress=_share(request.progress, number, len(self.members)),
            )
            for rows in member.rows(image, member_request, seconds):
                rows.of(covered)[...] += 1
                for name, total in sums.items():
                    for k, channel in enumerate(rows.of(total)):
                        channel += rows.channel(name, k)
        n_members = len(self.members)
        for name, total in sums.items():
            if name == PROBABILITIES:
                total[0] += n_members - covered[0]
                total /= n_members
            else:
                total /= np.maximum(covered, 1)
                total[:, covered[0] == 0] = self.outside(name)
        step = max(1, VOXELS * shape[0] // covered.size)
        for start in range(0, shape[0], step):
            yield _part(sums, slice(start, start + step))


#: One model or several: what images are put to.
AnySession = Session | Ensemble


def _part(maps: Mapping[str, Any], rows: slice) -> Rows:
    return Rows(lambda name, k: maps[name][k][rows], lambda array: array[:, rows])


def _share(progress: Tick | None, number: int, n_members: int) -> Tick | None:
    """Progress of one member, told as a share of all."""
    if progress is None:
        return None
    return lambda done, total: progress(number * total + done, n_members * total)


def _models(path: Path) -> list[Path]:
    folds = [folder for folder in path.glob(FOLDS) if folder.is_dir()] if path.is_dir() else []
    if not folds:
        return [path]
    folds.sort(key=lambda fold: (len(fold.name), fold.name))  # fold-10 after fold-9
    if missing := [fold.name for fold in folds if not (fold / MODEL).is_file()]:
        raise ModelFileError(
            f"expected a model of each of {len(folds)} folds, got none of {', '.join(missing)}",
            where=path,
            fix="finish the cross-validation, or name the models that are to predict",
            code="model-file-missing",
        )
    return [fold / MODEL for fold in folds]


def _labels(schema: Schema) -> str:
    return ", ".join(f"{label.name} ({label.value})" for label in schema.labels)
