"""From maps that come home to labels on the image's own grid: what wins, and how surely."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from delineate.core import config
from delineate.core.case import Prediction
from delineate.core.image import Grid, Image
from delineate.inference._facts import peak_memory, sizes
from delineate.inference._requirements import memory_faults, require, require_fit
from delineate.inference.postprocess import TOGETHER, keep_largest_components, without_specks
from delineate.inference.runtimes import PROBABILITIES
from delineate.inference.session import Request
from delineate.inference.sliding_window import Tick
from delineate.preprocess import inverse
from delineate.preprocess.inverse import Rows

if TYPE_CHECKING:
    from delineate.inference.crf import Config as Crf
    from delineate.inference.ensemble import AnySession


def outline(
    session: AnySession,
    image: Image,
    *,
    probabilities: bool = False,
    mirror: bool = False,
    crf: bool | None = None,
    maps: Sequence[str] = (),
    memory_bytes: int = 8 << 30,
    force: bool = False,
    progress: Tick | None = None,
) -> Prediction:
    """Outline one image.

    Args:
        session: Of a model that outlines, or of several.
        image: ``(C, *S)`` as read from its files, channels in the model's order.
        probabilities: Keep them, ``(outputs, *S)`` float32; needs the memory for it.
        mirror: Average over mirrored passes, along the axes that the model allows.
        crf: Refine with a fully connected CRF; None: where the model's file says so. Labels,
            confidence and probabilities are then all of the CRF.
        maps: Names of those to keep beside, of the parts that the session was opened with.
        memory_bytes: An image that needs more is refused; what comes out does not depend on it.
        force: Take images of another modality, or in other units, than in training; a warning
            says so.
        progress: Told windows done and windows in all.

    Raises:
        ConfigError: An option that this model cannot follow.
        InputError: Wrong number of channels or dimensions, or another kind of image.
        ResourceError: Too little memory (said before the network runs), or it ran out.
    """
    require(session, mirror)
    warnings = require_fit(session, image, force)
    outputs = session.schema.num_outputs
    settings = crf_of(session, crf)
    beside = {name: session.maps[name] for name in maps}
    request = Request(
        maps=(PROBABILITIES, *maps),
        mirror=mirror,
        crf=settings,
        memory_bytes=memory_bytes,
        beside=inverse.estimate_bytes(image.grid.shape, outputs, probabilities)
        + 4 * sum(beside.values()) * math.prod(image.grid.shape),
        without=(*["probabilities"] * probabilities, *maps),
        progress=progress,
    )
    seconds: dict[str, float] = {}
    with memory_faults(memory_bytes):
        started = time.perf_counter()
        home = Labels(image.grid, outputs, keep=probabilities, maps=beside)
        for rows in session.rows(image, request, seconds):
            home.add(rows)
        index = {label.name: i for i, label in enumerate(session.schema.labels, start=1)}
        rules = [index[name] for name in session.keep_largest if name in index]
        indices = keep_largest_components(home.labels, rules, TOGETHER in session.keep_largest)
        indices, removed = _without_specks(indices, image.grid, session)
        seconds["home"] = time.perf_counter() - started - sum(seconds.values())
        facts: dict[str, Any] = {
            "seconds": {step: round(took, 3) for step, took in seconds.items()},
            "confidence": home.confidence,
            **sizes(indices, image.grid, session.schema),
            "crf": config.to_dict(settings) if settings else None,
            **peak_memory(session.peak_bytes),
            "device": session.device,
            "mirrored": mirror,
            "warnings": [*warnings, *removed],
        }
        labels = session.schema.to_values(indices)
    return Prediction(labels, image.grid, home.probabilities, None, facts, home.maps)


def _without_specks(
    indices: NDArray[Any], grid: Grid, session: AnySession
) -> tuple[NDArray[Any], list[str]]:
    """Labels without what is smaller than it can be, and a sentence for each that is taken away."""
    if not grid.spacing_known:
        return indices, []
    names = {i: label.name for i, label in enumerate(session.schema.labels, start=1)}
    least = {
        i: session.least_volume[name] for i, name in names.items() if name in session.least_volume
    }
    cleaned, removed = without_specks(indices, least, math.prod(grid.spacing_mm))
    unit, size = ("ml", 1000.0) if grid.ndim == 3 else ("mm²", 1.0)
    return cleaned, [
        f"{names[i]}: {volume / size:.3g} {unit} taken away, less than {least[i] / size:.3g} "
        f"{unit}, a tenth of the smallest that taught the model"
        for i, volume in removed.items()
    ]


class Labels:
    """Labels, and probabilities if they are wanted, from rows that come home.

    Args:
        grid: Of the image.
        outputs: Channels of the probabilities, background first.
        keep: Keep the probabilities too.
        maps: Name -> K of others to keep.
    """

    def __init__(
        self, grid: Grid, outputs: int, *, keep: bool = False, maps: Mapping[str, int] | None = None
    ) -> None:
        self.outputs = outputs
        #: ``(*S)`` label indices; background where the image was cropped.
        self.labels = np.zeros(grid.shape, dtype=np.uint8)
        #: ``(outputs, *S)``, or None.
        self.probabilities: NDArray[np.float32] | None = None
        if keep:
            self.probabilities = np.zeros((outputs, *grid.shape), dtype=np.float32)
            self.probabilities[0] = 1
        #: ``(K, *S)`` by name; 0 where the image was cropped.
        self.maps = {
            name: np.zeros((channels, *grid.shape), dtype=np.float32)
            for name, channels in (maps or {}).items()
        }
        self._sum, self._count = 0.0, 0

    @property
    def confidence(self) -> float | None:
        """Mean probability of the label that won, over all voxels that have one."""
        return self._sum / self._count if self._count else None

    def add(self, rows: Rows) -> None:
        """Some finished rows; of labels that are equally likely the first wins."""
        probabilities = None if self.probabilities is None else rows.of(self.probabilities)
        best = rows.channel(PROBABILITIES, 0)
        if probabilities is not None:
            probabilities[0] = best
        index = np.zeros(best.shape, dtype=np.uint8)
        for number in range(1, self.outputs):
            channel = rows.channel(PROBABILITIES, number)
            if probabilities is not None:
                probabilities[number] = channel
            wins = channel > best
            index[wins] = number
            best = np.maximum(best, channel)
        rows.of(self.labels[None])[0] = index
        for name, whole in self.maps.items():
            place = rows.of(whole)
            for number in range(len(whole)):
                place[number] = rows.channel(name, number)
        inside = index > 0
        self._sum += float(best[inside].sum(dtype=np.float64))
        self._count += int(inside.sum())


def crf_of(session: AnySession, requested: bool | None) -> Crf | None:
    """Settings of the CRF that refines outlines, where ``requested`` leaves it to the model."""
    if not (session.crf is not None if requested is None else requested):
        return None
    from delineate.inference.crf import Config

    return session.crf or Config()
