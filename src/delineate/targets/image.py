"""Image: one sequence of a case from its others, at every voxel, in the units of the scans.

A case that has the sequence teaches a model, whether anything is outlined in it or not. At
prediction only the others are needed. What the values mean is in ``preprocess.rescale``.
"""

from __future__ import annotations

import difflib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from delineate.core.case import Case, Prediction
from delineate.core.errors import ConfigError, InputError
from delineate.core.image import Image
from delineate.core.model_output import IMAGE
from delineate.core.progress import Progress, Say
from delineate.core.schema import Schema
from delineate.data import readers
from delineate.data.cache import PreparedCase
from delineate.data.channels import holds, read_channels
from delineate.data.cohort import Cohort
from delineate.data.opening import Opening
from delineate.data.outputs import CaseOutputs, plan
from delineate.engine.budget import Candidate
from delineate.inference._facts import peak_memory
from delineate.inference._requirements import memory_faults, require, require_fit
from delineate.inference.ensemble import AnySession
from delineate.inference.options import Options as Predicting
from delineate.inference.runtimes.torch import segmenter
from delineate.inference.session import Request
from delineate.inference.sliding_window import Tick, sliding_window, windows_at_once
from delineate.metrics.image_quality import score_image
from delineate.preprocess.presets import Preparation
from delineate.preprocess.rescale import Scale, foreground
from delineate.reports import translation
from delineate.reports._run_folder import Results, RunFolder
from delineate.scoring.options import Options
from delineate.scoring.translations import body, score_images
from delineate.settings import RunConfig
from delineate.targets import Contents, Figure, Target, Usable, _patches, _sizes
from delineate.targets._image_comparison import ImageComparison
from delineate.targets._labelled import spread
from delineate.targets._outline_feed import Feed


@dataclass(frozen=True)
class Config:
    """Settings of a target that is an image."""

    translate_to: str | None = field(
        default=None, metadata={"help": "name of the sequence to be given; the others are seen"}
    )


#: How ``delineate check`` tries it.
TRIED = {"translate_to": "t2"}


def build(config: Config) -> Target:
    """The target for one sequence."""
    return Images(config.translate_to)


#: Said of a scan whose air, or skull, is something that no training scan showed.
_NO_BACKGROUND = (
    "no constant background, where the training scans have one (a head cut out, a black border): "
    "what is given there was never learned"
)


class ImageAnswers:
    """See ``delineate.targets.Answers``."""

    done = "translated"

    def require(self, session: AnySession, options: Predicting) -> None:
        """See ``Answers.require``."""
        lost = {
            "--probabilities: an image has none": options.probabilities,
            "--crf: it refines outlines, and this model gives images": options.crf,
            "--maps: the image is all that this model gives": options.maps,
        }
        require(session, options.mirror, [words for words, is_given in lost.items() if is_given])

    def about(self, session: AnySession) -> dict[str, Any]:
        """Which sequence it is, and what its values mean; of several models their mean."""
        return {"image": _scale(session).to_dict()}

    def merged(self, index: Mapping[str, Any]) -> dict[str, Any]:
        """Nothing: the scale stays that of the first model."""
        return {}

    def notes(self, session: AnySession) -> list[str]:
        """What the values mean."""
        return [_scale(session).meaning]

    def settings(self, session: AnySession, options: Predicting) -> dict[str, Any]:
        """Nothing is up to the models."""
        return {}

    def outputs(self, cases: Sequence[Case], out: Path, options: Predicting) -> list[CaseOutputs]:
        """One image a case."""
        return plan(cases, out, images=True)

    def predict(
        self, session: AnySession, image: Image, options: Predicting, progress: Tick | None
    ) -> Prediction:
        """The image on the grid of its inputs, in units; see ``Answers.predict``."""
        warnings = require_fit(session, image, options.force)
        shape, seconds = image.grid.shape, dict[str, float]()
        request = Request(
            (IMAGE,), options.mirror, memory_bytes=options.memory_bytes,
            beside=8 * math.prod(shape), progress=progress,
        )  # fmt: skip
        with memory_faults(options.memory_bytes):
            started = time.perf_counter()
            whole = np.full((1, *shape), session.outside(IMAGE), np.float32)
            for rows in session.rows(image, request, seconds):
                rows.of(whole)[0] = rows.channel(IMAGE, 0)
            inside = foreground(image.array)
            whole[:, ~inside] = session.outside(IMAGE)
            seconds["home"] = time.perf_counter() - started - sum(seconds.values())
        if inside.all() and _scale(session).outside is not None:
            warnings.append(_NO_BACKGROUND)
        facts = {
            "seconds": {what: round(took, 3) for what, took in seconds.items()},
            **peak_memory(session.peak_bytes),
            "device": session.device,
            "mirrored": options.mirror,
            "warnings": warnings,
        }
        return Prediction(None, image.grid, facts=facts, maps={IMAGE: whole})

    def write(self, outputs: CaseOutputs, prediction: Prediction, out: Path) -> dict[str, Any]:
        """One file of float32."""
        (path,) = outputs.masks
        readers.write(path, Image(prediction.maps[IMAGE], prediction.grid))
        return {"files": {"image": path.relative_to(out).as_posix()}}

    def line(self, record: Mapping[str, Any]) -> str:
        """Its file."""
        return str(record["files"]["image"])

    def finish(self, index: Mapping[str, Any], out: Path) -> None:
        """Every case has a file of its own."""


