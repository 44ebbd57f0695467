"""The verb that lists networks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from delineate.core import catalog
from delineate.core.errors import ConfigError
from delineate.networks import unet
from delineate.tasks.networks import networks


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A room of few networks, one of them broken."""
    load, few = catalog.load, ["broken", "global_critic", "patch_critic", "unet"]

    def one(kind: str, name: str) -> ModuleType:
        if name == "broken":
            raise ImportError("No module named 'elsewhere'")
        return load(kind, name)

    monkeypatch.setattr(catalog, "members", lambda _: few)
    monkeypatch.setattr(catalog, "load", one)


def test_every_network_has_a_line_for_each_dimension(room: None) -> None:
    rows = networks(time=False)["networks"]
    assert [(row["name"], row["dimensions"]) for row in rows] == [
        (name, nd) for name in ("broken", "global_critic", "patch_critic", "unet") for nd in (2, 3)
    ]
    flat = rows[6]
    assert flat["kind"] == "segmenter"
    assert flat["paper"] == unet.PAPER
    built = unet.build(unet.Config(ndim=2), 3, 2)
    assert flat["parameters"] == sum(p.numel() for p in built.parameters())
    assert flat["gmac"] == pytest.approx(0.58, abs=0.01)
    assert "ms" not in flat
    assert "patch" not in flat, "128 x 128 fits"
    assert all("ImportError" in row["problem"] for row in rows[:2])
    assert all("problem" not in row for row in rows[2:])


def test_lines_can_be_chosen(room: None) -> None:
    rows = networks(time=False, dimensions=3, kind="critic")["networks"]
    assert [(row["name"], row["dimensions"]) for row in rows] == [
        ("global_critic", 3), ("patch_critic", 3)
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="did you mean 'critic'"):
        networks(time=False, kind="crtic")


def test_one_network_comes_with_its_settings_and_its_time(tmp_path: Path) -> None:
    found = networks(name="unet", dimensions=2, device="cpu", out=tmp_path / "unet.json")
    assert found["paper"] == unet.PAPER
    assert found["device"] == "cpu"
    (row,) = found["networks"]
    assert 0 < row["ms"] < 60_000
    settings = {one["setting"]: one for one in found["settings"]}
    assert list(settings) == list(unet.Config.__dataclass_fields__)
    assert settings["width"] == {
        "setting": "width", "default": 16, "meaning": "channels at full resolution"
    }  # fmt: skip
    assert json.loads((tmp_path / "unet.json").read_text()) == json.loads(json.dumps(found))
    with pytest.raises(ConfigError, match="did you mean 'unet'"):
        networks(name="unett")


def test_a_patch_is_enlarged_where_it_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unet, "divisor", lambda _: 48)
    monkeypatch.setattr(catalog, "members", lambda _: ["unet"])
    (row,) = networks(time=False, dimensions=2)["networks"]
    assert row["patch"] == "3x144x144"


def test_monai_is_not_loaded_for_networks_that_do_without(
    room: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "monai", None)  # importing it would fail
    assert all("problem" not in row for row in networks(time=False)["networks"][2:])
