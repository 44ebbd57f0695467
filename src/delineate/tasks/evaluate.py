"""Compare predictions with reference labels: numbers per case, per subject, and one page.

    OUT/cases.csv      one row for every case and structure
    OUT/subjects.csv   cases of one subject averaged
    OUT/summary.json   mean, median and 95 % interval over subjects, counts, settings, versions
    OUT/report.html    the same for people, with the worst, median and best case
    OUT/overlays/      the pictures of these cases

Nothing is resampled, relabelled or left out in silence.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from delineate.core import catalog
from delineate.core.case import Geometry
from delineate.core.progress import QUIET, Progress, Say, silent
from delineate.core.schema import Schema
from delineate.data.opening import Opening
from delineate.scoring.options import TOLERANCE_MM, Options
from delineate.targets import score_predictions

#: The figures are said: the terminal need not show all of ``summary.json`` as well.
SAYS_RESULT = True


def evaluate(
    predictions: Path,
    labels: Path,
    out: Path = Path("scores"),
    *,
    tolerance_mm: float = TOLERANCE_MM,
    seed: int = 0,
    schema: Schema | None = None,
    layout: str | None = None,
    subject_pattern: str | None = None,
    observer: str | None = None,
    ignore_label: int | None = None,
    class_column: str | None = None,
    geometry: Geometry | None = None,
    exclude: Path | None = None,
    site_key: Path | None = None,
    missing_as_empty: bool = False,
    resamples: int = 5000,
    part: tuple[Path, ...] = (),
    say: Say = silent,
    progress: Progress = QUIET,
) -> dict[str, Any]:
    """Score predictions against reference labels.

    Where the predictions come with the ``predictions.json`` of ``delineate predict``, the cases
    named there are scored; otherwise every labelled case needs a prediction. Files are paired by
    case id, a last ``_mask``, ``_seg``, ``_label`` or ``_pred`` left aside. Predicted classes are
    scored against those of the data set, predicted images against its scans: PSNR, SSIM and mean
    absolute error within the body, beside what the best mix of the inputs would score.

    Args:
        predictions: Folder of label files, of ``delineate predict`` or of any other tool; or one
            file.
        labels: Data set, table of cases, plain folder of label files, or one file.
        out: Folder for the results.
        tolerance_mm: Tolerance of the surface Dice (NSD).
        seed: Seed of the bootstrap.
        schema: Meaning of the label values; by default the data set's, else the predictions'.
        layout: Layout of the data set, where it should not be recognised.
        subject_pattern: Regular expression whose group 1, found in a case id, is the subject.
        observer: Of several label files of an image, the one with this in its name (2ndHO, rater1).
        ignore_label: Value in label files of voxels that nobody has annotated: they are out of
            losses, samples and figures. Known already where a data set declares "ignore".
        class_column: The true class is this column of the data's table, not what the layout says.
        geometry: What places NIfTI files whose sform and qform contradict each other (sform or
            qform), or that have neither (pixdim: voxel size alone); by default they are refused.
        exclude: File with cases to leave out: one id a line, and why after #.
        site_key: File of the key that subjects are marked with, made there if it is not; by default
            the one that lies beside the data or above, or your own.
        missing_as_empty: Score a missing prediction as one that found nothing, instead of
            reporting it as an error.
        resamples: Number of bootstrap resamples.
        part: Python file of the target of the predictions, where it is your own.
        say: Told the figures, a line a structure.
        progress: Shows how far the work is.

    Returns:
        The content of ``summary.json``.

    Raises:
        ConfigError: A setting is out of range.
        LayoutError: Nothing can be paired, or a prediction is ambiguous.
        LabelError: The schemas of predictions and labels contradict each other.
        InputError: No case could be scored.
        PartialError: Some cases could not be scored; the results of the others are written.
    """
    for file in part:
        catalog.offer(file)
    opening = Opening(
        layout, subject_pattern, class_column, geometry, exclude, observer, site_key, ignore_label
    )
    options = Options(tolerance_mm, seed, schema, missing_as_empty, resamples)
    return score_predictions(
        Path(predictions), Path(labels), Path(out), opening, options, say=say, progress=progress
    )