@dataclass(frozen=True)
class Images:
    """A translator; see ``delineate.targets.Target``."""

    gives: str | None
    kind = "segmenter"
    trains = "translator"
    method = "translate"
    network = "unet"
    settings = ("dimensions", "neighbours")
    automatic = None
    answers = ImageAnswers()
    comparison = ImageComparison()
    format = "delineate-translation"

    def suits(self, cohort: Cohort) -> bool:
        """Which sequence is wanted has to be said."""
        return False

    def asked_by(self, opening: Opening) -> str:
        """Nothing of how data are opened asks for an image."""
        return ""

    def usable(self, cohort: Cohort) -> Usable:
        """Cases that have the sequence, and others to make it from; see ``Target.usable``.

        Raises:
            ConfigError: No sequence is named.
            InputError: No case has it, or none has another.
        """
        if self.gives is None:
            raise ConfigError(
                f"expected the sequence that is to be given, got none; there are "
                f"{', '.join(cohort.channels)}",
                where="translate_to",
                fix="name it: --translate-to NAME",
                code="translate-to",
            )
        with_target = [case for case in cohort.cases if holds(case, self.gives)]
        if not with_target:
            near = difflib.get_close_matches(self.gives, cohort.channels, n=1)
            raise InputError(
                f"expected cases with the sequence {self.gives!r}, got none; there are "
                f"{', '.join(cohort.channels)}",
                where=cohort.root,
                fix=f"did you mean --translate-to {near[0]}?" if near else "choose one of these",
                code="translate-to",
            )
        if all(tuple(case.images) == (self.gives,) for case in with_target):
            raise InputError(
                f"expected sequences to make {self.gives!r} from, got no other",
                where=cohort.root,
                fix="give cases with several registered sequences",
                code="translate-from",
            )
        known = {case.id for case in with_target}
        others = {case.id: self.gives for case in cohort.cases if case.id not in known}
        return Usable(cohort.with_cases(with_target), others)

    def sample(self, cohort: Cohort, count: int) -> list[Case]:
        """See ``Target.sample``."""
        return spread(cohort, count)

    def contents(self, cohort: Cohort, folder: Path, progress: Progress) -> Contents:
        """Every case shows the same."""
        return Contents()

    def learning(
        self, chosen: RunConfig, cohort: Cohort, preparation: Preparation
    ) -> LearningImages:
        """See ``Target.learning``."""
        return LearningImages(chosen, cohort, preparation)

    def rehearse(self, case: Case, cohort: Cohort) -> None:
        """Score the true image; the same a voxel aside stands for the prediction."""
        if self.gives is None or not holds(case, self.gives):
            return
        truth = read_channels(case, [self.gives]).array[0]
        span = float(np.ptp(truth)) or 1.0
        for _ in range(3):  # the prediction as written, as matched, and the baseline
            score_image(np.roll(truth, 1, 0), truth, span, body(truth))

    def score(
        self,
        predictions: Path,
        labels: Path,
        out: Path,
        opening: Opening,
        options: Options,
        say: Say,
        progress: Progress,
    ) -> dict[str, Any]:
        """See ``Target.score``."""
        return score_images(predictions, labels, out, opening, options, say, progress)

    def headline(self, summary: Mapping[str, Any]) -> dict[str, Figure]:
        """PSNR and SSIM, and PSNR of the best mix of the inputs; see ``Target.headline``."""
        figures = summary.get("figures", {})
        named = {"PSNR": "psnr_db", "SSIM": "ssim", "PSNR of the best mix": "baseline_psnr_db"}
        return {
            name: Figure.of(figures[key], "mean") for name, key in named.items() if key in figures
        }

    def results(self, folder: RunFolder) -> Results:
        """See ``Target.results``."""
        return translation.results(folder)


