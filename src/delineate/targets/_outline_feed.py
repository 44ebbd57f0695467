"""What a training loop is fed with and looked at by: batches, and outlines of prepared cases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from delineate.augment import intensity, spatial
from delineate.core.case import Batch
from delineate.core.schema import Schema
from delineate.data import sampling
from delineate.data.cache import PreparedCase
from delineate.data.sampling import Region
from delineate.inference.runtimes import PROBABILITIES
from delineate.inference.runtimes.torch import segmenter
from delineate.inference.sliding_window import Tick, sliding_window, windows_at_once
from delineate.metrics.case import structures
from delineate.metrics.ignored import without_ignored
from delineate.metrics.overlap import binary_counts, joint_histogram, overlap_scores
from delineate.preprocess.presets import Preparation
from delineate.preprocess.rescale import Scale
from delineate.settings import RunConfig

#: The region read is this much larger than the patch, so that rotated corners are real.
_MARGIN = 1.2
#: What changes how bright a tissue is would change the image to be given, nobody knows how.
_ALIKE = intensity.Config(brightness=0.0, contrast=0.0, gamma=0.0, inverted_gamma=0.0)
#: A voxel of an image to be given is known if so much of it is.
_WHOLE = 0.999


@dataclass(frozen=True)
class Feed:
    """The pure function from (step, micro-batch, divisor of the batch) to a batch.

    Args:
        cases: Prepared and labelled.
        chosen: Settings of the run.
        preparation: Of the cases.
        patch: Spatial size of the result.
        batch: Patches of a whole step.
        mirror_axes: Axes of the patch that may be mirrored.
        neighbours: Slices to each side that join as channels.
        unlabelled: Prepared cases without a label, from which half of a batch comes.
        scale: Of the images that are to be given, where those are learned: the batch has them.
    """

    cases: Sequence[PreparedCase]
    chosen: RunConfig
    preparation: Preparation
    patch: tuple[int, ...]
    batch: int
    mirror_axes: tuple[int, ...]
    neighbours: int
    unlabelled: Sequence[PreparedCase] = ()
    scale: Scale | None = None

    def __call__(self, step: int, micro: int, split: int) -> Batch:
        """See ``delineate.engine.prefetch.Batches``."""
        chosen, axis = self.chosen, self.preparation.slice_axis
        size = max(1, self.batch // split)
        moment = step * chosen.loop.accumulate * split + micro
        margin = _MARGIN if chosen.augment else 1.0
        region = Region(
            tuple(math.ceil(n * margin / 2) * 2 for n in self.patch),
            axis,
            self.neighbours,
            patch=self.patch,
        )
        drawn = sampling.draw(
            self.cases, size, chosen.seed, moment, foreground=chosen.foreground,
            unlabelled=self.unlabelled,
        )  # fmt: skip
        pools = {True: self.cases, False: self.unlabelled}
        pairs = [sampling.read(pools[d.labelled][d.case], d.centre, region) for d in drawn]
        labelled = torch.tensor([d.labelled for d in drawn])
        image = torch.from_numpy(np.stack([pair[0] for pair in pairs]))
        label = torch.from_numpy(np.stack([pair[1] for pair in pairs]))
        if self.scale is not None:
            beside = [self._read_target(pools[d.labelled][d.case], d, region) for d in drawn]
            image = torch.cat([image, torch.from_numpy(np.stack(beside))], 1)
        spacing = tuple(s for a, s in enumerate(self.cases[0].grid.spacing_mm) if a != axis)
        if not chosen.augment:
            image, label = spatial.crop_centre(image, label, self.patch)
            image, target = self._apart(image)
            return Batch(image, label, spacing, labelled=labelled, target=target)
        key = (chosen.seed * 1_000_003 + moment) * 1009
        generator = torch.Generator().manual_seed(key)
        ranges = spatial.Config(chosen.rotation(len(self.patch), whole=False), chosen.scale)
        matrices = spatial.draw(ranges, size, spacing, self.mirror_axes, generator)
        image, label = spatial.apply(matrices, image, label, self.patch)
        image, target = self._apart(image)
        image = self._repaint(image, generator)
        return Batch(image, label, spacing, labelled=labelled, target=target)

    def _read_target(
        self, case: PreparedCase, drawn: sampling.Draw, region: Region
    ) -> NDArray[np.float32]:
        """The scaled image to be given ``(2, *region)``, and 1 where it is known, else 0."""
        patch = np.zeros((2, *region.size), np.float32)
        if case.target is not None and self.scale is not None:
            values = sampling.read_like(case.target, drawn.centre, region)
            known = np.isfinite(values)
            patch[:1][known] = self.scale.apply(values[known], case.meta["target"])
            patch[1:] = known
        return patch

    def _apart(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """The inputs, and the image to be given; NaN where part of a voxel is not known."""
        if self.scale is None:
            return image, None
        return image[:, :-2], image[:, -2:-1].masked_fill(image[:, -1:] < _WHOLE, math.nan)

    def _repaint(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Intensity augmentation of every sequence apart, a slice and its neighbours alike.

        Where an image is to be given, of kinds that leave tissues as bright as they are.

        Args:
            image: ``(B, C', *S)``; ``C'`` holds the sequences of each slice together.
            generator: Source of randomness.
        """
        slices = 2 * self.neighbours + 1
        batch, size = image.shape[0], image.shape[2:]
        by_sequence = image.view(batch, slices, -1, *size).transpose(1, 2)
        sources = [source for source in self.preparation.sources if source is not None]
        n_channels = len(self.preparation.channels)
        dropped = torch.rand((batch, n_channels), generator=generator) < self.chosen.drop_sequence
        dropped[dropped.all(1)] = False
        dropped = dropped[:, sources]  # what shows a lost sequence is lost with it
        n_shown = len(sources)
        sequences, beside = by_sequence[:, :n_shown], by_sequence[:, n_shown:]
        if dropped.any():
            where = dropped.view(*dropped.shape, *(1,) * (image.ndim - 1))
            sequences = sequences.masked_fill(where, 0.0)
        kinds = intensity.Config() if self.scale is None else _ALIKE
        actions = intensity.draw(kinds, batch * n_shown, generator)
        repainted = intensity.apply(actions, sequences.reshape(-1, slices, *size), generator)
        repainted = repainted.view(sequences.shape)
        if beside.shape[1]:
            repainted = torch.cat([repainted, beside], 1)
        return repainted.transpose(1, 2).reshape(image.shape)


