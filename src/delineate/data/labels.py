"""Label maps by what they mean: indices of a schema, whatever numbers a file uses for them."""

from __future__ import annotations

import dataclasses
from typing import Any

from numpy.typing import NDArray

from delineate.core.case import Case
from delineate.core.errors import InputError
from delineate.core.image import Grid, Image
from delineate.core.schema import IGNORED, Schema
from delineate.data import readers

#: Names of ``presence``, by index.
PRESENCE = ("absent", "present")


def read_indices(case: Case, schema: Schema, grid: Grid | None = None) -> Image:
    """The label of a case as indices ``(1, *S)``; voxels that nobody annotated are ``IGNORED``.

    Args:
        case: With a label.
        schema: Of the cohort.
        grid: Of the case's image, for formats that leave out what is empty; see ``read_label``.

    Raises:
        InputError: The case has no label.
        LabelError: The file holds what the schema does not know.
        ReadError: The file cannot be read.
    """
    if case.label is None:
        raise InputError("expected a labelled case", where=case.id, code="no-labels")
    where = str(case.label[0].parent if isinstance(case.label, tuple) else case.label)
    label = readers.read_label(case.label, case.reading, grid)
    indices = schema.to_index(label.array, where, label.meta.get("names"))
    return dataclasses.replace(label, array=indices)


def presence(indices: NDArray[Any]) -> int | None:
    """1 where a structure is, 0 where none is, None where what was annotated does not say."""
    if ((indices > 0) & (indices != IGNORED)).any():
        return 1
    return None if (indices == IGNORED).any() else 0
