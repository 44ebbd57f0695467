"""Make the weights that come along: `python benchmarks/phantom_weights.py FOLDER` (about an hour).

A network learns to outline tumours in phantoms of three voxel sizes and of two kinds of head, half
of them in random contrasts, all said to be of one size, so that it sees heads near and far. Their
seeds are none that anybody would give, so a demo or a test never shows it a head that it has seen.
What it has learnt is stored in 16 bits, without subjects: nobody is in it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import nibabel as nib
import numpy as np

from delineate.core import model_file
from delineate.phantoms.generate import generate
from delineate.tasks.train import train

MM = 4.0
#: Name, voxel size, anatomy, contrast, subjects, seed.
PARTS = (
    ("a", 4.0, "icbm152", "physics", 72, 515_000_001),
    ("b", 4.0, "ellipsoid", "physics", 24, 515_000_002),
    ("c", 3.0, "icbm152", "mixed", 48, 515_000_003),
    ("d", 2.0, "icbm152", "mixed", 32, 515_000_004),
)
STEPS = 9000
SETTINGS = {
    "network": "unet", "network_settings": {"levels": 4}, "width": 16, "patch": [32, 40, 32],
    "batch": 4, "threads": 1, "weights": None, "holdout": 0.04, "last_fit": 0.0, "seed": 7,
}  # fmt: skip
CARD = {
    "name": "phantom-brain-3d",
    "trained_on": "152 synthetic heads, most of them with a glioma; none is of a person",
    "intended_use": "To start training from; not to outline anything by itself.",
}


def cohort(folder: Path) -> Path:
    """All parts in one folder, whatever their voxels, said to be of 4 mm."""
    rows: list[str] = []
    for name, mm, anatomy, contrast, subjects, seed in PARTS:
        part = generate(
            folder / "parts" / name, subjects, mm, seed, contrast=contrast, anatomy=anatomy
        )
        head, *lines = (part / "participants.tsv").read_text().splitlines()
        rows = [*(rows or [head]), *(line.replace("sub-", f"sub-{name}") for line in lines)]
        for path in sorted(part.rglob("*.nii.gz")):
            renamed = [p.replace("sub-", f"sub-{name}") for p in path.relative_to(part).parts]
            image, target = nib.load(path), folder.joinpath("all", *renamed)
            affine = image.affine.copy()
            affine[:3, :3] *= MM / mm
            target.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), affine), target)
    (folder / "all" / "participants.tsv").write_text("\n".join(rows) + "\n")
    return folder / "all"


def pack(trained: Path, out: Path) -> None:
    """The weights of a model in 16 bits, with what others need to know of them."""
    model = model_file.load(trained)
    document = {
        key: value
        for key, value in model.document.items()
        if key in ("network", "channels", "schema", "preparation", "target", "input", "output")
    }
    provenance = {"steps": STEPS, "parts": [list(part) for part in PARTS]}
    tensors = {name: array.astype(np.float16) for name, array in model.tensors.items()}
    model_file.save(out, tensors, {**document, "provenance": provenance, "card": CARD})
    print(out, out.stat().st_size, "bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    config = folder / "settings.yaml"
    data = cohort(folder)
    config.write_text(json.dumps(SETTINGS))
    train(data, steps=STEPS, config=config, out=folder / "run", say=print)
    pack(folder / "run" / "model.safetensors", folder / f"{CARD['name']}.safetensors")


if __name__ == "__main__":
    main()
