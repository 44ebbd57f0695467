"""Train one model a fold, and judge every subject by the one that has not seen it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from delineate.core.case import Geometry
from delineate.core.progress import QUIET, Progress, Say, silent
from delineate.core.stopping import Stop
from delineate.data.opening import Opening

#: The figures are said; all of ``summary.json`` is for ``--json``.
SAYS_RESULT = True


def crossvalidate(
    data: Path,
    *,
    folds: int | None = None,
    budget: str | None = None,
    steps: int | None = None,
    jobs: int | None = None,
    target: str | None = None,
    translate_to: str | None = None,
    method: str | None = None,
    network: str | None = None,
    weights: Path | None = None,
    freeze: tuple[str, ...] | None = None,
    config: Path | None = None,
    out: Path = Path("crossvalidation"),
    layout: str | None = None,
    subject_pattern: str | None = None,
    observer: str | None = None,
    ignore_label: int | None = None,
    class_column: str | None = None,
    geometry: Geometry | None = None,
    exclude: Path | None = None,
    site_key: Path | None = None,
    seed: int | None = None,
    device: str | None = None,
    audit: bool = True,
    drop_duplicates: bool = False,
    say: Say = silent,
    progress: Progress = QUIET,
) -> dict[str, Any]:
    """Train one model a fold; every subject is judged once, by a model that has not seen it.

    Folds part subjects, never the cases of one; a part that the data declare for testing is in no
    fold, and the models together are scored on it at the end. Masks of all cases lie in
    ``OUT/predictions``, figures in ``OUT/summary.json``, the page in ``OUT/report.html``, the
    models in ``OUT/fold-0`` and so on: ``delineate predict OUT SCANS`` uses them as an ensemble.
    Whatever ends the command, given again it goes on: finished folds are not done again, with
    fixed steps on a CPU bit for bit. A fold that fails does not end the others.

    Args:
        data: Folder of scans and label maps in one of the known layouts.
        folds: Parts of the subjects, and models (5 if nothing is said).
        budget: Wall-clock time for everything, as 90s, 40m or 1h30m (40m if nothing is said).
        steps: A fixed number of steps of each fold instead of a budget; on a CPU alone, such
            folds repeat to the bit.
        jobs: Folds at the same time, which share the processor; by default 1, more on large ones.
        target: What the model is to give, see ``delineate train``.
        translate_to: Name of the sequence that the model is to give, see ``delineate train``.
        method: How to train, see ``delineate train``.
        network: What to train, see ``delineate networks``.
        weights: File to start from, see ``delineate train``.
        freeze: Parts of the network that keep those weights, by name.
        config: A YAML file with any of the settings of a run; options given here win.
        out: Folder for everything.
        layout: Layout of ``data``; recognised by default.
        subject_pattern: Regular expression whose group 1, found in a case id, is the subject.
        observer: Of several label files of an image, the one with this in its name (2ndHO, rater1).
        ignore_label: Value in label files of voxels that nobody has annotated: they are out of
            losses, samples and figures. Known already where a data set declares "ignore".
        class_column: The class is this column of the data's table, not what the layout says.
        geometry: What places NIfTI files whose sform and qform contradict each other (sform or
            qform), or that have neither (pixdim: voxel size alone); by default they are refused.
        exclude: File with cases to leave out: one id a line, and why after #.
        site_key: File of the key that subjects are marked with, made there if it is not; by default
            the one that lies beside the data or above, or your own.
        seed: Of the weights and the sampling, the same in every fold.
        device: auto, cpu, cuda, cuda:1 or mps.
        audit: Look for faults in the data first, of which blocking ones stop it (exit code 2).
        drop_duplicates: Keep one copy of every image that the audit finds twice or more, and leave
            out the others; ``excluded.txt`` names them.
        say: Told what a person should know.
        progress: Shows how far it is.

    Returns:
        The content of ``summary.json``: figures of all cases together, as ``delineate evaluate``
        gives them of ``OUT/predictions``, and as ``crossvalidation`` what is told of the folds.

    Raises:
        AuditError: Blocking findings in the data.
        ConfigError: A setting is unknown or out of range, or the budget too small for all folds.
        OutputError: The folder holds another cross-validation.
        PartialError: A fold failed, or cases could not be scored; all else is written.
        DelineateError: Whatever else stops it, with the next move.
    """
    started = time.monotonic()
    from delineate.comparing import crossvalidation  # brings torch along
    from delineate.training.job import Invocation

    options = {
        "folds": folds, "budget": budget, "steps": steps, "target": target,
        "translate_to": translate_to, "method": method, "network": network, "weights": weights,
        "freeze": freeze, "seed": seed, "device": device,
        "drop_duplicates": drop_duplicates or None,
    }  # fmt: skip
    opening = Opening(
        layout, subject_pattern, class_column, geometry, exclude, observer, site_key, ignore_label
    )
    with Stop(say) as stop:
        invocation = Invocation(Path(data), opening, started, say, progress, stop)
        return crossvalidation.crossvalidate(
            options, config, invocation, out=Path(out), jobs=jobs, audit=audit
        )
