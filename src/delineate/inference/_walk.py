"""One prepared image through a segmenter, and what it says back on the grid of the file.

Finished rows go home at once, so that memory holds a few rows of probabilities; only a CRF, which
joins every voxel to every other, needs them all. How much memory is allowed decides whether an
image is taken, and nothing else.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from delineate.core.errors import ResourceError
from delineate.core.image import Grid, Image
from delineate.inference import crf as dense_crf
from delineate.inference._facts import too_little_memory
from delineate.inference.sliding_window import Tick, estimate_bytes, sliding_window, sweep
from delineate.preprocess import inverse
from delineate.preprocess.inverse import Inverse

#: Voxels a forward pass, below which windows are put together in a batch.
_BATCH_VOXELS = {"cpu": 2**18, "cuda": 2**21}

_NO_CRF = "the CRF (--crf false)"


def windows_at_once(patch: Sequence[int], device: torch.device | str) -> int:
    """Windows of a forward pass."""
    voxels = _BATCH_VOXELS.get(torch.device(device).type, 2**18)
    return max(1, voxels // math.prod(patch))


class Walk:
    """The way of one image.

    Args:
        network: ``(B, C, *patch) -> logits (B, outputs, *patch)``.
        shape: ``input`` of the model file's document.
        outputs: Channels of the network's output.
        device: Where the network runs.
        prepared: The image as the network's preparation leaves it.
        original: Its grid before that.
        own: Channels of the file; what follows them is derived from them.
        crf: Settings of the CRF, None for none.
        mirror: Average over mirrored passes.
        keep: Keep the probabilities.
        memory_bytes: What may be used.

    Raises:
        ResourceError: This image needs more.
    """

    def __init__(
        self,
        network: nn.Module,
        shape: Mapping[str, Any],
        outputs: int,
        device: torch.device,
        prepared: Image,
        original: Grid,
        *,
        own: int,
        crf: dense_crf.Config | None,
        mirror: bool,
        keep: bool,
        memory_bytes: int,
    ) -> None:
        self.network, self.patch, self.outputs = network, tuple(shape["patch"]), outputs
        self.image = torch.from_numpy(np.ascontiguousarray(prepared.array, dtype=np.float32))
        self.axis: int | None = shape.get("slice_axis")
        self.lone = self.axis is not None and self.image.ndim == 3
        if self.lone:  # one slice for a model of volumes: a volume of one slice
            self.image, self.axis = self.image.unsqueeze(1), 0
        self.options: dict[str, Any] = {
            "outputs": outputs,
            "batch": windows_at_once(self.patch, device),
            "mirror_axes": shape.get("mirror_axes", []) if mirror else [],
            "slice_axis": self.axis,
            "neighbours": shape.get("neighbours", 0),
            "device": device,
        }
        self.crf_seconds, self.home_seconds = 0.0, 0.0
        spare = self._spare(original, memory_bytes, own if crf else None, keep)
        self._refine = self._crf(prepared, own, crf, spare) if crf else None
        first = self.axis or 0
        self.home = Inverse(
            prepared.history, prepared.array.shape[1:], original, outputs, first, keep=keep
        )

    def run(self, progress: Tick | None) -> dict[str, float]:
        """Fill ``home``; seconds that the network, the way home and the CRF took."""
        started, before = time.perf_counter(), self.crf_seconds
        options = {**self.options, "progress": progress}
        if self._refine is None:
            sweep(self.network, self.image, self.patch, self._give, **options)
        else:
            found = sliding_window(self.network, self.image, self.patch, **options)
            began = time.perf_counter()
            flat = found[:, 0] if self.lone else found
            found = self._refine(flat).reshape(found.shape)
            self.crf_seconds += time.perf_counter() - began
            self._give(0, found.movedim((self.axis or 0) + 1, 1))
        spent = time.perf_counter() - started - (self.crf_seconds - before)
        seconds = {"network": spent - self.home_seconds, "home": self.home_seconds}
        return seconds if self._refine is None else {**seconds, "crf": self.crf_seconds}

    def _give(self, row: int, block: Tensor) -> None:
        """Rows ``(outputs, rows, *rest)`` go home in the order in which they are finished."""
        began = time.perf_counter()
        self.home.add((block[:, 0] if self.lone else block).numpy())
        self.home_seconds += time.perf_counter() - began

    def _crf(
        self, prepared: Image, own: int, settings: dense_crf.Config, spare: int
    ) -> dense_crf.Filter:
        """The CRF of the image, before the network runs: not to fit is found at once."""
        started = time.perf_counter()
        image = torch.from_numpy(np.ascontiguousarray(prepared.array[:own], dtype=np.float32))
        spacing = prepared.grid.spacing_mm
        try:
            ready = dense_crf.prepare(image, spacing, self.outputs, settings, memory_bytes=spare)
        except ResourceError as error:
            raise ResourceError(
                f"the CRF of this image: {error.message}",
                fix=f"allow more with --memory, or do without {_NO_CRF}",
                code="memory",
            ) from error
        self.crf_seconds = time.perf_counter() - started
        return ready

    def _spare(self, original: Grid, memory_bytes: int, crf: int | None, keep: bool) -> int:
        """Bytes that may be used beside what the walk needs; ``crf``: channels that it is given.

        Raises:
            ResourceError: There are none.
        """
        first = self.axis or 0
        spatial = list(self.image.shape[1:])
        need = inverse.estimate_bytes(original.shape, self.outputs, keep)
        need += estimate_bytes(
            [spatial[first], *spatial[:first], *spatial[first + 1 :]], self.patch,
            channels=self.image.shape[0], outputs=self.outputs, whole=crf is not None,
        )  # fmt: skip
        spare = memory_bytes - need
        if crf is not None:
            need += dense_crf.estimate_bytes(spatial, channels=crf, outputs=self.outputs)
        if need > memory_bytes:
            without = [*["probabilities"] * keep, *[_NO_CRF] * (crf is not None)]
            raise too_little_memory(need, memory_bytes, without)
        return spare
