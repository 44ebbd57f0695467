"""What can be outlined and named in a cohort: labels, regions, classes."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core.errors import LabelError

#: Colours for overlays (Okabe and Ito's set, told apart by colour-blind readers).
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#999999")

#: Name under which data sets declare voxels that nobody has annotated (nnU-Net's).
IGNORE = "ignore"
#: Index of voxels that nobody has annotated: out of losses, figures and samples.
IGNORED = 255
#: Index of values that mean nothing: a schema holds at most 253 labels.
_UNKNOWN_VALUE = 254


@dataclass(frozen=True)
class Label:
    """One foreground structure.

    Args:
        name: As shown to people.
        value: As stored in label files (1, 2, 4; 255 for 0/255 masks).
    """

    name: str
    value: int


@dataclass(frozen=True)
class Schema:
    """Labels, regions and classes of a cohort.

    Networks work with indices: 0 is background, ``i`` is ``labels[i - 1]``. Files hold values.

    Args:
        labels: Foreground labels in index order.
        regions: Named unions of labels, as label names (WT, TC, ET). Scored beside the labels.
        classes: Names of image or subject classes, in index order.
        lateral: True where left and right are different labels, so mirroring is illegal.
        ignore: Value of voxels that nobody has annotated; their index is ``IGNORED``.
        named: The cohort's label files name their structures themselves, and a value means
            something in its own file only. Not written: masks of a model bear the schema's values.
    """

    labels: tuple[Label, ...] = ()
    regions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    lateral: bool = False
    ignore: int | None = None
    named: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        values = [label.value for label in self.labels]
        if self.ignore is not None and self.ignore in (0, *values):
            raise LabelError(
                f"expected a value to ignore apart from 0 and the labels' {values}, "
                f"got {self.ignore}"
            )
        if 0 in values or len(set(values)) != len(values):
            raise LabelError(f"label values must be unique and not 0 (background), got {values}")
        if len(values) >= _UNKNOWN_VALUE:
            raise LabelError(f"expected at most {_UNKNOWN_VALUE - 1} labels, got {len(values)}")
        names = {label.name for label in self.labels}
        for region, parts in self.regions.items():
            missing = set(parts) - names
            if missing:
                raise LabelError(f"region {region!r} names unknown labels {sorted(missing)}")

    @property
    def num_outputs(self) -> int:
        """Channels of a segmenter: background and every label."""
        return len(self.labels) + 1

    def colour(self, index: int) -> str:
        """Colour of label index ``index >= 1`` as ``#RRGGBB``."""
        return COLOURS[(index - 1) % len(COLOURS)]

    def meaning(self, names: Mapping[int, str] | None = None) -> dict[int, int]:
        """File value -> index, of every value that means something.

        Args:
            names: Value -> structure, where the file itself says so, in composed Unicode. Values
                are then found by name; where the file shares no name with a schema that declares
                values, as declared.
        """
        declared = {0: 0, **{label.value: i + 1 for i, label in enumerate(self.labels)}}
        composed = [unicodedata.normalize("NFC", label.name) for label in self.labels]
        by_name = {name: i + 1 for i, name in enumerate(composed)}
        if self.ignore is not None:
            declared[self.ignore] = by_name[IGNORE] = IGNORED
        if names is None:
            return {0: 0} if self.named else declared
        if not self.named and not self.nameless and not by_name.keys() & set(names.values()):
            return declared
        if self.nameless and len(self.labels) == 1 and len(set(names.values())) == 1:
            return {0: 0, **dict.fromkeys(names, 1)}
        return {0: 0, **{v: by_name[name] for v, name in names.items() if name in by_name}}

    def unknown(self, values: Iterable[float], names: Mapping[int, str] | None = None) -> str:
        """What a file holds that means nothing, in words; empty where all is known."""
        meaning = self.meaning(names)
        unknown_values = [v for v in values if v not in meaning]
        if unknown_values and self.named and names is None:
            return "values without names, while other label files name their structures"
        described = [
            f"{v:g}" + (f" {names[int(v)]!r}" if names and v in names else "")
            for v in unknown_values
        ]
        return ", ".join(described[:8]) + (" …" if len(described) > 8 else "")

    @property
    def nameless(self) -> bool:
        """Whether labels are only called after their values."""
        return all(label.name in ("foreground", f"label {label.value}") for label in self.labels)

    def to_index(
        self,
        values: NDArray[Any],
        where: str | None = None,
        names: Mapping[int, str] | None = None,
    ) -> NDArray[np.uint8]:
        """File values ``(*S)`` -> indices ``(*S)``.

        Args:
            values: As stored.
            where: The file, for errors.
            names: See ``meaning``.

        Raises:
            LabelError: A value is not an integer or means nothing here; all such are listed.
        """
        known = self.meaning(names)
        top = max(known)
        whole = values.dtype.kind in "ui" and values.size > 0
        if whole and values.min() >= 0 and values.max() <= top:
            # A table, for it spares sorting millions of voxels.
            table = np.full(top + 1, _UNKNOWN_VALUE, dtype=np.uint8)
            for value, index in known.items():
                if value >= 0:  # below 0 is what some data sets ignore
                    table[value] = index
            indices_of_values: NDArray[np.uint8] = table[values]
            if not (indices_of_values == _UNKNOWN_VALUE).any():
                return indices_of_values
        present = np.unique(values)
        if unknown_values := self.unknown(present.tolist(), names):
            by_name = self.named or names is not None
            structures = [label.name for label in self.labels]
            correct = "declare the labels in the data set's own file, correct the label file, or, "
            correct += "where nobody has annotated such voxels, give their value as --ignore-label"
            if known.keys() | set(present.tolist()) == {0, 1, 255}:
                correct = "write every mask with one value: this one has 1 where others have 255, "
                correct += "or the other way round"
            raise LabelError(
                f"expected the structures {structures} by name, got {unknown_values}"
                if by_name
                else f"expected label values {sorted(known)}, got also {unknown_values}",
                where=where,
                fix="name the segments of every file alike, and every segment"
                if by_name
                else correct,
                code="label-names" if by_name else "label-unknown",
            )
        indices = np.array([known[v] for v in present.tolist()], dtype=np.uint8)
        return indices[np.searchsorted(present, values)]

    def to_values(self, indices: NDArray[Any]) -> NDArray[np.uint8 | np.uint16]:
        """Indices ``(*S)`` -> file values ``(*S)``, in the smallest unsigned type that fits."""
        table = np.zeros(IGNORED + 1, dtype=np.int64)
        table[: self.num_outputs] = [0, *(label.value for label in self.labels)]
        table[IGNORED] = max(self.ignore or 0, 0)
        dtype = np.uint8 if table.max() < 256 else np.uint16
        values: NDArray[np.uint8 | np.uint16] = table.astype(dtype)[indices]
        return values

    def ignoring(self, value: int) -> Schema:
        """The same schema where voxels of a value count as not annotated.

        Raises:
            LabelError: The value is the background's or part of a region, or values mean nothing
                because label files name their structures.
        """
        label = next((label for label in self.labels if label.value == value), None)
        parts = [name for name, group in self.regions.items() if label and label.name in group]
        if value == 0 or parts or self.named:
            reason = "the background" if value == 0 else f"part of {', '.join(parts)}"
            raise LabelError(
                f"expected a value to ignore that is no structure, got {value}: "
                + ("label files name their structures" if self.named else reason),
                fix=f"name such a segment {IGNORE!r}" if self.named else "give another value",
                code="ignore-label",
            )
        labels = tuple(other for other in self.labels if other is not label)
        return dataclasses.replace(self, labels=labels, ignore=value)

    def region_masks(self, indices: NDArray[Any]) -> dict[str, NDArray[np.bool_]]:
        """Boolean masks of every region, or of every label where no region is declared."""
        index = {label.name: i + 1 for i, label in enumerate(self.labels)}
        groups = dict(self.regions) or {label.name: (label.name,) for label in self.labels}
        return {
            name: np.isin(indices, [index[part] for part in parts])
            for name, parts in groups.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "labels": [{"name": label.name, "value": label.value} for label in self.labels],
            "regions": {name: list(parts) for name, parts in self.regions.items()},
            "classes": list(self.classes),
            "lateral": self.lateral,
            **({} if self.ignore is None else {"ignore": self.ignore}),
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Schema:
        """The inverse of ``to_dict``."""
        return Schema(
            labels=tuple(Label(str(d["name"]), int(d["value"])) for d in data["labels"]),
            regions={name: tuple(parts) for name, parts in data["regions"].items()},
            classes=tuple(data["classes"]),
            lateral=bool(data["lateral"]),
            ignore=None if data.get("ignore") is None else int(data["ignore"]),
        )


def brats_schema(enhancing_value: int = 4) -> Schema:
    """The schema of the BraTS challenges: labels {1, 2, 4}, or {1, 2, 3} since 2023."""
    return Schema(
        labels=(
            Label("necrosis", 1),
            Label("oedema", 2),
            Label("enhancing", enhancing_value),
        ),
        regions={
            "WT": ("necrosis", "oedema", "enhancing"),
            "TC": ("necrosis", "enhancing"),
            "ET": ("enhancing",),
        },
    )
