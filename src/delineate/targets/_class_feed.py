"""What a classifier's training is fed with: whole slices or images, each with its class."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from delineate.augment import intensity, spatial
from delineate.core.case import Batch
from delineate.core.errors import InputError
from delineate.core.schema import IGNORED
from delineate.data import sampling
from delineate.data.cache import PreparedCase
from delineate.preprocess import views
from delineate.settings import RunConfig

#: From a case, the axis of slices and the names of classes, to its slices (None: all of it), each
#: with the index of its class; none where it is not known.
Pictures = Callable[[PreparedCase, int | None, Sequence[str]], list[tuple[int | None, int]]]


@dataclass(frozen=True)
class Sample:
    """One picture to learn from.

    Args:
        case: Index of its case.
        place: Slice, None for the whole.
        class_index: Index of its class, ``IGNORED`` where nobody has named it.
    """

    case: int
    place: int | None
    class_index: int


@dataclass(frozen=True)
class ClassFeed:
    """The pure function from (step, micro-batch, divisor of the batch) to a batch with classes.

    Args:
        cases: Prepared.
        chosen: Settings of the run.
        pictures: Gives the pictures of a case, each with its class.
        classes: Names, in index order.
        axis: Along which slices are taken, None where images are seen whole.
        patch: Spatial size of a picture.
        batch: Pictures of a whole step.
        mirror_axes: Axes of the picture that may be mirrored.
        across: Axis of the picture that is not turned, zoomed or shifted: that of its slices.
        unlabelled: Prepared cases without a class, from which half of a batch comes.
    """

    cases: Sequence[PreparedCase]
    chosen: RunConfig
    pictures: Pictures
    classes: tuple[str, ...]
    axis: int | None
    patch: tuple[int, ...]
    batch: int
    mirror_axes: tuple[int, ...]
    across: int | None = None
    unlabelled: Sequence[PreparedCase] = ()

    @cached_property
    def samples(self) -> list[Sample]:
        """Every picture that has a class.

        Raises:
            InputError: A class without a picture: nothing could be learned about it.
        """
        samples = [
            Sample(i, place, class_index)
            for i, case in enumerate(self.cases)
            for place, class_index in self.pictures(case, self.axis, self.classes)
        ]
        counts = Counter(sample.class_index for sample in samples)
        missing = [name for k, name in enumerate(self.classes) if not counts[k]]
        if missing:
            counts_in_words = ", ".join(
                f"{name} ({counts[k]})" for k, name in enumerate(self.classes)
            )
            raise InputError(
                f"expected pictures of every class to learn from, got {counts_in_words}",
                fix=f"add subjects with {', '.join(missing)}, or leave the class out",
                code="class-empty",
            )
        return samples

    @cached_property
    def _others(self) -> list[Sample]:
        """Every picture of the cases without a class, which are counted behind the others."""
        return [
            Sample(i, place, IGNORED)
            for i, case in enumerate(self.unlabelled, len(self.cases))
            for place in views.places(case.image, self.axis)
        ]

    @cached_property
    def _both(self) -> list[PreparedCase]:
        """The cases of both pools."""
        return [*self.cases, *self.unlabelled]

    @cached_property
    def _subjects(self) -> list[int]:
        """Number of the subject of every case."""
        order = {name: k for k, name in enumerate(sorted({case.subject for case in self._both}))}
        return [order[case.subject] for case in self._both]

    @cached_property
    def _by_class(self) -> list[NDArray[np.int64]]:
        classes = np.array([sample.class_index for sample in self.samples])
        return [np.flatnonzero(classes == k) for k in range(len(self.classes))]

    def __call__(self, step: int, micro: int, split: int) -> Batch:
        """See ``delineate.engine.prefetch.Batches``."""
        size = max(1, self.batch // split)
        moment = step * self.chosen.loop.accumulate * split + micro
        named, others, _ = sampling.share(size, moment) if self.unlabelled else (size, 0, moment)
        rng = np.random.default_rng((self.chosen.seed, moment, 0, 0xC1A))
        drawn = [self.samples[i] for i in self._draw(named, rng)]
        rng = np.random.default_rng((self.chosen.seed, moment, 1, 0xC1A))
        drawn += [self._others[int(rng.integers(len(self._others)))] for _ in range(others)]
        image = torch.stack([self._read(sample) for sample in drawn])
        label = torch.stack([self._outline(sample) for sample in drawn])
        class_index = torch.tensor([sample.class_index for sample in drawn])
        if self.chosen.augment:
            image, label = self._augment(image, label, moment)
        weight = self._weights(class_index) if self.chosen.balance == "weights" else None
        cases = [self._both[sample.case] for sample in drawn]
        label[torch.tensor([case.label is None for case in cases])] = IGNORED
        subject = torch.tensor([self._subjects[sample.case] for sample in drawn])
        labelled = class_index != IGNORED
        return Batch(image, label, self._spacing, class_index, weight, labelled, subject)

    def _draw(self, size: int, rng: np.random.Generator) -> list[int]:
        """Pictures of a batch: classes in turn, or every picture as likely as any other."""
        if self.chosen.balance != "sampling":
            return [int(i) for i in rng.integers(len(self.samples), size=size)]
        first = int(rng.integers(len(self.classes)))
        turns = [self._by_class[(first + i) % len(self.classes)] for i in range(size)]
        return [int(members[rng.integers(len(members))]) for members in turns]

    def _weights(self, class_index: Tensor) -> Tensor:
        """Inverse frequency of each class, 1 on average over the pictures and where it is none."""
        counts = torch.tensor([len(members) for members in self._by_class], dtype=torch.float32)
        weight = torch.ones(IGNORED + 1)
        weight[: len(counts)] = counts.sum() / len(counts) / counts
        return weight[class_index]

    def _read(self, sample: Sample) -> Tensor:
        return views.view(self._both[sample.case].image, self.axis, sample.place, self.patch)

    def _outline(self, sample: Sample) -> Tensor:
        """Label indices ``(*patch)`` of a picture; ``IGNORED`` where the case has no label map."""
        label = self._both[sample.case].label
        if label is None:
            return torch.full(self.patch, IGNORED, dtype=torch.uint8)
        return views.view_label(label, self.axis, sample.place, self.patch)

    @cached_property
    def _spacing(self) -> tuple[float, ...]:
        """Voxel size of a picture after resizing, of the first case."""
        case = self.cases[0]
        axes = [a for a in range(len(case.shape) - 1) if a != self.axis]
        return tuple(
            case.grid.spacing_mm[a] * case.shape[a + 1] / n
            for a, n in zip(axes, self.patch, strict=True)
        )

    def _augment(self, image: Tensor, label: Tensor, moment: int) -> tuple[Tensor, Tensor]:
        key = (self.chosen.seed * 1_000_003 + moment) * 1009
        generator = torch.Generator().manual_seed(key)
        turn = self.chosen.rotation(len(self.patch), whole=True)
        low, high = self.chosen.scale
        ranges = spatial.Config(turn, (math.sqrt(low), math.sqrt(high)))
        matrices = self._matrices(ranges, len(image), generator)
        image, label = spatial.apply(matrices, image, label, self.patch)
        batch, channels = image.shape[:2]
        lost = torch.rand((batch, channels), generator=generator) < self.chosen.drop_sequence
        lost[lost.all(1) | torch.tensor(channels == 1)] = False
        image = image.masked_fill(lost.view(batch, channels, *(1,) * len(self.patch)), 0.0)
        apart = image.reshape(batch * channels, 1, *self.patch)
        actions = intensity.draw(intensity.Config(), batch * channels, generator)
        return intensity.apply(actions, apart, generator).view(image.shape), label

    def _matrices(self, ranges: spatial.Config, batch: int, generator: torch.Generator) -> Tensor:
        """Transforms ``(B, nd, nd + 1)``: of slices within their plane, of volumes rigid in mm.

        Between thick slices there is nothing to turn them into; where a network is told which
        slice it looks at, a slice stays one.
        """
        nd = len(self.patch)
        if nd == 3 and self.across is None:
            return spatial.draw(ranges, batch, self._spacing, self.mirror_axes, generator)
        plane = [a for a in range(nd) if a != self.across]
        mirror = [plane.index(a) for a in self.mirror_axes if a in plane]
        flat = spatial.draw(ranges, batch, [1.0, 1.0], mirror, generator)
        if nd == 2:
            return flat
        matrices = torch.eye(3, 4).repeat(batch, 1, 1)
        for i, a in enumerate(plane):
            matrices[:, a, [*plane, 3]] = flat[:, i]
        return matrices
