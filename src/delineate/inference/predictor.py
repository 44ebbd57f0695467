"""From a model file and an image to a Prediction on the image's own grid."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from delineate.core import config, model_file
from delineate.core.case import Prediction
from delineate.core.errors import (
    DelineateError,
    InputError,
    ModelFileError,
    ResourceError,
)
from delineate.core.image import Grid, Image
from delineate.core.schema import Schema
from delineate.inference import crf as dense_crf
from delineate.inference._facts import peak_memory, sizes, spacing_warnings
from delineate.inference._loading import build, fill
from delineate.inference.classes import classify
from delineate.inference.postprocess import keep_largest_components
from delineate.inference.sliding_window import Tick, estimate_bytes, sliding_window, sweep
from delineate.preprocess import geometry, presets

#: Voxels a forward pass, below which windows are put together in a batch.
_BATCH_VOXELS = {"cpu": 2**18, "cuda": 2**21}


@dataclass(frozen=True)
class Predictor:
    """A network made ready from a model file.

    Args:
        document: The model file's document.
        network: ``(B, C, *patch) -> logits (B, outputs, *patch)``, in ``eval`` on ``device``.
        device: Where it runs.
    """

    document: Mapping[str, Any]
    network: nn.Module
    device: torch.device
    schema: Schema = field(init=False)
    preparation: presets.Preparation = field(init=False)
    crf: dense_crf.Config | None = field(init=False)

    def __post_init__(self) -> None:
        try:
            schema = Schema.from_dict(self.document["schema"])
            preparation = presets.Preparation.from_dict(self.document["preparation"])
            asked = self.document.get("postprocess", {}).get("crf")
            crf = None if asked is None else config.from_dict(asked, dense_crf.Config)
        except (DelineateError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelFileError(
                f"expected a schema and a preparation in the document, got: {error!r}",
                code="model-file-document",
            ) from error
        object.__setattr__(self, "schema", schema)
        object.__setattr__(self, "preparation", preparation)
        object.__setattr__(self, "crf", crf)

    @staticmethod
    def load(path: str | os.PathLike[str], device: str = "auto") -> Predictor:
        """Read a model file and build its network.

        Args:
            path: A ``.safetensors`` file that Delineate wrote.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.

        Raises:
            ModelFileError: Foreign or damaged file, unknown network, weights that do not fit it.
            ResourceError: No such device.
        """
        where = choose_device(device)
        file = model_file.load(path)
        try:
            network = build(file.document)
            fill(network, file.tensors)
            return Predictor(file.document, network.to(where).eval(), where)
        except ModelFileError as error:
            error.where = os.fspath(path)
            raise

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

    def predict(
        self,
        image: Image,
        *,
        probabilities: bool = False,
        mirror: bool = False,
        crf: bool | None = None,
        memory_bytes: int = 8 << 30,
        progress: Tick | None = None,
    ) -> Prediction:
        """Outline one image, or name its class, whichever the model does.

        Args:
            image: ``(C, *S)`` as read from its files, channels in the model's order.
            probabilities: Keep them, ``(outputs, *S)`` float32; needs the memory for it.
            mirror: Average over mirrored passes, along the axes that the model allows.
            crf: Refine with a fully connected CRF; None: where the model's file says so. Labels,
                confidence and probabilities are then all of the CRF. Left out with a warning
                where memory does not allow it.
            memory_bytes: Above this the probabilities are reduced to labels slab by slab.
            progress: Told windows done and windows in all.

        Raises:
            InputError: Wrong number of channels or dimensions.
            ResourceError: Memory ran out.
        """
        warnings = self.check(image.grid, image.channels)
        started = time.perf_counter()
        prepared = presets.apply(self.preparation, image)
        ready = time.perf_counter()
        if self.classes:
            return self._classify(image, prepared, warnings, ready - started)
        try:
            walk = _Walker(
                self, prepared, image.grid, mirror, memory_bytes, probabilities, progress
            )
            if crf or (crf is None and self.crf):
                walk.crf = self.crf or dense_crf.Config()
            run = walk.whole if walk.fits else walk.slabs
            indices, confidence, kept, done = run(image.grid)
        except (MemoryError, RuntimeError) as error:
            raise _resource_error(error, memory_bytes) from error
        rules = self.document.get("postprocess", {}).get("keep_largest", [])
        index = {label.name: i for i, label in enumerate(self.schema.labels, start=1)}
        indices = keep_largest_components(indices, [index[name] for name in rules if name in index])
        finished = time.perf_counter()
        facts = {
            "seconds": {
                "prepare": round(ready - started, 3),
                "network": round(done - ready, 3),
                "home": round(finished - done - walk.crf_seconds, 3),
                **({"crf": round(walk.crf_seconds, 3)} if walk.refined else {}),
            },
            **peak_memory(self.device),
            "device": str(self.device),
            "windows_in_slabs": not walk.fits,
            "mirrored": mirror and bool(self.document["input"].get("mirror_axes")),
            "crf": config.to_dict(walk.crf) if walk.crf and walk.refined else None,
            "confidence": confidence,
            **sizes(indices, image.grid, self.schema),
            "warnings": warnings + walk.warnings,
        }
        return Prediction(self.schema.to_values(indices), image.grid, kept, None, facts)

    def _classify(
        self, image: Image, prepared: Image, warnings: list[str], seconds: float
    ) -> Prediction:
        """Classes of a case and of its slices."""
        started = time.perf_counter()
        case, found = classify(self.document, self.network, self.device, prepared, image.grid)
        facts = {
            "seconds": {
                "prepare": round(seconds, 3),
                "network": round(time.perf_counter() - started, 3),
            },
            **peak_memory(self.device),
            "device": str(self.device),
            "confidence": max(case.values()),
            **found,
            "warnings": warnings,
        }
        return Prediction(None, image.grid, None, case, facts)

    def check(self, grid: Grid, channels: int) -> list[str]:
        """Refuse an image that the model cannot take; say where it leaves the training range.

        Raises:
            InputError: Wrong number of channels or dimensions.
        """
        if channels != len(self.channels):
            raise InputError(
                f"expected {len(self.channels)} channels ({', '.join(self.channels)}), "
                f"got {channels}",
                fix="give the channels that the model was trained on, in this order",
                code="channels",
            )
        patch, axis = self.document["input"]["patch"], self.document["input"].get("slice_axis")
        wanted = 3 if axis is not None else len(patch)
        if grid.ndim != wanted and not (axis is not None and grid.ndim == 2):
            raise InputError(
                f"expected an image of {wanted} dimensions, got shape {grid.shape}",
                fix="use a model that was trained on such images",
                code="dimensions",
            )
        return spacing_warnings(grid, self.document.get("provenance", {}))


class _Walker:
    """One image through the network: all probabilities at once, or labels slab by slab."""

    def __init__(
        self,
        predictor: Predictor,
        prepared: Image,
        original: Grid,
        mirror: bool,
        memory_bytes: int,
        keep: bool,
        progress: Tick | None,
    ) -> None:
        shape = predictor.document["input"]
        self.prepared, self.keep, self.own = prepared, keep, len(predictor.channels)
        self.crf: dense_crf.Config | None = None
        self.refined, self.crf_seconds = False, 0.0
        self.warnings: list[str] = []
        self.outputs = predictor.schema.num_outputs
        self.network, self.patch = predictor.network, tuple(shape["patch"])
        self.image = torch.from_numpy(np.ascontiguousarray(prepared.array, dtype=np.float32))
        self.axis: int | None = shape.get("slice_axis")
        self.lone = self.axis is not None and self.image.ndim == 3
        if self.lone:  # one slice for a model of volumes: a volume of one slice
            self.image, self.axis = self.image.unsqueeze(1), 0
        voxels = _BATCH_VOXELS.get(predictor.device.type, 2**18)
        self.options: dict[str, Any] = {
            "outputs": self.outputs,
            "batch": max(1, voxels // math.prod(self.patch)),
            "mirror_axes": shape.get("mirror_axes", []) if mirror else [],
            "slice_axis": self.axis,
            "neighbours": shape.get("neighbours", 0),
            "device": predictor.device,
            "progress": progress,
        }
        self._fit(original, memory_bytes)

    def _fit(self, original: Grid, memory_bytes: int) -> None:
        """Choose whole or slabs by the memory that each needs.

        Raises:
            ResourceError: Neither is possible.
        """
        first = self.axis or 0
        spatial = list(self.image.shape[1:])
        spatial.insert(0, spatial.pop(first))
        at_home = 4 * math.prod(original.shape) * (3 + 2 * self.outputs * self.keep)
        whole, slabs = (
            at_home
            + estimate_bytes(
                spatial,
                self.patch,
                channels=self.image.shape[0],
                outputs=self.outputs,
                whole=whole,
            )
            for whole in (True, False)
        )
        self.fits = whole <= memory_bytes
        self.spare = memory_bytes - whole
        need = whole if self.keep else slabs
        if not self.fits and (self.keep or slabs > memory_bytes):
            raise ResourceError(
                f"expected to need at most {memory_bytes / 2**30:.3g} GiB, "
                f"but this image takes {need / 2**30:.3g} GiB",
                fix="allow more memory" + (", or do without probabilities" if self.keep else ""),
                code="memory",
            )

    def whole(
        self, grid: Grid
    ) -> tuple[NDArray[np.uint8], float | None, NDArray[np.float32] | None, float]:
        """Probabilities are brought home, then the largest wins; outside a crop is background."""
        found = sliding_window(self.network, self.image, self.patch, **self.options)
        found = found[:, 0] if self.lone else found
        done = time.perf_counter()
        if self.crf:
            found = self._refine(found, self.crf)
        top, index = found.max(0)
        inside = index > 0
        confidence = float(top[inside].mean(dtype=torch.float64)) if inside.any() else None
        history = self.prepared.history
        if not self.keep:
            return geometry.home_labels(found.numpy(), history, grid), confidence, None, done
        fill = [1.0] + [0.0] * (self.outputs - 1)
        kept = geometry.home(found.numpy(), history, grid, fill=fill)
        return kept.argmax(0).astype(np.uint8), confidence, kept, done

    def _refine(self, found: Tensor, settings: dense_crf.Config) -> Tensor:
        """Probabilities after the CRF, on the grid of the network."""
        started = time.perf_counter()
        own = self.prepared.array[: self.own]  # no channel derived from them
        image = torch.from_numpy(np.ascontiguousarray(own, dtype=np.float32))
        need = dense_crf.estimate_bytes(image.shape[1:], channels=len(image), outputs=self.outputs)
        try:
            if need > self.spare:
                raise ResourceError(f"it takes {need / 2**30:.3g} GiB more", code="lattice")
            spacing = self.prepared.grid.spacing_mm
            found = dense_crf.refine(found, image, spacing, settings, memory_bytes=self.spare)
            self.refined = True
        except ResourceError as error:
            self.warnings.append(f"the CRF was left out for want of memory: {error.message}")
        self.crf_seconds = time.perf_counter() - started
        return found

    def slabs(self, grid: Grid) -> tuple[NDArray[np.uint8], float | None, None, float]:
        """Each finished slab is reduced to labels; labels are brought home."""
        if self.crf:
            self.warnings.append("the CRF was left out: the image had to be finished in slabs")
        shape = self.image.shape[1:]
        axis = self.axis or 0
        moved = (shape[axis], *shape[:axis], *shape[axis + 1 :])
        labels = torch.zeros(moved, dtype=torch.uint8)
        sure = [0.0, 0]

        def reduce(row: int, block: Tensor) -> None:
            top, index = block.max(0)
            labels[row : row + block.shape[1]] = index.to(torch.uint8)
            sure[0] += float(top[index > 0].sum(dtype=torch.float64))
            sure[1] += int((index > 0).sum())

        sweep(self.network, self.image, self.patch, reduce, **self.options)
        done = time.perf_counter()
        prepared = labels.movedim(0, axis).contiguous()
        prepared = prepared[0] if self.lone else prepared
        indices = geometry.home(prepared.numpy()[None], self.prepared.history, grid)[0]
        return indices.astype(np.uint8), (sure[0] / sure[1] if sure[1] else None), None, done


def choose_device(name: str = "auto") -> torch.device:
    """The device meant by ``name``; ``auto`` takes CUDA, then Apple's GPU, then the CPU.

    Raises:
        ResourceError: There is no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ResourceError(
            f"expected a device that is here, got {name!r}: {str(error).splitlines()[0]}",
            fix="use --device auto or cpu",
            code="device",
        ) from error
    return device


def _resource_error(error: Exception, memory_bytes: int) -> Exception:
    """Memory faults in the user's words; any other fault as it is."""
    text = str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in text:
        return ResourceError(
            f"memory ran out (the limit for images was {memory_bytes / 2**30:.1f} GiB)",
            fix="use a smaller --memory, --device cpu, or a machine with more memory",
            code="memory",
        )
    return error
