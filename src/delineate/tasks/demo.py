"""Run the whole main job on synthetic brains: audit, train, predict, evaluate, report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from delineate.core.progress import QUIET, Progress, Say, silent


def demo(
    out: Path = Path("demo"),
    *,
    budget: str = "4m",
    subjects: int = 24,
    spacing_mm: float = 4.0,
    method: str = "supervised",
    seed: int = 0,
    say: Say = silent,
    progress: Progress = QUIET,
) -> dict[str, Any]:
    """Make a synthetic glioma cohort, train on it, and outline brains it has never seen.

    Args:
        out: Folder for everything; made if need be.
        budget: Time for training, its figures included.
        subjects: Scans to train and judge on; a quarter as many new ones are outlined.
        spacing_mm: Voxel size of the phantom.
        method: How to train: supervised, adversarial, segan or cpgan.
        seed: Of the phantom and of the training.
        say: Told what a person should know.
        progress: Shows how far it is.

    Returns:
        Where the model, the new masks and the page about it all lie, and the mean Dice on the
        new brains.
    """
    from delineate.reports import demo as page
    from delineate.tasks.evaluate import evaluate
    from delineate.tasks.phantom import phantom
    from delineate.tasks.predict import predict
    from delineate.tasks.train import train

    out = Path(out)
    say("1/4  a cohort of synthetic brains, four sequences each, with exact outlines")
    known = phantom(
        out / "scans", subjects, spacing_mm, seed, missing=0.0, say=say, progress=progress
    )
    new = phantom(
        out / "new-scans", max(2, subjects // 4), spacing_mm, seed + 1, missing=0.0,
        say=say, progress=progress,
    )  # fmt: skip
    say("2/4  audit and training")
    run = out / "run"
    train(known, budget=budget, method=method, out=run, seed=seed, say=say, progress=progress)
    say("3/4  outlines of brains from another draw")
    masks = out / "masks"
    predict(run / "model.safetensors", new, masks, overwrite=True, say=say, progress=progress)
    say("4/4  how good they are")
    summary = evaluate(masks, new, out / "scores", say=say, progress=progress)
    return {
        "model": run / "model.safetensors",
        "masks": masks,
        "report": page.write(out / "report.html", run, out / "scores"),
        "mean Dice": round(float(summary["mean_dice"]["mean"]), 3),
    }
