"""What label values mean on both sides of a comparison: settle it, or refuse."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core.case import Case
from delineate.core.errors import LabelError, LayoutError
from delineate.core.schema import IGNORED, Schema
from delineate.data.layouts._listing import schema_from_files


def read_schema(document: Mapping[str, Any], where: Path) -> Schema | None:
    """The schema of ``predictions.json``, None where it has none.

    Raises:
        LayoutError: It is not a schema.
    """
    if not document.get("schema"):
        return None
    try:
        return Schema.from_dict(document["schema"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LayoutError(
            f"expected a schema with labels, regions, classes and lateral, got: {error!r}",
            where=where,
            fix="write it as `delineate predict` does",
            code="predictions-json",
        ) from None


def resolve_schemas(
    asked: Schema | None,
    declared: Schema | None,
    predicted: Schema | None,
    cases: list[Case],
    notes: list[str],
    ignore: int | None = None,
) -> tuple[Schema, Schema]:
    """Schema of the labels and of the predictions, from the one that knows more."""
    schema = asked or declared
    if schema is None:
        schema, remarks = schema_from_files([case.label for case in cases if case.label])
        notes += remarks
        schema = schema if ignore is None else schema.ignoring(ignore)
    if asked is None and predicted is not None and schema.nameless:
        values = {label.value for label in schema.labels}
        if values <= {label.value for label in predicted.labels}:
            # the same values, and names to them
            return dataclasses.replace(predicted, ignore=schema.ignore), predicted
    if not schema.labels:
        raise LabelError(
            "expected labels with at least one structure, got only background",
            where=cases[0].id,
            fix="declare the labels of the data set",
            code="label-none",
        )
    return schema, predicted or schema


def translate(
    predicted: Schema, schema: Schema, predictions: Path, notes: list[str]
) -> NDArray[np.uint8]:
    """Table from the predictions' label indices to the labels', by name, or by value or singly."""
    by_name = {label.name: i + 1 for i, label in enumerate(schema.labels)}
    by_value = {label.value: i + 1 for i, label in enumerate(schema.labels)}
    if all(label.name in by_name for label in predicted.labels):
        indices = [by_name[label.name] for label in predicted.labels]
    elif len(predicted.labels) == len(schema.labels) == 1:
        indices = [1]
        notes.append(
            f"the predictions' only label {predicted.labels[0].name!r} is compared with the "
            f"labels' only one, {schema.labels[0].name!r}"
        )
    elif predicted.nameless and all(label.value in by_value for label in predicted.labels):
        indices = [by_value[label.value] for label in predicted.labels]
    else:
        raise LabelError(
            f"expected predictions of {sorted(by_name)}, "
            f"got {sorted(label.name for label in predicted.labels)}",
            where=predictions,
            fix="score them against labels of the same structures, or give the schema",
            code="schema-mismatch",
        )
    absent = [label.name for i, label in enumerate(schema.labels) if i + 1 not in indices]
    if absent:
        notes.append(f"the model was not trained to find: {', '.join(absent)}")
    table = np.zeros(IGNORED + 1, dtype=np.uint8)  # what a prediction ignores it did not find
    table[1 : len(indices) + 1] = indices
    return table
