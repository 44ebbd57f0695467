"""Predicted outlines: masks, and maps beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from delineate.core.atomic import writable_folder
from delineate.core.case import Case, Prediction
from delineate.core.image import Image, flat_grid
from delineate.data import readers
from delineate.data.outputs import CaseOutputs, plan
from delineate.inference._requirements import require
from delineate.inference.ensemble import AnySession
from delineate.inference.options import Options
from delineate.inference.outlines import crf_of, outline
from delineate.inference.sliding_window import Tick

#: Structures whose size stands in the line of a case.
_SIZES = 3


class OutlineAnswers:
    """See ``delineate.targets.Answers``."""

    done = "outlined"

    def require(self, session: AnySession, options: Options) -> None:
        """See ``Answers.require``."""
        require(session, options.mirror)

    def about(self, session: AnySession) -> dict[str, Any]:
        """Nothing."""
        return {}

    def merged(self, index: Mapping[str, Any]) -> dict[str, Any]:
        """Nothing."""
        return {}

    def notes(self, session: AnySession) -> list[str]:
        """Where several models clean up or refine unlike each other."""
        notes = []
        unshared = {label for member in session.members for label in member.keep_largest}
        if unshared := unshared.difference(session.keep_largest):
            notes.append(
                f"every component of {', '.join(sorted(unshared))} is kept: not all of the models "
                "keep the largest alone"
            )
        specks = {label for member in session.members for label in member.least_volume}
        if specks := specks.difference(session.least_volume):
            notes.append(
                f"specks of {', '.join(sorted(specks))} are kept: not all of the models know how "
                "small it can be"
            )
        if session.crf is None and any(member.crf for member in session.members):
            notes.append("no CRF refines the outlines: not all of the models ask for the same one")
        return notes

    def settings(self, session: AnySession, options: Options) -> dict[str, Any]:
        """Whether a CRF refines them."""
        return {"crf": crf_of(session, options.crf) is not None}

    def outputs(self, cases: Sequence[Case], out: Path, options: Options) -> list[CaseOutputs]:
        """A mask of every case, or one a slice, and its maps."""
        return plan(cases, out, [*["probabilities"] * options.probabilities, *options.maps])

    def predict(
        self, session: AnySession, image: Image, options: Options, progress: Tick | None
    ) -> Prediction:
        """See ``Answers.predict``."""
        return outline(
            session, image, probabilities=options.probabilities, crf=options.crf,
            maps=options.maps, mirror=options.mirror, memory_bytes=options.memory_bytes,
            force=options.force, progress=progress,
        )  # fmt: skip

    def write(self, outputs: CaseOutputs, prediction: Prediction, out: Path) -> dict[str, Any]:
        """Write masks and maps; their names are relative to ``out``."""
        labels = prediction.labels
        if labels is None:
            return {"files": {}}
        if outputs.stack:
            writable_folder(outputs.masks[0].parent)
            flat = flat_grid(labels.shape[:2])
            for k, path in enumerate(outputs.masks):
                readers.write(path, Image(np.ascontiguousarray(labels[None, ..., k]), flat))
        else:
            readers.write(outputs.masks[0], Image(labels[None], prediction.grid))
        files: dict[str, Any] = {"labels": [p.relative_to(out).as_posix() for p in outputs.masks]}
        maps = dict(prediction.maps)
        if prediction.probabilities is not None:
            maps["probabilities"] = np.round(prediction.probabilities, 3)  # small once compressed
        for name, path in outputs.maps.items():
            readers.write(path, Image(maps[name], prediction.grid))
            files[name] = path.relative_to(out).as_posix()
        return {"files": files}

    def line(self, record: Mapping[str, Any]) -> str:
        """Its file, and the sizes of some structures."""
        facts = record["facts"]
        sizes = facts.get("volume_ml") or facts["voxels"]
        unit = "ml" if "volume_ml" in facts else "voxels"
        sizes_in_words = [
            f"{name} {size:.4g} {unit}" for name, size in list(sizes.items())[:_SIZES]
        ]
        more = [f"{len(sizes) - _SIZES} more"] if len(sizes) > _SIZES else []
        files = record["files"]["labels"]
        file = files[0] if len(files) == 1 else f"{Path(files[0]).parent.as_posix()}/"
        return ", ".join([file, *sizes_in_words, *more])

    def finish(self, index: Mapping[str, Any], out: Path) -> None:
        """Every case has files of its own."""
