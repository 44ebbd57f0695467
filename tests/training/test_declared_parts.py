"""Parts of a split that come with the data, from the folder to the model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from delineate.tasks.train import train

TINY = "width: 4\npatch: [16, 16]\nbatch: 2\n"


def test_a_declared_validation_part_validates_and_nothing_else(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for n in range(10):
        part = "val" if n < 2 else "train"
        mask = np.zeros((24, 24), np.uint8)
        mask[4 + n : 12 + n, 5:15] = 255
        picture = (draw.integers(0, 60, mask.shape) + mask // 2).astype(np.uint8)
        for name, array in (("images", picture), ("masks", mask)):
            (tmp_path / "data" / part / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(tmp_path / f"data/{part}/{name}/p{n}.png")
    (tmp_path / "tiny.yaml").write_text(TINY)
    said: list[str] = []
    out = tmp_path / "run"
    train(tmp_path / "data", steps=2, config=tmp_path / "tiny.yaml", out=out, say=said.append)
    parts = json.loads((out / "split.json").read_text())["parts"]
    assert parts["validation"] == ["val_p0", "val_p1"]
    assert {name[:6] for name in (*parts["train"], *parts["test"])} == {"train_"}
    assert "validation: 2 cases, as the data declare; they choose the clean-up" in said
    scored = (out / "validation/cases.csv").read_text()
    assert "val_p0" not in scored
    assert parts["test"][0] in scored
