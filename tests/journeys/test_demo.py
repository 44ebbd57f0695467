"""The journey of a newcomer, through the command line alone."""

from __future__ import annotations

import json
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
    assert summary["mean_dice"]["mean"] > 0.5
    assert "demo/report.html`" in README.read_text(encoding="utf-8")
    for page in ("report.html", "run/report.html", "scores/report.html", "run/audit.html"):
        text = (tmp_path / "demo" / page).read_text()
        assert 'src="http' not in text
        assert 'href="http' not in text


def test_a_stranger_makes_every_mistake_once_and_is_told_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "scan.nii.gz").write_bytes(b"\x1f\x8b not really")
    for words, code, told in (
        (("train", "empty"), 1, "layout"),
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
