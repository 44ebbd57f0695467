"""The journey of a newcomer, through the command line alone."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
README = Path(__file__).resolve().parents[2] / "README.md"


def delineate(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "delineate", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_the_demo_learns_to_outline_brains_it_has_never_seen(tmp_path: Path) -> None:
    done = delineate("demo", "--out", "demo", "--budget", "2m", "--subjects", "16", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads((tmp_path / "demo" / "scores" / "summary.json").read_text())
    # Two minutes of a quiet machine give twice as much; chance gives less than 0.05.
    assert summary["regions"]["WT"]["dice_where_present"]["mean"] > 0.25
    assert "demo/report.html`" in README.read_text(encoding="utf-8")
    for page in ("report.html", "run/report.html", "scores/report.html", "run/audit.html"):
        text = (tmp_path / "demo" / page).read_text()
        assert 'src="http' not in text
        assert 'href="http' not in text


def test_the_verbs_of_the_readme_run_as_they_stand_there(tmp_path: Path) -> None:
    text = README.read_text(encoding="utf-8")
    commands = dict(re.findall(r"^\| `([a-z-]+)` \|.*`delineate ([^`]+)` \|$", text, re.M))
    for verb in ("demo", "benchmark"):  # minutes: tried above, and in the tests of benchmark
        del commands[verb]
    small = {
        "phantom": ["--spacing-mm", "6"],
        "train": ["--steps", "4", "--seed", "0"],
        "crossvalidate": ["--steps", "4", "--jobs", "2"],
    }
    (tmp_path / "examples").symlink_to(README.parent / "examples")
    first = ("phantom", "audit", "train", "predict", "evaluate")
    for verb in (*first, *sorted(commands.keys() - set(first))):
        words = shlex.split(commands[verb]) + small.get(verb, [])
        if "--budget" in words:
            place = words.index("--budget")
            del words[place : place + 2]
        done = delineate(*words, cwd=tmp_path)
        assert done.returncode == 0, (verb, done.stderr[-3000:])
        if verb == "phantom":
            (tmp_path / "COHORT").rename(tmp_path / "DATA")
            made = delineate("phantom", "SCANS", "--subjects", "3", "--spacing-mm", "6",
                             "--seed", "1", cwd=tmp_path)  # fmt: skip
            assert made.returncode == 0, made.stderr
            (tmp_path / "LABELS").symlink_to("SCANS")
    for path in ("RUN/report.html", "RUN/model.safetensors", "SCORES/report.html"):
        assert (tmp_path / path).is_file()


def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert 'budget="10m"' in block
    small = block.replace('budget="10m"', "steps=4").replace("=24", "=10, spacing_mm=6")
    small = small.replace("seed=1", "seed=1, spacing_mm=6")
    done = subprocess.run(
        [sys.executable, "-c", small], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "scores" / "report.html").is_file()


def test_a_stranger_makes_every_mistake_once_and_is_told_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "scan.nii.gz").write_bytes(b"\x1f\x8b not really")
    for words, code, told in (
        (("train", "empty"), 1, "empty folder"),
        (("train", "nowhere"), 1, "nowhere"),
        (("audit", "broken"), 2, "scan.nii.gz"),
        (("predict", "nothing.safetensors", "broken"), 1, "nothing.safetensors"),
        (("train", "empty", "--budget", "soon"), 1, "soon"),
        (("model", "show", "broken/scan.nii.gz"), 1, "model-file"),
    ):
        done = delineate(*words, cwd=tmp_path)
        assert done.returncode == code, (words, done.stderr)
        assert told in done.stderr + done.stdout, (words, done.stderr)
        assert "Traceback" not in done.stderr
