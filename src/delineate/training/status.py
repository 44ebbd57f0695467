"""How much a model has learned, in words that a person cannot misread."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from delineate.engine.budget import ENOUGH_STEPS, MODEST_STEPS


def describe(steps: int, share: float) -> dict[str, Any]:
    """What the record, the card and the report say of a training.

    Args:
        steps: Optimiser steps done.
        share: Of the plan, 0 to 1.

    Returns:
        ``steps``, ``share``, ``hardly`` (fewer steps than anything can be learned in) and
        ``sentence``, empty where all went as planned.
    """
    hardly, cut = steps < MODEST_STEPS, share < 0.999
    done = f"{steps:,} step{'s' * (steps != 1)}"
    sentence = ""
    if hardly:
        sentence = f"This model has hardly trained: {done}, where {ENOUGH_STEPS} are usual"
    elif cut:
        sentence = f"This model's training was stopped early: {done}"
    if cut and sentence:
        sentence += f", {100 * share:.0f} % of its plan"
    return {
        "steps": steps,
        "share": round(min(1.0, share), 4),
        "hardly": hardly,
        "sentence": f"{sentence}." if sentence else "",
    }


def progress(trained: Mapping[str, Any]) -> str:
    """How far a run's training came, in words.

    Args:
        trained: From ``describe``.
    """
    done = f"trained {trained['steps']:,} step{'s' * (trained['steps'] != 1)}"
    share = "all" if trained["share"] >= 0.999 else f"{100 * trained['share']:.0f} %"
    return f"{done}, {share} of the plan"


def summary(record: Mapping[str, Any], model: Path, page: Path) -> list[str]:
    """What a run says at its end: figures that are missing, where all lies, how it goes on.

    Args:
        record: Of the run.
        model: Its file.
        page: Its report.
    """
    scored, trained, lines = record["scored"], record["trained"], list[str]()
    if "commands" in scored:
        lines = [
            f"figures are of {scored['cases']} of {scored['of']} held-out cases; "
            "those of all come from:"
            if scored["cases"]
            else f"none of {scored['of']} held-out cases is scored; their figures come from:",
            *(f"  {command}" for command in scored["commands"]),
        ]
    if record.get("no_figures"):
        lines.append(record["no_figures"])
    lines += [f"model: {model}", f"report: {page}"]
    if record["status"] != "finished":
        end = "" if trained["complete"] else ", and ends with this model if --finish is added"
        lines.append(f"{progress(trained)}; the same command goes on{end}")
    return lines
