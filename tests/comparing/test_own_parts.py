"""A benchmark's suite names parts of the user's own by their paths."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from delineate.comparing import suites
from delineate.core import catalog
from delineate.core.errors import ConfigError

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SUITE = """\
title: Mine
question: Is it better?
metrics: [dice]
arms:
  - {name: theirs, network: unet}
  - {name: mine, network: parts/mynet.py, method: mymethod.py}
  - name: my loss
    network: unet
    settings: {method_settings: {losses: {parts/myloss.py: 1}}}
"""


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    (tmp_path / "parts").mkdir()
    shutil.copy(EXAMPLES / "dilated.py", tmp_path / "parts" / "mynet.py")
    shutil.copy(EXAMPLES / "log_cosh_dice.py", tmp_path / "parts" / "myloss.py")
    shutil.copy(EXAMPLES / "mirrored.py", tmp_path / "mymethod.py")
    (tmp_path / "suite.yaml").write_text(SUITE)
    return tmp_path


def test_paths_of_a_suite_start_at_its_file(lab: Path) -> None:
    suite = suites.load(str(lab / "suite.yaml"))
    _, mine, loss = suite.arms
    assert (mine.network, mine.method) == (
        str(lab / "parts" / "mynet.py"), str(lab / "mymethod.py")
    )  # fmt: skip
    assert list(loss.settings["method_settings"]["losses"]) == [str(lab / "parts" / "myloss.py")]


def test_a_part_that_is_not_there_is_said_with_its_line(lab: Path) -> None:
    (lab / "mymethod.py").unlink()
    with pytest.raises(ConfigError) as caught:
        suites.load(str(lab / "suite.yaml"))
    assert (caught.value.code, caught.value.where) == ("part-missing", f"{lab / 'suite.yaml'}:6")


def test_arms_of_the_command_line_are_called_by_their_files(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(lab)
    suite = suites.load("suite.yaml")
    some = suite.of_networks(("unet", "parts/mynet.py", "unet+./mymethod.py"))
    assert [arm.name for arm in some.arms] == ["theirs", "mynet", "unet+mymethod"]
    assert catalog.load("networks", some.arms[1].network).KIND == "segmenter"
