"""Pairs predictions with reference labels: which file belongs to which case, and what values mean.

Predictions of ``delineate predict`` come with a ``predictions.json``; those of other tools are
found by their file names.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core.case import Case, Source
from delineate.core.errors import (
    DelineateError,
    GeometryError,
    InputError,
    LabelError,
    LayoutError,
)
from delineate.core.image import TOLERANCE_MM, Grid, Image
from delineate.core.schema import Schema
from delineate.data import _renamed, excluded
from delineate.data.layouts._listing import (
    files,
    is_dicom,
    load_json,
    schema_from_files,
    stem,
    suffix,
)
from delineate.data.matching import bare, match
from delineate.data.opening import Opening
from delineate.data.outputs import INDEX
from delineate.data.readers import onto, probe, read_label, union
from delineate.provenance.manifest import listed
from delineate.scoring.schemas import read_schema, resolve_schemas, translate


@dataclass(frozen=True)
class Pairs:
    """What is compared with what.

    Args:
        cases: The labelled cases to score.
        schema: Meaning of the values in label files; structures are named after it.
        predicted: Case id -> prediction; a missing prediction has no entry, and an error stands in
            for one that cannot be told.
        predicted_schema: Meaning of the values in predictions.
        translation: Index of ``predicted_schema`` -> index of ``schema``.
        model: What ``predictions.json`` says of the model, empty for other tools.
        notes: What a person should know about how the files were paired.
        parts: Case id -> part of the model's own data, where ``predictions.json`` knows it.
    """

    cases: tuple[Case, ...]
    schema: Schema
    predicted: Mapping[str, Source | InputError]
    predicted_schema: Schema
    translation: NDArray[np.uint8]
    model: Mapping[str, Any]
    notes: tuple[str, ...]
    parts: Mapping[str, str] = field(default_factory=dict)

    def source(self, case: Case, missing_as_empty: bool = False) -> Source | None:
        """Prediction of a case, None where it is missing and counts as empty.

        Raises:
            InputError: It is missing, or ambiguous.
        """
        prediction = self.predicted.get(case.id)
        if isinstance(prediction, InputError):
            raise prediction
        if prediction is None and not missing_as_empty:
            raise InputError(
                "expected a prediction of this case, got none",
                where=case.id,
                fix="predict it, or count missing cases as empty with --missing-as-empty",
                code="prediction-missing",
            )
        return prediction


def pair(
    predictions: Path,
    labels: Path,
    *,
    schema: Schema | None = None,
    opening: Opening | None = None,
) -> Pairs:
    """Find the labelled cases, their predictions, and what the values of both mean.

    Raises:
        LayoutError: Nothing there, or nothing can be paired.
        LabelError: The two schemas contradict each other.
    """
    for path in (predictions, labels):
        if not path.exists():
            raise LayoutError(
                "expected a file or folder, got nothing",
                where=path,
                fix="check the path",
                code="no-folder",
            )
    document = load_json(predictions / INDEX) if predictions.is_dir() else None
    opening = opening or Opening()
    cases, declared, notes = _truth(labels, opening)
    predicted_schema = None
    parts: dict[str, str] = {}
    if document is not None:
        predicted_schema = read_schema(document, predictions / INDEX)
        cases, predicted = listed(document, cases, predictions, notes, parts)
    elif predictions.is_file() and len(cases) == 1:
        predicted = {cases[0].id: predictions}
    else:
        predicted = _by_name(cases, predictions)
        if predictions.is_file():
            cases = [case for case in cases if case.id in predicted]
    if not predicted:
        raise _nothing_pairs(predictions, labels, cases)
    label_schema, predicted_schema = resolve_schemas(
        schema, declared, predicted_schema, cases, notes, opening.ignore_label
    )
    if document is None and label_schema.named and len(label_schema.labels) == 1:
        predicted_schema = _single_structure(predicted.values()) or predicted_schema
    return Pairs(
        cases=tuple(cases),
        schema=label_schema,
        predicted=predicted,
        predicted_schema=predicted_schema,
        translation=translate(predicted_schema, label_schema, predictions, notes),
        model=(document or {}).get("model") or {},
        notes=tuple(notes),
        parts=parts,
    )


def load(
    pairs: Pairs, case: Case, missing_as_empty: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], Grid]:
    """Prediction and truth of a case as label indices ``(*S)`` of ``pairs.schema``, and the grid.

    Raises:
        GeometryError: The two do not lie on one grid.
        LabelError: A file holds values that its schema does not have.
        InputError: There is no prediction, or a file cannot be read.
    """
    source = pairs.source(case, missing_as_empty)
    if case.label is None:
        raise InputError("expected a labelled case", where=case.id, code="no-labels")
    truth = read_label(case.label, case.reading)
    prediction = None if source is None else read_label(source, case.reading)
    truth, prediction = _on_one_grid(case, truth, prediction)
    indices = pairs.schema.to_index(truth.array[0], _name(case.label), truth.meta.get("names"))
    if prediction is None or source is None:
        return np.zeros_like(indices), indices, truth.grid
    if not prediction.meta.get("partial"):
        prediction = onto(prediction, truth.grid)
    _same_grid(prediction, truth, _name(source), _name(case.label))
    _same_palette(prediction, truth, _name(source), _name(case.label))
    predicted = pairs.predicted_schema.to_index(
        prediction.array[0], _name(source), prediction.meta.get("names")
    )
    return pairs.translation[predicted], indices, truth.grid


def _on_one_grid(case: Case, truth: Image, prediction: Image | None) -> tuple[Image, Image | None]:
    """Bring what leaves out the empty onto the image's grid, or onto one that holds both."""
    label_maps = [label for label in (truth, prediction) if label is not None]
    if not any(label.meta.get("partial") for label in label_maps):
        return truth, prediction
    grids = [label.grid for label in label_maps if not label.meta.get("partial")]
    if not grids:
        with contextlib.suppress(DelineateError):  # an image is not needed to score
            grids = [probe(source, case.reading)[0] for source in case.images.values()][:1]
        grids.append(union(label_maps[0].grid, label_maps[-1].grid))
    for grid in grids:
        placed = [onto(label, grid, case.id) for label in label_maps]
        if all(label.grid is grid for label in placed):
            break
    return placed[0], placed[1] if prediction is not None else None


