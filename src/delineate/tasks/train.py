"""Train a model on a folder of scans within a time budget, and say honestly how good it is."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from delineate.core.case import Geometry
from delineate.core.progress import QUIET, Progress, Say, silent
from delineate.core.stopping import Stop
from delineate.data.opening import Opening

#: What came out is said line by line; all of ``run.json`` is for ``--json``.
SAYS_RESULT = True


def train(
    data: Path,
    *,
    budget: str | None = None,
    steps: int | None = None,
    target: str | None = None,
    translate_to: str | None = None,
    method: str | None = None,
    network: str | None = None,
    weights: Path | None = None,
    freeze: tuple[str, ...] | None = None,
    config: Path | None = None,
    out: Path = Path("run"),
    layout: str | None = None,
    subject_pattern: str | None = None,
    observer: str | None = None,
    ignore_label: int | None = None,
    class_column: str | None = None,
    geometry: Geometry | None = None,
    exclude: Path | None = None,
    site_key: Path | None = None,
    seed: int | None = None,
    holdout: float | None = None,
    last_fit: float | None = None,
    device: str | None = None,
    cache: Path | None = None,
    audit: bool = True,
    drop_duplicates: bool = False,
    finish: bool = False,
    say: Say = silent,
    progress: Progress = QUIET,
) -> dict[str, Any]:
    """Train a model on a folder of scans, and judge it on subjects it has never seen.

    A run that was killed, stopped or failed goes on when the same command is given again, with
    fixed steps on a CPU bit for bit. Ctrl-C (SIGTERM, a closed terminal) while it trains ends it
    after the step at hand with a model that can be used; a second time, or elsewhere, at once.

    Args:
        data: Folder of scans and label maps in one of the known layouts.
        budget: Wall-clock time for everything, as 90s, 40m or 1h30m (40m if nothing is said).
        steps: A fixed number of steps instead; on a CPU alone, such a run repeats to the bit.
        target: What the model is to give: outline, class (of a case), presence (of anything
            outlined in each slice) or image, see --translate-to; auto: outlines if there are any.
        translate_to: Name of the sequence that the model is to give, made from the others: its
            target is then an image. What the others do not show, it cannot know.
        method: How: supervised, adversarial, segan, cpgan; with unlabelled scans too mean_teacher,
            uamt, cps, unimatch, bcp, dan, sassnet, semi_adversarial; classify, deep_features or
            layerwise for classes; gan_features, vae_features for either; translate; or a .py file.
        network: What to train, see ``delineate networks``, or a Python file of your own; by default
            that of the weights, or unet, or cnn for classes.
        weights: File to start from: a model, of whatever labels, or tensors (.safetensors, .pt,
            .pth, .ckpt); by default weights learnt on phantoms, where they fit; none: random ones.
        freeze: Parts of the network that keep those weights, by the beginning of their names.
        config: A YAML file with any of the settings; options given here win.
        out: The run folder.
        layout: Layout of ``data``; recognised by default.
        subject_pattern: Regular expression whose group 1, found in a case id, is the subject.
        observer: Of several label files of an image, the one with this in its name (2ndHO, rater1).
        ignore_label: Value in label files of voxels that nobody has annotated: they are out of
            losses, samples and figures. Known already where a data set declares "ignore".
        class_column: The class is this column of the data's table, not what the layout says.
        geometry: What places NIfTI files whose sform and qform contradict each other (sform or
            qform), or that have neither (pixdim: voxel size alone); by default they are refused.
        exclude: File with cases to leave out: one id a line, and why after #.
        site_key: File of the key that marks subjects, made if need be; else the data's, or yours.
        seed: Of the split, the weights and the sampling.
        holdout: Share of subjects held out for figures (0.2; 0: none, so below 8 labelled).
        last_fit: Share of training that goes on from there with all subjects (0.15; 0: none).
        device: auto, cpu, cuda, cuda:1 or mps.
        cache: Folder of prepared cases, may be shared by runs; by default in the run folder.
        audit: Look for faults in the data first, of which blocking ones stop the run (exit code 2).
        drop_duplicates: Of images found twice or more keep one; ``excluded.txt`` names the others.
        finish: End a run that was stopped with the model that it has, instead of going on.
        say: Told what a person should know.
        progress: Shows how far it is.

    Returns:
        The content of ``run.json``, with the scores of the held-out subjects as ``scores``.

    Raises:
        AuditError: Blocking findings in the data.
        DelineateError: Whatever else stops the run, with the next move.
    """
    started = time.monotonic()
    from delineate.training import run  # brings torch along
    from delineate.training.job import Invocation

    options = {
        "budget": budget, "steps": steps, "target": target, "translate_to": translate_to,
        "method": method, "network": network, "weights": weights, "freeze": freeze, "seed": seed,
        "holdout": holdout, "last_fit": last_fit, "device": device,
        "drop_duplicates": drop_duplicates or None,
    }  # fmt: skip
    opening = Opening(
        layout, subject_pattern, class_column, geometry, exclude, observer, site_key, ignore_label
    )
    with Stop(say) as stop:
        invocation = Invocation(Path(data), opening, started, say, progress, stop)
        return run.train(
            options, config, invocation, out=Path(out), cache=cache, audit=audit, finish=finish
        )
