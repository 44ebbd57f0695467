"""A small run folder, and a reader of pages that sees them as a browser would."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

#: What a hostile or unlucky name may hold.
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</title></style><h1>x",
    "' onmouseover='alert(1)",
    "{{ 7 * 7 }} $\\frac{1",
    "name\udcff\x00\u202egnp.exe",
    "url(https://example.org/x) & ]]> -->",
)


class Page(HTMLParser):
    """Tags with their attributes, and the text, of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._silent = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {k: v or "" for k, v in attrs}))
        self._silent = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._silent = self._silent and tag not in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.text += data

    def named(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def words(self) -> str:
        return " ".join(self.text.split())


def cases_rows(names: tuple[str, ...] = ("a", "b", "c", "d"), region: str = "WT") -> list[Any]:
    dice = np.linspace(0.6, 0.9, len(names))
    return [
        {
            "case": name, "subject": name, "region": region, "kind": "region", "dice": float(d),
            "iou": float(d / (2 - d)), "precision": 0.9, "recall": 0.8, "specificity": 0.99,
            "accuracy": 0.995, "accuracy_background": 0.98, "hd95_mm": 10 * (1 - float(d)),
            "assd_mm": 1.0, "nsd": 0.9, "volume_ml_truth": 12.5, "volume_ml_prediction": 11.0,
            "state": "ok",
        }
        for name, d in zip(names, dice, strict=True)
    ]  # fmt: skip


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Write a run folder; ``names`` stand wherever a name may stand."""

    def make(names: tuple[str, ...] = ("a", "b", "c", "d"), folder: str = "run") -> Path:
        run = tmp_path / folder
        overlays = run / "validation" / "overlays"
        overlays.mkdir(parents=True)
        rows = cases_rows(names, region=names[0])
        with (run / "validation" / "cases.csv").open(
            "w", newline="", encoding="utf-8", errors="surrogateescape"
        ) as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        truth = np.zeros((24, 20), np.uint8)
        truth[6:14, 5:12] = 1
        np.savez(
            overlays / "worst.npz",
            image=np.random.default_rng(0).normal(size=(24, 20)),
            truth=truth,
            prediction=np.roll(truth, 3, axis=1),
        )
        cases = [
            {"id": n, "subject": n, "site": n, "sex": "F", "label": "l", "images": {}}
            for n in (*names, "train-1", "train-2")
        ]
        files: dict[str, Any] = {
            "run.json": {
                "name": names[0], "started": "2026-01-02T03:04:05+00:00", "seconds": 125.0,
                "budget_seconds": 3600, "steps": 30, "seed": 7, "method": names[-1],
                "network": "unet", "versions": {"numpy": "2.4"}, "machine": {"cores": 2},
                "hashes": {"cohort": "abc123"}, "status": "finished",
                "plan": {"network": "unet", "parameters": 1234567, "patch": [32, 32, 16],
                         "batch": 2, "steps": 30, "seconds_per_step": 0.05},
                "preparation": {"ndim": 3, "crop": True, "channels": [{"name": names[1]}],
                                "reasons": [names[2]]},
            },
            "cohort.json": {
                "root": "/somewhere/cohort", "layout": "folder", "cases": cases,
                "schema": {"labels": [{"name": names[0], "value": 255}], "regions": {},
                           "classes": [], "lateral": False},
                "notes": [names[1]], "modalities": {names[2]: "MR"},
            },
            "split.json": {
                "name": "holdout", "seed": 7, "leaky": False,
                "parts": {"train": ["train-1", "train-2"], "test": list(names)},
            },
            "audit.json": {
                "root": "/somewhere/cohort", "layout": "folder", "cases": 6, "subjects": 6,
                "facts": {}, "findings": [{"code": "odd", "severity": "warning",
                                           "message": names[0], "where": list(names),
                                           "fix": names[1]}],
            },
            "validation/overlays/overlays.json": [
                {"file": "worst.npz", "title": names[0], "aspect": 1.0, "letters": "RLA"}
            ],
        }  # fmt: skip
        for name, content in files.items():
            (run / name).write_text(json.dumps(content))
        (run / "config.yaml").write_bytes(
            f"method: {names[0]}\nbudget: 1h\n".encode("utf-8", "surrogateescape")
        )
        with (run / "log.jsonl").open("w") as file:
            for step in range(1, 31):
                line = {"step": step, "steps": 30, "seconds": step * 0.1, "lr": 0.01, "stage": "x"}
                line |= {"loss": 1 / step, "val_dice": 0.5} if step % 10 == 0 else {"loss": None}
                file.write(json.dumps(line) + "\n")
        return run

    return make
