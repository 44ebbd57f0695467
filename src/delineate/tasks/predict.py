"""Outline scans with a trained model: masks on the grid and in the format of the input."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from delineate.core.case import Geometry
from delineate.core.progress import QUIET, Progress, Say, silent
from delineate.core.quantities import parse_bytes
from delineate.core.stopping import Enough
from delineate.data.opening import Opening
from delineate.inference.options import Options

#: One line a case and one at the end are said: the terminal need not show the index as well.
SAYS_RESULT = True


def predict(
    model: Path | Sequence[Path],
    scans: Path,
    out: Path = Path("masks"),
    *,
    layout: str | None = None,
    subject_pattern: str | None = None,
    observer: str | None = None,
    geometry: Geometry | None = None,
    exclude: Path | None = None,
    site_key: Path | None = None,
    only: Sequence[str] | None = None,
    probabilities: bool = False,
    maps: Sequence[str] = (),
    mirror: bool = False,
    crf: bool | None = None,
    memory: str = "8G",
    part: tuple[Path, ...] = (),
    device: str = "auto",
    runtime: str | None = None,
    overwrite: bool = False,
    force: bool = False,
    enough: Enough = lambda share: False,
    say: Say = silent,
    progress: Progress = QUIET,
) -> dict[str, Any]:
    """Outline every scan, name its class or make a sequence, as the model was trained to.

    Masks hold the schema's file values, on the scan's own grid.
    NIfTI, NRRD and MetaImage stay what they are, PNG, JPEG and BMP give PNG, TIFF gives TIFF, a
    stack of slices gives a folder of PNG, DICOM gives NIfTI. Classes go to ``classes.csv``; where a
    network weighs slices, with the one that counted most. Images are of float32, in NRRD and
    MetaImage where the scan is, else in NIfTI. ``predictions.json`` lists everything, and says what
    the values of images mean; slices are counted from 0 along ``slice_axis``. A scan that fails
    does not stop the others; what was not foreseen is kept in ``failures.log``.

    Args:
        model: A model file (``.safetensors``, or ``.onnx`` as ``delineate export`` writes it), or
            several of the same labels and channels, whose probabilities are averaged; a folder of a
            cross-validation stands for its models.
        scans: A file, a DICOM series or a folder in one of the known layouts.
        out: Folder for the masks; made if need be, never the folder of the scans.
        layout: Name of the layout of ``scans``; recognised by default.
        subject_pattern: Regular expression whose group 1, found in a case id, is the subject.
        observer: Of several label files of an image, the one with this in its name (2ndHO, rater1).
        geometry: What places NIfTI files whose sform and qform contradict each other (sform or
            qform), or that have neither (pixdim: voxel size alone); by default they are refused.
        exclude: File with cases to leave out: one id a line, and why after #.
        site_key: File of the key that subjects are marked with, made there if it is not; by default
            the one that lies beside the data or above, or your own.
        only: Ids of the cases to outline; all by default.
        probabilities: Write ``ID_probabilities.nii.gz`` too, in steps of 0.001, of outlines.
        maps: Write ``ID_NAME.nii.gz`` of these too: ``probabilities``, or a part that the method
            kept in the model (``delineate model show`` lists them). Of a ``critic``: its score of
            the outline, the higher, the more it is like an expert's; 0 where a scan was cropped.
        mirror: Average over mirrored passes, where the model may be mirrored: slower, often better.
        crf: Refine outlines with a fully connected CRF (true, false); by default as the model says.
        memory: A scan that needs more is refused; what comes out does not depend on it.
        part: Python files of your own that the model is built from. A model file names them and
            their hash, and never where they lie: no code of anybody runs that you do not name.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        runtime: What computes the network: ``torch``, or ``onnx`` (of the extra ``onnx``); by
            default as the model's file has it.
        overwrite: Replace predictions that are already in ``out``.
        force: With a warning, predict scans of another modality, or in other units, than the model
            was trained on, and with a part whose code was changed since.
        enough: Asked before each case, and within it with the share that is done; once true, it
            and all after it are left out.
        say: Told what a person should know.
        progress: Shows how far it is.

    Returns:
        The content of ``predictions.json``.

    Raises:
        PartialError: Some of several scans failed; the others are finished (exit code 3).
        DelineateError: Whatever stops the run before it starts, the fault of a lone scan, or that
            every scan failed.
    """
    from delineate.inference.ensemble import model_files
    from delineate.predicting import own_parts
    from delineate.predicting.batch import predict_batch

    parse_bytes(memory)  # told before a model is read
    parts = tuple(dict.fromkeys(name for name in maps if name != "probabilities"))
    probabilities |= "probabilities" in maps
    opening = Opening(
        layout, subject_pattern, geometry=geometry, exclude=exclude, observer=observer,
        site_key=site_key,
    )  # fmt: skip
    models = model_files([model] if isinstance(model, str | os.PathLike) else model)
    changed = own_parts.offer(part, [m for m in models if m.suffix != ".onnx"], force, say)
    options = Options(
        probabilities, mirror, crf, memory, device, overwrite, force, parts, runtime, changed
    )
    return predict_batch(
        models, Path(scans), Path(out), opening, options, only=only, enough=enough, say=say,
        progress=progress,
    )  # fmt: skip
