"""Compare networks and methods fairly: same subjects, same compute, several seeds, intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from delineate.core.case import Geometry
from delineate.core.progress import QUIET, Progress, Say, silent
from delineate.data.opening import Opening


def benchmark(
    suite: str,
    *,
    data: Path | None = None,
    out: Path = Path("benchmark"),
    budget: str | None = None,
    quick: bool = False,
    gmac: float | None = None,
    target: str | None = None,
    class_column: str | None = None,
    networks: tuple[str, ...] = (),
    runs: int | None = None,
    jobs: int | None = None,
    width: int | None = None,
    labelled: tuple[str, ...] = (),
    layout: str | None = None,
    subject_pattern: str | None = None,
    observer: str | None = None,
    ignore_label: int | None = None,
    geometry: Geometry | None = None,
    exclude: Path | None = None,
    site_key: Path | None = None,
    device: str = "auto",
    say: Say = silent,
    progress: Progress = QUIET,
) -> dict[str, Any]:
    """Run a benchmark: every arm in one loop, at equal compute, on subjects it has never seen.

    Every run draws its own weights and holds out another part of the subjects, so that each subject
    is judged once by every arm. The command says how long it will take before it starts; stopped,
    it goes on when it is given again.

    Args:
        suite: Name of a suite (s1, few-labels …), or a YAML file.
        data: Folder of labelled scans; by default a synthetic cohort is made.
        out: Folder for everything.
        budget: Wall-clock time of everything; by default the suite's.
        quick: Take the suite's short budget and, of classifiers, show the conditions after the
            first with the arms that the suite names for it; else every arm goes through all.
        gmac: Billion multiplications each run may spend, instead of a budget: machines with other
            speeds then do the same work.
        target: What classifiers learn, instead of the suite's: the class of a case, or whether a
            slice shows anything outlined.
        class_column: The class is this column of the data's table (histological_type …).
        networks: Take these instead of the suite's, as NETWORK or NETWORK+METHOD.
        runs: Seeds, which are also the parts of the cross-validation.
        jobs: Runs at the same time; by default 2 on a CPU of several cores, else 1.
        width: Channels at full resolution, of every network that can be scaled.
        labelled: Of the suite few-labels: numbers of subjects who keep their labels (4), or a list
            as .csv with the columns image, label and subject; who is not in it judges.
        layout: Layout of ``data``; recognised by default.
        subject_pattern: Regular expression whose group 1, found in a case id, is the subject.
        observer: Of several label files of an image, the one with this in its name (2ndHO, rater1).
        ignore_label: Value in label files of voxels that nobody has annotated: they are out of
            losses, samples and figures. Known already where a data set declares "ignore".
        geometry: What places NIfTI files whose sform and qform contradict each other (sform or
            qform), or that have neither (pixdim: voxel size alone); by default they are refused.
        exclude: File with cases to leave out: one id a line, and why after #.
        site_key: File of the key that subjects are marked with, made there if it is not; by default
            the one that lies beside the data or above, or your own.
        device: auto, cpu, cuda, cuda:1 or mps.
        say: Told what a person should know.
        progress: Shows how far it is.

    Returns:
        Where the report lies, and the mean of the first metric of every arm.

    Raises:
        ConfigError: An unknown suite, network or setting, or too small a budget.
        OutputError: The folder holds another benchmark.
    """
    from delineate.comparing.benchmark import Request, run_benchmark
    from delineate.tasks.phantom import phantom

    opening = Opening(
        layout, subject_pattern, class_column, geometry, exclude, observer, site_key, ignore_label
    )
    request = Request(
        suite, data, Path(out), opening, budget, quick, gmac, target, networks, runs, jobs, width,
        device, labelled,
    )  # fmt: skip
    return run_benchmark(request, phantom, say, progress)
