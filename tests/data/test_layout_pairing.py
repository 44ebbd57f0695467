"""Whatever files are called, each is used once or said to be left over."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from delineate.data.layouts import _observers, _pairing, folder

WORDS = (
    "a", "b", "1", "2", "02", "x3", "4d", "mask", "seg", "label", "gt", "roi", "image", "img",
    "scan", "t1", "ct", "manual", "rater", "1stHO", "aggregated", "maj", "train", "val", "left",
)  # fmt: skip
FOLDERS = (
    "images", "masks", "labels", "manual1", "imagesTr", "labelsTr", "with GT", "GT_1", "p1", "p2",
    "benign", "train", "test", "site2",
)  # fmt: skip


def names(seed: int) -> set[Path]:
    draw = random.Random(seed)
    found = set()
    for _ in range(draw.randint(1, 14)):
        place = [draw.choice(FOLDERS) for _ in range(draw.choice([0, 0, 1, 1, 2]))]
        name = draw.choice("_- .").join(draw.choice(WORDS) for _ in range(draw.randint(1, 4)))
        found.add(Path("/r", *place, name + draw.choice([".png", ".nii.gz"])))
    return found


@pytest.mark.parametrize("start", range(0, 600, 100))
def test_every_file_is_used_once_or_left_over(start: int) -> None:
    root = Path("/r")
    for seed in range(start, start + 100):
        paths = names(seed)
        scans, rest = _pairing.pair(*_pairing.sort(root, sorted(paths)))
        used = [file for scan in scans for file in (*scan.images.values(), *scan.labels)]
        assert sorted(file.path for file in (*used, *rest)) == sorted(paths), seed
        choice = _observers.choose(scans, None)
        cases, _ = folder._cases(root, scans, choice)
        assert len(cases) == len(scans)
        for case, scan in zip(cases, scans, strict=True):
            assert (case.label is not None) == bool(scan.labels), seed
