"""The synthetic glioma cohort: what Delineate works on when no data are at hand.

A head is warped from an atlas, a glioma grows in it by reaction and diffusion, and the MR
equations with each site's settings and faults make four sequences of it. The labels are exact.
Nothing here claims clinical realism; every image says in its header that it is synthetic.

Sources: Prastawa et al. 2009, Medical Image Analysis 13:297 (tumour simulation with MR
appearance); Billot et al. 2023, Medical Image Analysis 86:102789 (random contrast).
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import numpy as np
from nibabel import orientations as _orientations
from numpy.typing import NDArray

from delineate.core.atomic import (
    atomic_write_text,
    check_space,
    output_error,
    remove_stale,
    sync,
    writable_folder,
)
from delineate.core.errors import ConfigError, OutputError
from delineate.core.lock import HOLDER_NAME, LOCK_NAME, folder_lock
from delineate.core.progress import QUIET, Progress
from delineate.core.schema import brats_schema
from delineate.phantoms import _anatomy, _export, _signal, _tumour
from delineate.phantoms._draw import (
    HELD_OUT_SITE,
    SITES,
    Contrast,
    Plan,
    Recipe,
    plan,
)
from delineate.phantoms._export import Volumes
from delineate.phantoms._field import Stream, stream
from delineate.phantoms._signal import TISSUES

#: Changes whenever the same recipe would give other voxels.
VERSION = 1
DESCRIPTION_FILE = "phantom.json"
TABLE_FILE = "participants.tsv"
LAYOUTS = ("bids", "kaggle")
_PARTIAL = ".partial-"
orientations: Any = _orientations  # nibabel does not type them
_SPACING_MM = (0.8, 6.0)
_HEAD_MM3 = 4.5e6


def generate(
    out: str | os.PathLike[str],
    subjects: int = 48,
    spacing_mm: float = 2.0,
    seed: int = 0,
    workers: int = 2,
    progress: Progress = QUIET,
    *,
    contrast: Contrast = "physics",
    controls: float = 0.10,
    twins: float = 0.15,
    missing: float = 0.0,
    anatomy: str = "auto",
    layout: str = "bids",
) -> Path:
    """Write a synthetic glioma cohort; go on where an interrupted one stopped.

    A subject depends on the recipe, the seed and its number alone: not on ``subjects``,
    ``workers`` or order. A folder of fewer subjects of the same recipe is therefore extended.

    Args:
        out: Folder to write. It must be empty, new, or hold this very phantom.
        subjects: Number of scans, one folder each. Second scans of a person count.
        spacing_mm: Isotropic voxel size, 0.8 to 6 mm.
        seed: Any non-negative integer.
        workers: Threads.
        progress: Shows how far the work is.
        contrast: ``"physics"`` (MR equations), ``"random"`` (random contrast and resolution) or
            ``"mixed"`` (half and half).
        controls: Share of people without a tumour.
        twins: Share of scans that show an earlier patient again, at another site.
        missing: Share of scans that lack one sequence.
        anatomy: ``"icbm152"`` (needs nilearn), ``"ellipsoid"``, or ``"auto"``.
        layout: ``"bids"`` (NIfTI volumes) or ``"kaggle"`` (TIFF slices as in ``kaggle_3m``, where
            nothing but ``phantom.json`` tells that two patients are one person).

    Returns:
        The folder: ``phantom.json`` with all that was drawn, a table, and a folder a scan.

    Raises:
        ConfigError: A setting is out of range.
        OutputError: The folder holds something else, or cannot be written.
        LockedError: Another process is writing there.
        MissingExtraError: ``anatomy="icbm152"`` without nilearn.
    """
    if anatomy == "auto":
        anatomy = "icbm152" if _anatomy.template_folder() else "ellipsoid"
    recipe = Recipe(spacing_mm, seed, contrast, controls, twins, missing, anatomy, layout)
    _check(recipe, subjects, workers)
    folder = writable_folder(out)
    _refuse_foreign(folder, recipe, subjects)
    with folder_lock(folder):
        _refuse_foreign(folder, recipe, subjects)
        remove_stale(folder)
        for partial in folder.glob(f"{_PARTIAL}*"):
            shutil.rmtree(partial, ignore_errors=True)
        plans = [plan(recipe, index) for index in range(subjects)]
        pending = [p for p in plans if not _folder_of(p, folder, recipe).is_dir()]
        check_space(folder, int(len(pending) * _HEAD_MM3 / spacing_mm**3 * 6))
        text = json.dumps(_description(recipe, plans), indent=1, ensure_ascii=False)
        atomic_write_text(folder / DESCRIPTION_FILE, text + "\n")
        _write_all(folder, recipe, pending, workers, progress)
        _export.write_tables(folder, recipe, plans)
    return folder


def simulate(recipe: Recipe, index: int) -> Volumes:
    """Simulate one scan in memory; see ``generate`` for what the recipe means."""
    planned = plan(recipe, index)
    seed, spacing = recipe.seed, recipe.spacing_mm
    template = _anatomy.load_template(recipe.anatomy, spacing)
    rng = stream(seed, Stream.WARP, planned.source)
    head = _anatomy.build(template, planned.person, planned.tumour, spacing, rng)
    labels = np.zeros(head.shape, np.uint8)
    growth = None
    if planned.tumour is not None:
        rng = stream(seed, Stream.GROWTH, planned.source)
        growth = _tumour.grow(head, planned.tumour, rng)
        labels[growth.box] = growth.labels
    rng = stream(seed, Stream.TISSUE, planned.source)
    body = _signal.body(head, planned.person, growth, rng)
    crop, affine = _field_of_view(head, planned)
    images = {}
    for place, series in enumerate(planned.scan.series):
        if not series.missing:
            rng = stream(seed, Stream.RENDER, 4 * index + place)
            image = _signal.render(body, planned.scan, series, rng)[crop]
            whole = np.clip(np.rint(image), 1, 32767) * head.mask[crop]
            images[series.modality] = whole.astype(np.int16)
    return Volumes(planned, images, labels[crop], affine)


def _check(recipe: Recipe, subjects: int, workers: int) -> None:
    shares = {"controls": recipe.controls, "twins": recipe.twins, "missing": recipe.missing}
    low, high = _SPACING_MM
    contrasts, anatomies = get_args(Contrast), ("auto", "icbm152", "ellipsoid")
    rules = [
        (1 <= subjects <= 999, "subjects", "1 to 999", subjects),
        (workers >= 1, "workers", "1 or more", workers),
        (recipe.seed >= 0, "seed", "0 or more", recipe.seed),
        (low <= recipe.spacing_mm <= high, "spacing_mm", f"{low} to {high}", recipe.spacing_mm),
        (recipe.contrast in contrasts, "contrast", " or ".join(contrasts), recipe.contrast),
        (recipe.anatomy in anatomies, "anatomy", " or ".join(anatomies), recipe.anatomy),
        (recipe.layout in LAYOUTS, "layout", " or ".join(LAYOUTS), recipe.layout),
        *((0 <= share <= 0.5, name, "0 to 0.5", share) for name, share in shares.items()),
        (
            not (recipe.layout == "kaggle" and recipe.missing),
            "missing",
            "0 with the kaggle layout, whose slices hold all channels",
            recipe.missing,
        ),
    ]
    for valid, name, expected, got in rules:
        if not valid:
            raise ConfigError(f"{name}: expected {expected}, got {got}", code="phantom-setting")


def _refuse_foreign(folder: Path, recipe: Recipe, subjects: int) -> None:
    """Refuse a folder that holds anything but an equal or smaller phantom of this recipe."""
    path = folder / DESCRIPTION_FILE
    if not path.is_file():
        foreign = [p.name for p in folder.iterdir() if p.name not in (LOCK_NAME, HOLDER_NAME)]
        if foreign:
            raise OutputError(
                f"expected an empty folder or a phantom, got {sorted(foreign)[0]!r} and no "
                f"{DESCRIPTION_FILE}",
                where=folder,
                fix="choose another folder",
                code="phantom-foreign",
            )
        return
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        recipe_there = {**document["recipe"], "version": document["version"]}
        count = int(document["subjects"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(
            "expected the description of a phantom, got something else",
            where=path,
            fix="choose another folder",
            code="phantom-foreign",
        ) from error
    recipe_asked = {**asdict(recipe), "version": VERSION}
    differing = [
        f"{k} {recipe_there.get(k)} (asked: {v})"
        for k, v in recipe_asked.items()
        if recipe_there.get(k) != v
    ]
    if count > subjects:
        differing.append(f"subjects {count} (asked: {subjects})")
    if differing:
        raise OutputError(
            f"the folder holds another phantom: {', '.join(differing)}",
            where=folder,
            fix="choose another folder, or ask for the same phantom",
            code="phantom-other",
        )


def _description(recipe: Recipe, plans: list[Plan]) -> dict[str, Any]:
    from delineate import __version__

    atlas = recipe.anatomy == "icbm152"
    return {
        "what": "Delineate phantom: synthetic images of people who do not exist. "
        "Not for clinical use; no claim of clinical realism.",
        "version": VERSION,
        "delineate": __version__,
        "notice": _anatomy.NOTICE if atlas else "",
        "subjects": len(plans),
        "recipe": asdict(recipe),
        "held_out_site": HELD_OUT_SITE,
        "schema": brats_schema().to_dict(),
        "tissues": {name: asdict(tissue) for name, tissue in TISSUES.items()},
        "sites": [asdict(site) for site in SITES],
        "scans": {_export.scan_name(p, recipe): {"subject": p.subject, **asdict(p)} for p in plans},
    }


def _folder_of(plan: Plan, folder: Path, recipe: Recipe) -> Path:
    return folder / _export.scan_name(plan, recipe)


def _write_all(
    folder: Path, recipe: Recipe, pending: list[Plan], workers: int, progress: Progress
) -> None:
    """Simulate and write what is missing; on an error what is finished stays."""
    if pending:  # once, before the threads would each do it
        _anatomy.load_template(recipe.anatomy, recipe.spacing_mm)
    with (
        progress.task(len(pending), "phantom") as bar,
        ThreadPoolExecutor(min(workers, max(1, len(pending)))) as pool,
    ):
        jobs = [pool.submit(_write_one, folder, recipe, plan) for plan in pending]
        try:
            for job in as_completed(jobs):
                job.result()
                bar.advance(1)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _write_one(folder: Path, recipe: Recipe, plan: Plan) -> None:
    """The scan's folder appears complete or not at all."""
    final = _folder_of(plan, folder, recipe)
    partial = folder / f"{_PARTIAL}{final.name}"
    volumes = simulate(recipe, plan.index)
    try:
        partial.mkdir()
        if recipe.layout == "kaggle":
            _export.write_slices(partial, final.name, volumes, recipe.spacing_mm)
        else:
            _export.write_volumes(partial, _turned(volumes))
        for path in partial.iterdir():
            sync(path)
        partial.rename(final)
        sync(folder)
    except OSError as error:
        raise output_error(error, final) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _field_of_view(
    head: _anatomy.Anatomy, planned: Plan
) -> tuple[tuple[slice, ...], NDArray[np.float64]]:
    """Box around the brain with this scan's own margins, and its affine (RAS+)."""
    inside = np.argwhere(head.mask)
    pad = np.array(planned.scan.pad)
    low = np.maximum(inside.min(0) - pad[:3], 0)
    high = np.minimum(inside.max(0) + 1 + pad[3:], head.shape)
    affine = np.diag([head.spacing_mm] * 3 + [1.0])
    affine[:3, 3] = (low - (np.array(head.shape) - 1) / 2) * head.spacing_mm
    return tuple(slice(int(p), int(q)) for p, q in zip(low, high, strict=True)), affine


def _turned(volumes: Volumes) -> Volumes:
    """The arrays in the axis order of the site's scanner; the affine follows."""
    turn = orientations.ornt_transform(
        orientations.axcodes2ornt("RAS"), orientations.axcodes2ornt(volumes.plan.scan.axes)
    )
    shape = volumes.labels.shape
    return dataclasses.replace(
        volumes,
        images={n: orientations.apply_orientation(i, turn) for n, i in volumes.images.items()},
        labels=orientations.apply_orientation(volumes.labels, turn),
        affine=volumes.affine @ orientations.inv_ornt_aff(turn, shape),
    )