def _name(source: Path | tuple[Path, ...]) -> str:
    return f"{source[0]} (+{len(source) - 1})" if isinstance(source, tuple) else str(source)


def _same_grid(prediction: Image, truth: Image, source: str, label: str) -> None:
    """Refuse two grids that differ; where one has no place in the body, compare what there is."""
    predicted, true = prediction.grid, truth.grid
    if predicted.shape != true.shape:
        difference = f"shape {true.shape}, got {predicted.shape}"
    elif predicted.oriented and true.oriented:
        distance = predicted.difference_mm(true)
        if predicted.same_as(true):
            return
        difference = f"position in the body, got corners {distance:.3g} mm apart"
    elif predicted.spacing_known and true.spacing_known:
        if np.allclose(predicted.spacing_mm, true.spacing_mm, rtol=1e-5, atol=TOLERANCE_MM):
            return
        difference = f"spacing {true.spacing_mm} mm, got {predicted.spacing_mm} mm"
    else:
        return
    raise GeometryError(
        f"expected the grid of the label {label}: {difference}",
        where=source,
        fix="write predictions on the grid of the original scan, as `delineate predict` does; "
        "nothing is resampled here",
        code="grid-mismatch",
    )


def _same_palette(prediction: Image, truth: Image, source: str, label: str) -> None:
    """Refuse two pictures whose palettes number a colour differently: no index means the same."""
    predicted, true = ({c: i for i, c in image.meta.get("colours", {}).items()}
                    for image in (prediction, truth))  # fmt: skip
    for colour in predicted.keys() & true.keys():
        if predicted[colour] != true[colour]:
            raise LabelError(
                f"expected {colour} at index {true[colour]} of the palette, as in {label}, "
                f"got it at {predicted[colour]}",
                where=source,
                fix="store label values without a palette, or give both the same one",
                code="label-palettes",
            )


