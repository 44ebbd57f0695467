"""``phantom``: write the synthetic glioma cohort."""

from __future__ import annotations

import os
from pathlib import Path

from delineate.core.progress import QUIET, Progress, Say, silent
from delineate.phantoms._draw import Contrast


def phantom(
    out: str | os.PathLike[str],
    subjects: int = 48,
    spacing_mm: float = 2.0,
    seed: int = 0,
    workers: int = 2,
    contrast: Contrast = "physics",
    controls: float = 0.10,
    twins: float = 0.15,
    missing: float = 0.0,
    anatomy: str = "auto",
    layout: str = "bids",
    say: Say = silent,
    progress: Progress = QUIET,
) -> Path:
    """Write a synthetic glioma cohort with exact labels, or finish an interrupted one.

    Args:
        out: Folder to write: new, empty, or holding the same phantom.
        subjects: Number of scans.
        spacing_mm: Isotropic voxel size, 0.8 to 6 mm.
        seed: Same seed, same images.
        workers: Threads.
        contrast: ``physics``, ``random`` (random contrast) or ``mixed``.
        controls: Share of people without a tumour.
        twins: Share of scans that show an earlier patient again.
        missing: Share of scans that lack one sequence.
        anatomy: ``auto``, ``icbm152`` (of the extra ``atlas``) or ``ellipsoid``.
        layout: ``bids`` (NIfTI) or ``kaggle`` (TIFF slices, as in kaggle_3m).
        say: Says one line to the person who waits.
        progress: Shows how far the work is.

    Returns:
        The folder, with ``participants.tsv`` and ``phantom.json``.
    """
    from delineate.phantoms._anatomy import template_folder
    from delineate.phantoms.generate import generate

    if anatomy == "auto" and template_folder() is None:
        say('heads are ellipsoids; pip install "delineate[atlas]" for real ones')
    folder = generate(
        out,
        subjects,
        spacing_mm,
        seed,
        workers,
        progress,
        contrast=contrast,
        controls=controls,
        twins=twins,
        missing=missing,
        anatomy=anatomy,
        layout=layout,
    )
    say(f"{subjects} synthetic scans at {spacing_mm:g} mm in {folder}")
    return folder
