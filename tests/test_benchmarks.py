"""``make bench`` runs whatever is installed, and says of every peer whether it does the same."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
OPTIONAL = (
    "monai", "onnxruntime", "openvino", "nnunetv2", "dynamic_network_architectures",
    "batchgeneratorsv2",
)  # fmt: skip
ROWS = (
    "training", "augmentation", "forward", "sliding-window", "metrics", "preparation", "kmeans",
    "kmeans-channels", "equalisation", "nifti",
)  # fmt: skip


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The runner, with its neighbours, which are gone from the path afterwards."""
    monkeypatch.syspath_prepend(FOLDER)
    yield importlib.import_module("table")
    for path in FOLDER.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture
def without_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no extra were installed."""
    loaded = [name for name in sys.modules if name.split(".")[0] in OPTIONAL]
    for name in {*loaded, *OPTIONAL}:
        monkeypatch.setitem(sys.modules, name, None)


def lines_of(table: ModuleType, row: str, folder: Path) -> list[Any]:
    return table.measure(row, table.Setup(True, 1, folder), 2)


def test_the_table_has_every_row(table: ModuleType) -> None:
    assert tuple(table.ROWS) == ROWS


@pytest.mark.usefixtures("without_optional")
@pytest.mark.parametrize("row", ROWS)
def test_a_row_needs_no_optional_peer(table: ModuleType, row: str, tmp_path: Path) -> None:
    lines = lines_of(table, row, tmp_path)
    assert lines
    for line in lines:
        absent = line.peer.startswith(("MONAI", "nnU-Net", "ONNX Runtime", "OpenVINO"))
        assert (line.results == "not installed") == absent == (line.ratio is None)
        assert not line.results.startswith("DIFFER"), line
        if line.ratio is not None:
            assert 0 < line.ratio.least <= line.ratio.median <= line.ratio.largest
    assert all(line.peer in table.text(lines) for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_peers_that_are_installed_do_the_same(table: ModuleType, row: str, tmp_path: Path) -> None:
    lines = lines_of(table, row, tmp_path)
    assert [line for line in lines if line.results.startswith("DIFFER")] == []


def test_a_peer_that_gives_something_else_is_called_out(table: ModuleType) -> None:
    peer = table.Peer("x", lambda: None, lambda a, b: abs(a - b), 0.5, "Dice")
    assert peer.compared(1.0, 1.25) == "agree: Dice 0.25 apart, 0.5 allowed"
    assert peer.compared(1.0, 2.0) == "DIFFER: Dice 1 apart, 0.5 allowed"


def test_runs_of_a_row_take_turns(table: ModuleType) -> None:
    calls: list[str] = []
    seconds = table.in_turns([lambda: calls.append("a"), lambda: calls.append("b")], 3)
    assert "".join(calls) == "ababab"
    assert [len(counted) for counted in seconds] == [3, 3]


def test_the_table_is_written_as_json_too(table: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "new" / "bench.json"
    words = ["--tiny", "--threads", "1", "--repeats", "5", "--only", "equalisation"]
    table.main([*words, "--json", str(file)])
    written = json.loads(file.read_text("utf-8"))
    assert written["repeats"] == 5
    assert {line["peer"] for line in written["lines"]} == {"OpenCV", "scikit-image"}
    assert all(line["ratio"]["median"] > 0 for line in written["lines"])


@pytest.mark.parametrize("words", [["--only", "metrix"], ["--repeats", "4"], ["--threads", "0"]])
def test_wrong_words_are_refused(table: ModuleType, words: list[str]) -> None:
    with pytest.raises(SystemExit):
        table.main(words)