def _truth(labels: Path, opening: Opening) -> tuple[list[Case], Schema | None, list[str]]:
    """Labelled cases, the schema that the data set declares, and notes."""
    if labels.is_file() and (suffix(labels) or is_dicom(labels)):
        key = bare(stem(labels))
        return [Case(key, key, {}, labels, reading=opening.reading)], None, []
    try:
        cohort = opening.cohort(labels)
    except LayoutError:
        cohort = None
        if opening.layout or labels.is_file():
            raise
    if cohort is not None and (labelled := cohort.labelled().cases):
        return list(labelled), cohort.schema, list(cohort.notes)
    # No images beside the labels: every file is a label map.
    flat: dict[str, Path] = {}
    for path in _label_files(labels):
        key = bare(stem(path))
        if path.parent != labels:
            continue
        if key in flat:
            raise LayoutError(
                f"expected one label file a case, got {flat[key].name} and {path.name}",
                where=labels,
                fix="keep one of them",
                code="label-ambiguous",
            )
        flat[key] = path
    if not flat:
        raise LayoutError(
            "expected a data set with labels or a folder of label files, got neither",
            where=labels,
            fix="name the folder that holds the label files",
            code="no-labels",
        )
    left_out = excluded.read(opening.exclude, flat) if opening.exclude else {}
    cases = tuple(
        Case(key, key, {}, path, reading=opening.reading)
        for key, path in flat.items()
        if key not in left_out
    )
    if opening.subject_pattern is None:
        return list(cases), None, ["every label file is taken as its own subject"]
    cases = _renamed.subjects(cases, opening.subject_pattern)
    return list(cases), None, [f"subjects are taken from case ids by {opening.subject_pattern!r}"]


def _single_structure(predicted: Iterable[Source | InputError]) -> Schema | None:
    """Schema of predictions of one structure: it needs no name to be compared with the only one."""
    schema, _ = schema_from_files(
        [source for source in predicted if not isinstance(source, InputError)]
    )
    return schema if len(schema.labels) == 1 else None


def _label_files(folder: Path) -> list[Path]:
    """Files of image formats, DICOM too."""
    return [path for path in files(folder, images=False) if suffix(path) or is_dicom(path)]


def _by_name(cases: list[Case], predictions: Path) -> dict[str, Source | InputError]:
    """Predictions by their file names, volumes whole or slice by slice."""
    paths = _label_files(predictions) if predictions.is_dir() else [predictions]
    # A file alone in the folder of a case is named after it: c0/seg.dcm.
    alone = Counter(path.parent for path in paths if path.parent != predictions)
    ids = {case.id for case in cases}
    named = [
        (path.parent.name if alone[path.parent] == 1 and path.parent.name in ids else stem(path),
         path)
        for path in paths
    ]  # fmt: skip
    matched = match(cases, named)
    slices: dict[str, list[Path]] = {}
    for path in paths:
        slices.setdefault(bare(stem(path)), []).append(path)
    predicted: dict[str, Source | InputError] = {}
    for case in cases:
        if files := matched.get(case.id):
            predicted[case.id] = files[0] if len(files) == 1 else _ambiguous(files)
        elif type(case.label) is tuple and (stack := _stack(case.id, case.label, slices)):
            predicted[case.id] = stack
    return predicted


def _stack(
    name: str, label: tuple[Path, ...], slices: Mapping[str, list[Path]]
) -> Source | InputError | None:
    """Predictions of the slices of a stack, in the order of the label's slices."""
    files_of_slice = [slices.get(bare(stem(path)), []) for path in label]
    if not any(files_of_slice):
        return None
    if several := next((paths for paths in files_of_slice if len(paths) > 1), None):
        return _ambiguous(several)
    absent = [path.name for path, paths in zip(label, files_of_slice, strict=True) if not paths]
    if absent:
        return InputError(
            f"expected predictions of {len(label)} slices, {len(absent)} are missing: "
            + ", ".join(absent[:3]),
            where=name,
            fix="predict every slice of the stack",
            code="prediction-incomplete",
        )
    return tuple(paths[0] for paths in files_of_slice)


def _ambiguous(files: list[Path]) -> InputError:
    return InputError(
        f"expected one prediction of the case, got {files[0].name} and {files[1].name}",
        where=files[0],
        fix="keep one of them",
        code="prediction-ambiguous",
    )


def _nothing_pairs(predictions: Path, labels: Path, cases: list[Case]) -> LayoutError:
    names = sorted(p.name for p in predictions.iterdir()) if predictions.is_dir() else []
    ids = ", ".join(case.id for case in cases[:3]) or "none of those predicted is there"
    return LayoutError(
        f"expected predictions named like the cases of {labels} ({ids}), "
        f"got {', '.join(names[:3]) or 'nothing'}",
        where=predictions,
        fix="name every prediction after its case, or name the folder that holds them",
        code="nothing-pairs",
    )
