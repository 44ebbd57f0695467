"""A model that is ready: ``prepare -> infer -> home``, for any number of images.

An image is prepared as the model's training images were, its windows go through the network, and
the maps come home: onto the image's own grid, some rows at a time, so that memory holds a few rows
of them. Only a CRF, which joins every voxel to every other, needs them all. How much memory is
allowed decides whether an image is taken, and nothing else.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from delineate.core import catalog, config
from delineate.core.errors import ConfigError, DelineateError, ModelFileError, ResourceError
from delineate.core.image import Grid, Image
from delineate.core.model_output import IMAGE
from delineate.core.schema import Schema
from delineate.inference._facts import too_little_memory
from delineate.inference.runtimes import PROBABILITIES, Maps, Runtime
from delineate.inference.sliding_window import (
    Tick,
    estimate_bytes,
    sliding_window,
    sweep,
    windows_at_once,
)
from delineate.preprocess import presets
from delineate.preprocess.inverse import Inverse, Rows
from delineate.preprocess.rescale import Scale

if TYPE_CHECKING:
    from delineate.inference.crf import Config as Crf

_T = TypeVar("_T")
_NO_CRF = "the CRF (--crf false)"


@dataclass(frozen=True)
class Request:
    """How the maps of an image are made.

    Args:
        maps: Names of those that are wanted.
        mirror: Average over mirrored passes, along the axes that the model allows.
        crf: Settings of a fully connected CRF that refines probabilities; None: none does.
        memory_bytes: An image that needs more is refused; what comes out does not depend on it.
        beside: What the caller will need of it.
        without: What the caller could do without, in words.
        progress: Told windows done and windows in all; it may raise.
    """

    maps: tuple[str, ...] = (PROBABILITIES,)
    mirror: bool = False
    crf: Crf | None = None
    memory_bytes: int = 8 << 30
    beside: int = 0
    without: tuple[str, ...] = ()
    progress: Tick | None = None


@dataclass(frozen=True)
class Prepared:
    """An image as the network's preparation leaves it.

    Args:
        image: ``(C, *S')``.
        original: Grid before that.
        seconds: What each step took, by name; the steps that follow add theirs.
    """

    image: Image
    original: Grid
    seconds: dict[str, float] = field(default_factory=dict)


class Session:
    """A network made ready, with the document of its model file.

    Args:
        runtime: Computes the maps.
        name: What people call the model: that of its file.

    Raises:
        ModelFileError: A document that says not what it should.
    """

    def __init__(self, runtime: Runtime, name: str = "the model") -> None:
        self.runtime, self.document, self.name = runtime, runtime.document, name
        try:
            self.schema = Schema.from_dict(self.document["schema"])
            self.preparation = presets.Preparation.from_dict(self.document["preparation"])
            self.crf = _crf_settings(self.document)
            scale = self.document.get("output", {}).get("scale")
            #: Of the image that the model gives, if it gives one.
            self.scale = Scale.from_dict(scale) if scale else None
        except (DelineateError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelFileError(
                f"expected a schema and a preparation in the document, got: {error!r}",
                code="model-file-document",
            ) from error

    @staticmethod
    def open(
        path: str | os.PathLike[str],
        device: str = "auto",
        runtime: str | None = None,
        parts: Sequence[str] = (),
    ) -> Session:
        """Read a model file and make its network ready.

        Args:
            path: A model file that Delineate wrote.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
            runtime: What computes the network, a member of ``inference.runtimes``; None: ``onnx``
                for an exported model, else ``torch``.
            parts: Of the model, beside its predictor, whose maps are wanted too.

        Raises:
            ConfigError: No such runtime, or no such part.
            ModelFileError: Foreign or damaged file, unknown network, weights that do not fit it.
            ResourceError: No such device.
        """
        exported = Path(path).suffix == ".onnx"
        if exported and runtime == "torch":
            raise ConfigError(
                "expected a model file for PyTorch, got one exported to ONNX",
                where=path,
                fix="leave --runtime out, or give the .safetensors file it was made from",
                code="runtime",
            )
        module = catalog.load("inference.runtimes", runtime or ("onnx" if exported else "torch"))
        try:
            return Session(module.load(path, device, parts), Path(path).name)
        except ModelFileError as error:
            error.where = error.where or os.fspath(path)
            raise

    @property
    def members(self) -> tuple[Session, ...]:
        """The models that take part: this one."""
        return (self,)

    def outside(self, name: str) -> float:
        """What a map holds where the preparation cuts an image off."""
        return (self.scale.outside or 0.0) if self.scale and name == IMAGE else 0.0

    @property
    def device(self) -> str:
        """Where the network is computed."""
        return self.runtime.device

    @property
    def peak_bytes(self) -> int:
        """Most memory of the device that was in use so far; 0 where it has none of its own."""
        return self.runtime.peak_bytes()

    @property
    def maps(self) -> Mapping[str, int]:
        """Name -> K of every map that there is for every voxel."""
        return self.runtime.maps

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels that an image must have, in order."""
        return tuple(self.document["channels"])

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes that the model tells apart; none where it outlines."""
        return tuple(self.document.get("classes", {}).get("names", ()))

    @property
    def hash(self) -> str:
        """The model file's hash."""
        return str(self.document["sha256"]["document"])

    @property
    def keep_largest(self) -> tuple[str, ...]:
        """Labels of which the largest component alone is kept; ``TOGETHER`` of all as one."""
        return tuple(self.document.get("postprocess", {}).get("keep_largest", ()))

    @property
    def least_volume(self) -> Mapping[str, float]:
        """Label -> the volume, mm to the number of axes, below which it is taken for none."""
        return dict(self.document.get("postprocess", {}).get("least_volume", {}))

    def rows(self, image: Image, request: Request, seconds: dict[str, float]) -> Iterator[Rows]:
        """Maps of an image on its own grid, some rows at a time.

        Args:
            image: ``(C, *S)`` as read from its files, channels in the model's order.
            request: How.
            seconds: What each step took is added to it.

        Raises:
            ResourceError: Too little memory (said before the network runs), or it ran out.
        """
        prepared = self.prepare(image)
        yield from self.home(prepared, self.infer(prepared, request))
        for step, took in prepared.seconds.items():
            seconds[step] = seconds.get(step, 0.0) + took

    def prepare(self, image: Image) -> Prepared:
        """Bring an image into the form that the network was trained on."""
        started = time.perf_counter()
        done = presets.apply(self.preparation, image)
        return Prepared(done, image.grid, {"prepare": time.perf_counter() - started})

    def infer(self, prepared: Prepared, request: Request) -> Iterator[tuple[int, Maps]]:
        """Maps ``(K, rows, *rest)`` of a prepared image and the first of their rows, in order.

        Rows run along the first axis, or along the one by which the model cuts slices.
        """
        seconds = prepared.seconds
        image, axis, _ = self._laid_out(prepared)
        maps = {name: self.maps[name] for name in request.maps}
        free_bytes = self._free_bytes(prepared, request)
        refine = _crf(prepared, self, request.crf, free_bytes) if request.crf else None
        shape = self.document["input"]
        window_options: dict[str, Any] = {
            "maps": maps,
            "batch": windows_at_once(shape["patch"], self.runtime.device),
            "mirror_axes": shape.get("mirror_axes", []) if request.mirror else [],
            "slice_axis": axis,
            "neighbours": shape.get("neighbours", 0),
            "progress": request.progress,
        }
        if refine is None:
            swept = sweep(self.runtime.infer, image, shape["patch"], **window_options)
            yield from _timed(swept, seconds, "network")
            return
        started = time.perf_counter()
        whole = sliding_window(self.runtime.infer, image, shape["patch"], **window_options)
        began = time.perf_counter()
        seconds["network"] = began - started
        whole[PROBABILITIES] = refine(whole[PROBABILITIES])
        seconds["crf"] += time.perf_counter() - began
        yield 0, {name: np.moveaxis(array, (axis or 0) + 1, 1) for name, array in whole.items()}

    def home(self, prepared: Prepared, rows: Iterator[tuple[int, Maps]]) -> Iterator[Rows]:
        """Maps on the grid of the original image, some rows at a time."""
        _, axis, single_slice = self._laid_out(prepared)
        image = prepared.image
        inverse = Inverse(image.history, image.array.shape[1:], prepared.original, axis or 0)
        for _, maps in rows:
            maps = self._in_units(maps)
            yield from inverse.add({n: m[:, 0] for n, m in maps.items()} if single_slice else maps)

    def _in_units(self, maps: Maps) -> Maps:
        """The same, an image in the units of the scans."""
        if self.scale is None or IMAGE not in maps:
            return maps
        return {**maps, IMAGE: self.scale.undo(maps[IMAGE])}

    def _laid_out(self, prepared: Prepared) -> tuple[NDArray[np.float32], int | None, bool]:
        """The image as it is walked, the axis of slices, and whether it is a lone slice."""
        image = np.ascontiguousarray(prepared.image.array, dtype=np.float32)
        axis: int | None = self.document["input"].get("slice_axis")
        if axis is not None and image.ndim == 3:  # for a model of volumes: a volume of one slice
            return image[:, None], 0, True
        return image, axis, False

    def _free_bytes(self, prepared: Prepared, request: Request) -> int:
        """Bytes that may be used beside what the way of this image needs.

        Raises:
            ResourceError: There are none.
        """
        image, axis, _ = self._laid_out(prepared)
        spatial, first = list(image.shape[1:]), axis or 0
        outputs = sum(self.maps[name] for name in request.maps)
        need = request.beside + estimate_bytes(
            [spatial[first], *spatial[:first], *spatial[first + 1 :]],
            self.document["input"]["patch"],
            channels=image.shape[0], outputs=outputs, whole=request.crf is not None,
        )  # fmt: skip
        free_bytes = request.memory_bytes - need
        if request.crf is not None:
            from delineate.inference import crf

            need += crf.estimate_bytes(spatial, channels=len(self.channels), outputs=outputs)
        if need > request.memory_bytes:
            without = [*request.without, *[_NO_CRF] * (request.crf is not None)]
            raise too_little_memory(need, request.memory_bytes, without)
        return free_bytes


def _crf_settings(document: Mapping[str, Any]) -> Crf | None:
    """Of the CRF that the file asks for, if it does."""
    declared = document.get("postprocess", {}).get("crf")
    if declared is None:
        return None
    from delineate.inference.crf import Config

    return config.from_dict(declared, Config)


def _crf(prepared: Prepared, session: Session, settings: Crf, free_bytes: int) -> Any:
    """The CRF of an image, before the network runs: not to fit is found at once.

    Returns:
        From probabilities ``(L, *S)`` to probabilities.
    """
    from delineate.inference import crf

    started = time.perf_counter()
    image = prepared.image
    measured = image.array[: len(session.channels)]  # what follows is derived from them
    outputs = session.maps[PROBABILITIES]
    try:
        refine = crf.for_image(measured, image.grid.spacing_mm, outputs, settings, free_bytes)
    except ResourceError as error:
        raise ResourceError(
            f"the CRF of this image: {error.message}",
            fix=f"allow more with --memory, or do without {_NO_CRF}",
            code="memory",
        ) from error
    prepared.seconds["crf"] = time.perf_counter() - started
    return refine


def _timed(steps: Iterator[_T], seconds: dict[str, float], name: str) -> Iterator[_T]:
    """The same, with the time that they take added up."""
    seconds[name] = 0.0
    while True:
        began = time.perf_counter()
        try:
            step = next(steps)
        except StopIteration:
            return
        finally:
            seconds[name] += time.perf_counter() - began
        yield step
