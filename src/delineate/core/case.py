"""Case, Batch and Prediction: what a cohort lists, what trains, what a model gives back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from delineate.core.image import Grid
from delineate.core.schema import IGNORED

if TYPE_CHECKING:
    from torch import Tensor

#: A file, a folder (DICOM series) or, for stacks of slices, the slices in order.
Source = Path | tuple[Path, ...]
#: What places a NIfTI file whose forms leave a choice.
Geometry = Literal["sform", "qform", "pixdim"]
#: What the pictures of a cohort hold, whatever their files store it as.
Colour = Literal["grey", "rgb"]


@dataclass(frozen=True)
class Reading:
    """What the user has decided where files leave a choice; it travels with every case.

    Args:
        geometry: ``"sform"`` or ``"qform"``: which places a NIfTI file where they contradict each
            other. ``"pixdim"``: the voxel size alone, where a file has neither. None: such files
            are refused. ``"any"``: whatever is there, for who wants values and no places.
        colour: ``"grey"``: three equal channels of a picture are read as one. ``"rgb"``: one is
            read as three. None: as stored.
    """

    geometry: Geometry | Literal["any"] | None = None
    colour: Colour | None = None


#: Nothing decided: files that leave a choice are refused.
STRICT = Reading()
#: For who counts values, and does not care where they lie.
VALUES = Reading(geometry="any")


class Masks(tuple[Path, ...]):
    """Several masks of one image as one source: what any of them marks is marked."""

    __slots__ = ()


@dataclass(frozen=True)
class Case:
    """One scan, or one stack of slices, of one subject.

    Args:
        id: Unique in the cohort; names the output files.
        subject: Cases of one subject never part in a split.
        images: Channel name -> source. A source may itself hold several channels (RGB).
        label: Source of the label map, None where unlabelled.
        class_name: Class name, None where unknown.
        site, sex, age: Where known; ``meta`` holds whatever else the table gives.
        split: The part that the layout itself declares (``"train"``, ``"validation"``,
            ``"test"``), if any.
        reading: How its files are read.
    """

    id: str
    subject: str
    images: Mapping[str, Source]
    label: Source | None = None
    class_name: str | None = None
    site: str | None = None
    sex: str | None = None
    age: float | None = None
    split: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    reading: Reading = STRICT

    def channel_names(self, source: str, count: int) -> list[str]:
        """Names of the channels that one of the sources holds, wherever they are spoken of.

        Those of ``meta["channels"]``, if the source is the only one, else the source's own name,
        with a number from 0 on where it holds several.
        """
        known = [str(name) for name in self.meta.get("channels") or ()]
        if len(self.images) == 1 and len(set(known)) == len(known) == count > 1:
            return known
        return [source] if count == 1 else [f"{source}.{i}" for i in range(count)]


@dataclass(frozen=True)
class Batch:
    """What one training step sees: samples of the labelled pool and, for some methods, of others.

    Of a sample that is not labelled nothing but the image can be known: whatever was given as its
    label or class is ``IGNORED`` here, and as its target NaN.

    Args:
        image: ``(B, C, *S)`` float32.
        label: ``(B, *S)`` label indices, uint8; ``IGNORED`` where nobody has annotated.
        spacing_mm: Of the axes ``S``; ones where it is not known.
        class_index: ``(B,)`` class indices, int64, where classes are learned.
        weight: ``(B,)`` what each image counts, where they do not count alike.
        labelled: ``(B,)`` bool, of whom it is known what the model is to say; by default of all.
        subject: ``(B,)`` int64, a number for each subject, so that nothing is chosen across them.
        target: ``(B, K, *S)`` float32, the image to be given, where images are learned; NaN where
            it is not known.
    """

    image: Tensor
    label: Tensor
    spacing_mm: tuple[float, ...] = ()
    class_index: Tensor | None = None
    weight: Tensor | None = None
    labelled: Tensor = None  # type: ignore[assignment]  # a default that depends on the image
    subject: Tensor | None = None
    target: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.spacing_mm:
            object.__setattr__(self, "spacing_mm", (1.0,) * (self.image.ndim - 2))
        if vars(self)["labelled"] is None:
            all_labelled = self.image.new_ones(len(self.image)).bool()
            object.__setattr__(self, "labelled", all_labelled)
            return
        unlabelled = ~self.labelled
        label = self.label.masked_fill(unlabelled.view(-1, *(1,) * (self.label.ndim - 1)), IGNORED)
        object.__setattr__(self, "label", label)
        if self.class_index is not None:
            known = self.class_index.masked_fill(unlabelled, IGNORED)
            object.__setattr__(self, "class_index", known)
        if self.target is not None:
            unknown = unlabelled.view(-1, *(1,) * (self.target.ndim - 1))
            object.__setattr__(self, "target", self.target.masked_fill(unknown, math.nan))


@dataclass(frozen=True)
class Prediction:
    """What a model says of one case, on the grid of the case's first image file.

    Args:
        labels: ``(*S)`` file values of the schema, None where a model names classes alone.
        grid: The original grid.
        probabilities: ``(C, *S)`` float32, background first, or None.
        class_probabilities: Class name -> probability, or None.
        facts: ``seconds`` by step, ``warnings``, peak memory, confidence and whatever else belongs
            to the case; it stands in ``predictions.json``.
        maps: ``(K, *S)`` float32 by name: scores of a critic, and whatever else was asked for.
    """

    labels: NDArray[Any] | None
    grid: Grid
    probabilities: NDArray[np.float32] | None = None
    class_probabilities: Mapping[str, float] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    maps: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
