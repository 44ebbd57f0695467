"""The one page of a demo: how good the model is on new brains, and how it was made."""

from __future__ import annotations

from pathlib import Path

from delineate.reports import evaluation, page, training
from delineate.reports._run_folder import RunFolder
from delineate.reports.page import block, join


def write(path: Path, run: Path, scores: Path) -> Path:
    """Write the page of a demo.

    Args:
        path: The HTML file.
        run: The run folder.
        scores: The evaluation of scans that had no part in the run.

    Returns:
        ``path``.

    Raises:
        OutputError: The file cannot be written.
    """
    held_out, new = RunFolder.read(run), RunFolder.read(run, scores.resolve())
    head = evaluation.headline(new.summary, new.cases)
    earlier = evaluation.headline(held_out.summary, held_out.cases)
    sentences = evaluation.verdict(head, "new subject")
    of_held_out = evaluation.verdict(earlier, "held-out subject")
    html = page.render(
        "Demo: synthetic brains, from scans to figures",
        [
            *evaluation.sections(new.summary, new.cases, new.pictures),
            (
                "Held out of training",
                join(
                    block("text", " ".join([*of_held_out, *training.last_fit(held_out)])),
                    block("pictures", held_out.pictures, False),
                ),
            ),
            *training.sections(held_out),
        ],
        kind="demo",
        verdict=training.verdict(held_out, sentences),
        lead=evaluation.tiles(head, evaluation.time_tile(held_out), scored_on="New brains"),
    )
    return page.write(path, html)
