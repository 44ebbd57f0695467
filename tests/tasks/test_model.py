from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from delineate.core import model_file
from delineate.tasks.model import model

DOCUMENT: dict[str, Any] = {
    "network": {"name": "unet", "config": {"ndim": 2}},
    "channels": ["flair"],
    "schema": {},
    "preparation": {},
    "input": {"patch": [8, 8]},
}
CRITIC: dict[str, Any] = {
    "network": {"name": "patch_critic", "config": {"ndim": 2}},
    "channels": 3,
    "outputs": 1,
    "sees": {"how": "joined"},
}


def test_what_each_part_of_a_model_takes_is_told(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    weights = {"w": np.zeros((2, 5), np.float32), "count": np.zeros((), np.int64)}
    model_file.save(path, weights, DOCUMENT)
    predictor = {
        "part": "predictor", "network": "unet", "parameters": 11, "bytes": 48, "sees": None,
        "config": {"ndim": 2},
    }  # fmt: skip
    assert model("show", path)["parts"] == [predictor]
    critic = {"w": np.zeros(1000, np.float32)}
    model_file.save(path, weights, {**DOCUMENT, "parts": {"critic": CRITIC}}, {"critic": critic})
    told = model("show", path)
    assert told["parts"] == [
        predictor,
        {
            "part": "critic", "network": "patch_critic", "parameters": 1000, "bytes": 4000,
            "sees": {"how": "joined"}, "config": {"ndim": 2},
        },
    ]  # fmt: skip
    assert (told["parameters"], told["megabytes"]) == (1011, 0.004048)
