"""From a model file and an image to a Prediction on the image's own grid."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from delineate.core import config, model_file
from delineate.core.case import Prediction
from delineate.core.errors import (
    ConfigError,
    DelineateError,
    InputError,
    ModelFileError,
    ResourceError,
)
from delineate.core.image import Grid, Image
from delineate.core.schema import Schema
from delineate.inference import crf as dense_crf
from delineate.inference._contract import contradictions, measure
from delineate.inference._facts import check_slices, peak_memory, sizes, spacing_warnings
from delineate.inference._loading import build, fill
from delineate.inference._walk import Walk
from delineate.inference.classes import classify
from delineate.inference.postprocess import keep_largest_components
from delineate.inference.sliding_window import Tick
from delineate.preprocess import presets


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
        force: bool = False,
        progress: Tick | None = None,
    ) -> Prediction:
        """Outline one image, or name its class, whichever the model does.

        Args:
            image: ``(C, *S)`` as read from its files, channels in the model's order.
            probabilities: Keep them, ``(outputs, *S)`` float32; needs the memory for it.
            mirror: Average over mirrored passes, along the axes that the model allows.
            crf: Refine with a fully connected CRF; None: where the model's file says so. Labels,
                confidence and probabilities are then all of the CRF.
            memory_bytes: An image that needs more is refused; what comes out does not depend on it.
            force: Take images of another modality, or in other units, than in training; a warning
                says so.
            progress: Told windows done and windows in all.

        Raises:
            ConfigError: An option that this model cannot follow.
            InputError: Wrong number of channels or dimensions, or another kind of image.
            ResourceError: Too little memory (said before the network runs), or it ran out.
        """
        self.require(probabilities=probabilities, mirror=mirror, crf=crf)
        warnings = self.check(image.grid, image.channels) + self.require_kind(image, force)
        started = time.perf_counter()
        prepared = presets.apply(self.preparation, image)
        facts: dict[str, Any] = {"seconds": {"prepare": time.perf_counter() - started}}
        labels, maps, named = None, None, None
        try:
            if self.classes:
                named = self._classify(prepared, image.grid, facts, mirror, memory_bytes)
            else:
                settings = (self.crf or dense_crf.Config()) if self.uses_crf(crf) else None
                walk = Walk(
                    self.network, self.document["input"], self.schema.num_outputs, self.device,
                    prepared, image.grid, own=len(self.channels), crf=settings, mirror=mirror,
                    keep=probabilities, memory_bytes=memory_bytes,
                )  # fmt: skip
                labels = self._outline(walk, facts, progress)
                maps = walk.home.probabilities
                facts["crf"] = config.to_dict(settings) if settings else None
        except (MemoryError, RuntimeError) as error:
            raise _resource_error(error, memory_bytes) from error
        facts["seconds"] = {what: round(took, 3) for what, took in facts["seconds"].items()}
        facts |= {
            **peak_memory(self.device),
            "device": str(self.device),
            "mirrored": mirror,
            "warnings": warnings,
        }
        return Prediction(labels, image.grid, maps, named, facts)

    def require(
        self, *, probabilities: bool = False, mirror: bool = False, crf: bool | None = None
    ) -> None:
        """Refuse options that this kind of model cannot follow.

        Raises:
            ConfigError: With the options that have to go.
        """
        lost = []
        if self.classes and probabilities:
            lost.append("--probabilities: a class has one number, which is told in any case")
        if self.classes and crf:
            lost.append("--crf: it refines outlines, and this model names classes")
        if mirror and not self.document["input"].get("mirror_axes"):
            lost.append("--mirror: left and right mean something to this model along every axis")
        if lost:
            raise ConfigError(
                f"expected options that this model can follow, got {'; '.join(lost)}",
                fix=f"leave out {' and '.join(one.split(':')[0] for one in lost)}",
                code="option-model",
            )

    def _outline(self, walk: Walk, facts: dict[str, Any], progress: Tick | None) -> NDArray[Any]:
        """Labels ``(*S)`` in file values; ``facts`` are added to."""
        facts["seconds"] |= walk.run(progress)
        started = time.perf_counter()
        rules = self.document.get("postprocess", {}).get("keep_largest", [])
        index = {label.name: i for i, label in enumerate(self.schema.labels, start=1)}
        indices = keep_largest_components(
            walk.home.labels, [index[name] for name in rules if name in index]
        )
        facts["seconds"]["home"] += time.perf_counter() - started
        facts |= {"confidence": walk.home.confidence, **sizes(indices, walk.home.grid, self.schema)}
        return self.schema.to_values(indices)

    def _classify(
        self,
        prepared: Image,
        original: Grid,
        facts: dict[str, Any],
        mirror: bool,
        memory_bytes: int,
    ) -> dict[str, float]:
        """Probabilities of a case's classes; ``facts`` are added to."""
        started = time.perf_counter()
        case, found = classify(
            self.document, self.network, self.device, prepared, original,
            mirror=mirror, memory_bytes=memory_bytes,
        )  # fmt: skip
        facts["seconds"]["network"] = time.perf_counter() - started
        facts |= {"confidence": max(case.values()), **found}
        return case

    def require_kind(self, image: Image, force: bool = False) -> list[str]:
        """Refuse an image that contradicts what the model was trained on, or warn of it.

        Args:
            image: ``(C, *S)`` as read from its files.
            force: Warn instead.

        Raises:
            InputError: Another modality, or other units (code ``contract``).
        """
        found = contradictions(self.document, measure(image))
        if found and not force:
            raise InputError(
                "; ".join(found),
                fix="use a model for such scans, or take the risk with --force",
                code="contract",
            )
        return [f"not the kind of scan that the model was trained on: {why}" for why in found]

    def uses_crf(self, asked: bool | None) -> bool:
        """Whether outlines are refined, where ``asked`` leaves it to the model."""
        return not self.classes and (self.crf is not None if asked is None else asked)

    def check(self, grid: Grid, channels: int) -> list[str]:
        """Refuse an image that the model cannot take; say where it leaves the training range.

        Raises:
            InputError: Wrong number of channels or dimensions, or a single slice that lies across.
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
        check_slices(grid, axis, self.document["preparation"]["orient"])
        return spacing_warnings(grid, self.document.get("provenance", {}))


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
