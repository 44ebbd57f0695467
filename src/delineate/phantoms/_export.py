"""How a phantom lies on disk: NIfTI volumes with a participants table, or TIFF slices."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from delineate.core.atomic import atomic_write_text
from delineate.phantoms._draw import Plan, Recipe

WATERMARK = "Delineate phantom, synthetic"
_ABSENT = "n/a"
_SIDE = 256
_SLICE_MM = 4.0
#: Columns of the table that comes with kaggle_3m; what a phantom does not have stays empty.
_KAGGLE_COLUMNS = (
    "Patient", "RNASeqCluster", "MethylationCluster", "miRNACluster", "CNCluster", "RPPACluster",
    "OncosignCluster", "COCCluster", "histological_type", "neoplasm_histologic_grade",
    "tumor_tissue_site", "laterality", "tumor_location", "gender", "age_at_initial_pathologic",
    "race", "ethnicity", "death01",
)  # fmt: skip


def scan_name(plan: Plan, recipe: Recipe) -> str:
    """Folder of a scan: ``sub-001``, or ``TCGA_S1_X001_20000101`` in the kaggle layout.

    Readers of that layout look for the prefix; no patient of TCGA has such a number.
    """
    return f"{_patient(plan)}_20000101" if recipe.layout == "kaggle" else plan.id


def _patient(plan: Plan) -> str:
    return f"TCGA_S{plan.scan.site[-1]}_X{plan.index + 1:03d}"


@dataclass(frozen=True)
class Volumes:
    """One simulated scan.

    Args:
        plan: What was drawn for it.
        images: Sequence -> ``(I, J, K)`` int16, 0 outside the brain and positive inside. A
            sequence that the recipe left out is missing here too.
        labels: ``(I, J, K)`` uint8 of the BraTS values {0, 1, 2, 4}.
        affine: ``(4, 4)`` voxel index -> RAS+ mm.
    """

    plan: Plan
    images: Mapping[str, NDArray[np.int16]]
    labels: NDArray[np.uint8]
    affine: NDArray[np.float64]


def write_volumes(folder: Path, volumes: Volumes) -> None:
    """Write ``t1``, ``t1gd``, ``t2``, ``flair``, ``seg`` as NIfTI-1; equal input, equal bytes."""
    for name, array in {**volumes.images, "seg": volumes.labels}.items():
        image: Any = nib.Nifti1Image(array, volumes.affine)  # type: ignore[no-untyped-call]
        image.header["descrip"] = WATERMARK.encode()
        image.header.set_xyzt_units("mm", "sec")
        image.set_sform(volumes.affine, 1)
        image.set_qform(volumes.affine, 1)
        data = gzip.compress(image.to_bytes(), 4, mtime=0)
        (folder / f"{name}.nii.gz").write_bytes(data)


def write_slices(folder: Path, name: str, volumes: Volumes, spacing_mm: float) -> None:
    """Write axial slices 256 x 256 x 3 (pre, FLAIR, post) with masks {0, 255} of the whole tumour.

    The arrays of ``volumes`` are RAS+; a slice shows the patient's right on its left.
    """
    import tifffile

    channels = [_eight_bit(volumes.images[m]) for m in ("t1", "flair", "t1gd")]
    whole = (volumes.labels > 0).astype(np.uint8) * 255
    step = max(1, round(_SLICE_MM / spacing_mm))
    options: dict[str, Any] = {"compression": "zlib", "metadata": None, "description": WATERMARK}
    for number, k in enumerate(range(0, whole.shape[2], step), start=1):
        stem = folder / f"{name}_{number}"
        planes = np.stack([_square(c[:, :, k], smooth=True) for c in channels], axis=2)
        tifffile.imwrite(f"{stem}.tif", planes, photometric="rgb", **options)
        mask = _square(whole[:, :, k], smooth=False)
        tifffile.imwrite(f"{stem}_mask.tif", mask, photometric="minisblack", **options)


def _eight_bit(image: NDArray[np.int16]) -> NDArray[np.uint8]:
    top = np.percentile(image[image > 0], 99.8)
    return (np.clip(image / top, 0, 1) * 255).astype(np.uint8)


def _square(plane: NDArray[np.uint8], smooth: bool) -> NDArray[np.uint8]:
    """``(I, J)`` of RAS+ -> ``(256, 256)``, anterior up, right on the left, square pixels."""
    import cv2

    turned = plane[::-1, ::-1].T
    side = max(turned.shape)
    padding = [side - n for n in turned.shape]
    padded = np.pad(turned, [(n // 2, n - n // 2) for n in padding])
    interpolation = cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST
    return np.asarray(
        cv2.resize(np.ascontiguousarray(padded), (_SIDE, _SIDE), interpolation=interpolation)
    )


def write_tables(folder: Path, recipe: Recipe, plans: list[Plan]) -> None:
    """Write ``participants.tsv`` or, in the kaggle layout, ``data.csv``."""
    if recipe.layout == "kaggle":
        rows = [_kaggle_row(plan) for plan in plans]
        atomic_write_text(folder / "data.csv", _table(_KAGGLE_COLUMNS, rows, ","))
    else:
        rows = [_row(folder, plan) for plan in plans]
        atomic_write_text(folder / "participants.tsv", _table(list(rows[0]), rows, "\t"))


def _table(columns: Iterable[str], rows: list[dict[str, Any]], delimiter: str) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), "", delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _row(folder: Path, plan: Plan) -> dict[str, Any]:
    absent = [s.modality for s in plan.scan.series if s.missing]
    volumes = _volumes_ml(folder / plan.id / "seg.nii.gz")
    return {
        "participant_id": plan.id,
        "subject": plan.subject,
        "sex": plan.person.sex,
        "age": plan.person.age,
        "site": plan.scan.site,
        "scanner": plan.scan.scanner,
        "grade": plan.tumour.grade if plan.tumour else "control",
        "twin_of": plan.twin_of or _ABSENT,
        "contrast": plan.scan.contrast,
        "axes": plan.scan.axes,
        "missing": absent[0] if absent else _ABSENT,
        **{f"{region}_ml": volumes.get(region, _ABSENT) for region in ("wt", "tc", "et")},
    }


def _volumes_ml(path: Path) -> dict[str, str]:
    """Volumes from the label file itself, so that a resumed cohort need not be simulated again."""
    if not path.is_file():
        return {}
    image: Any = nib.load(path)
    labels = np.asanyarray(image.dataobj)
    voxel_ml = float(np.prod(image.header.get_zooms()[:3])) / 1000
    regions = {"wt": (1, 2, 4), "tc": (1, 4), "et": (4,)}
    return {
        region: f"{np.isin(labels, values).sum() * voxel_ml:.3f}"
        for region, values in regions.items()
    }


def _kaggle_row(plan: Plan) -> dict[str, Any]:
    grade = {"LGG": 1, "HGG": 2}.get(plan.tumour.grade) if plan.tumour else None
    return {
        "Patient": _patient(plan),
        "neoplasm_histologic_grade": "" if grade is None else grade,
        "tumor_tissue_site": 1,
        "gender": 1 if plan.person.sex == "F" else 2,
        "age_at_initial_pathologic": plan.person.age,
    }