class LearningImages:
    """Images as one run learns them; see ``delineate.targets.Learning``."""

    whole = False
    #: Settings of a network that follow from the data.
    derived: Mapping[str, Any] = {}

    def __init__(self, chosen: RunConfig, cohort: Cohort, preparation: Preparation) -> None:
        self.chosen, self.schema, self.preparation = chosen, cohort.schema, preparation
        self.channels = tuple(preparation.outputs)
        self.outputs = [preparation.target.name] if preparation.target else []
        self.ndim = preparation.ndim
        self.spacing_mm = _patches.spacing_mm(preparation)
        self.neighbours = _patches.neighbours(chosen, preparation)

    def candidates(self, cases: Sequence[PreparedCase]) -> list[Candidate]:
        """What is worth measuring, from modest to ambitious."""
        return _patches.candidates(self.chosen, self.preparation, cases)

    def smaller(self, first: Candidate, cases: Sequence[PreparedCase]) -> list[Candidate]:
        """What to take where hardly a step of the first candidate fits."""
        return _patches.smaller(first, self.chosen, self.preparation, cases)

    def patch(self, cases: Sequence[PreparedCase], voxels: Mapping[int, int]) -> tuple[int, ...]:
        """See ``Learning.patch``."""
        shape = _patches.shape(self.preparation, cases)
        return _sizes.patch_size(shape, voxels[self.ndim], self.ndim, self.spacing_mm)

    def windows(self, case: PreparedCase, patch: Sequence[int]) -> int:
        """Patches that an image takes."""
        return _patches.windows(case, patch, self.preparation.slice_axis)

    def feed(
        self,
        candidate: Candidate,
        cases: Sequence[PreparedCase],
        unlabelled: Sequence[PreparedCase] = (),
    ) -> Feed:
        """Patches with the image that is to be given; nothing outlined draws them."""
        mirror = _sizes.mirror_axes(Schema(()), self.preparation)  # sides are mirrored in both
        return Feed(
            cases, self.chosen, self.preparation, candidate.patch, candidate.batch, mirror,
            self.neighbours, unlabelled, self._scale(cases),
        )  # fmt: skip

    def _scale(self, cases: Sequence[PreparedCase]) -> Scale | None:
        """Of these cases; they have one where the preparation has a target."""
        target = self.preparation.target
        if target is None:
            return None
        return Scale.of(target, [case.meta["target"] for case in cases])

    def document(self, feed: Feed) -> dict[str, Any]:
        """Shape of the network's input, and what its output means."""
        return {
            "input": _patches.input_document(
                self.channels, feed, self.preparation.slice_axis, feed.neighbours
            ),
            "output": {
                "map": IMAGE,
                "names": list(self.outputs),
                "scale": feed.scale.to_dict() if feed.scale else None,
            },
        }

    def validate(
        self,
        network: nn.Module,
        cases: Sequence[PreparedCase],
        feed: Feed,
        device: Any,
        tick: Tick | None = None,
    ) -> dict[str, float]:
        """Mean PSNR and SSIM of validation cases, on the scale that the network learns on."""
        figures = [_figures(network, case, feed, device, tick) for case in cases]
        if not figures:
            return {}
        return {
            f"val_{name}": float(np.mean([figures_of_case[name] for figures_of_case in figures]))
            for name in ("psnr_db", "ssim")
        }

    def select(
        self,
        network: nn.Module,
        cases: Sequence[PreparedCase],
        feed: Feed,
        device: Any,
        tick: Tick | None = None,
    ) -> dict[str, Any]:
        """Nothing is chosen on validation cases."""
        return {}


def _scale(session: AnySession) -> Scale:
    """Of what one model gives, or several together."""
    return Scale.mean_of([member.scale for member in session.members if member.scale is not None])


def _figures(
    network: nn.Module, case: PreparedCase, feed: Feed, device: Any, tick: Tick | None
) -> dict[str, float]:
    """What an image scores on its prepared grid."""
    if case.target is None or feed.scale is None:
        return dict.fromkeys(("psnr_db", "ssim"), math.nan)
    maps = sliding_window(
        segmenter(network, device, own=IMAGE),
        np.array(case.image),
        feed.patch,
        maps={IMAGE: 1},
        batch=windows_at_once(feed.patch, device),
        slice_axis=feed.preparation.slice_axis,
        neighbours=feed.neighbours,
        progress=tick,
    )
    facts, raw = case.meta["target"], np.array(case.target[0])
    known = np.isfinite(raw)
    raw[~known] = facts["outside"] or 0.0
    truth = feed.scale.apply(raw, facts)
    return score_image(maps[IMAGE][0], truth, float(np.ptp(truth)), known)