def outline(
    network: nn.Module,
    case: PreparedCase,
    feed: Feed,
    outputs: int,
    device: torch.device | str,
    progress: Tick | None = None,
) -> NDArray[np.uint8]:
    """Label indices ``(*S)`` of a prepared case, on its prepared grid."""
    maps = sliding_window(
        segmenter(network, device),
        np.array(case.image),
        feed.patch,
        maps={PROBABILITIES: outputs},
        batch=windows_at_once(feed.patch, device),
        slice_axis=feed.preparation.slice_axis,
        neighbours=feed.neighbours,
        progress=progress,
    )
    indices: NDArray[np.uint8] = maps[PROBABILITIES].argmax(0).astype(np.uint8)
    return indices


def mean_dice(predicted: NDArray[Any], truth: NDArray[Any], schema: Schema) -> float:
    """Mean Dice of the structures that are in either mask; NaN where there is none.

    Voxels that nobody has annotated count on neither side.
    """
    predicted, truth, _ = without_ignored(predicted, truth)
    joint = joint_histogram(predicted, truth, schema.num_outputs)
    counts = [binary_counts(joint, indices) for _, _, indices in structures(schema, labels=False)]
    dices = [overlap_scores(*four)["dice"] for four in counts if any(four[:3])]
    return float(np.mean(dices)) if dices else math.nan
