"""Parts of the user's own: found where the user says, refused with file and line, never guessed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from delineate.core import catalog, config
from delineate.core.errors import ConfigError, ModelFileError
from delineate.methods import supervised
from delineate.settings import RunConfig

NETWORK = '''"""``(B, C, *S) -> (B, outputs, *S)``."""
from dataclasses import dataclass, field
from torch import nn
PAPER = "ours, 2026"
KIND = "segmenter"
@dataclass(frozen=True)
class Config:
    ndim: int = field(default=3, metadata={"help": "dimensions"})
def divisor(config):
    return 1
def build(config, channels, outputs):
    return (nn.Conv3d if config.ndim == 3 else nn.Conv2d)(channels, outputs, 1)
'''
LOSS = '''"""Nothing."""
from dataclasses import dataclass
from delineate.losses import Term
KIND = "output"
@dataclass(frozen=True)
class Config(Term):
    pass
def loss(logits, label, config=None, spacing_mm=None):
    return logits.sum() * 0
'''


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def refused(path: Path, text: str, room: str = "networks") -> ConfigError:
    write(path, text)
    with pytest.raises(ConfigError) as caught:
        catalog.load(room, catalog.named(str(path)))
    return caught.value


def test_a_path_of_the_command_line_starts_at_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "mynet.py", NETWORK)
    monkeypatch.chdir(tmp_path)
    for word in ("./mynet.py", "mynet.py", str(tmp_path / "mynet.py")):
        name = catalog.named(word)
        assert name == str(tmp_path / "mynet.py")
        assert catalog.title(name) == "mynet"
        assert catalog.load("networks", name).KIND == "segmenter"


def test_a_name_stays_a_name() -> None:
    assert catalog.named("unet") == "unet"
    assert catalog.origin("networks", "unet") == {}


def test_a_loss_in_a_file_of_settings_starts_at_that_file(tmp_path: Path) -> None:
    write(tmp_path / "parts" / "myloss.py", LOSS)
    file = write(tmp_path / "settings.yaml", "losses:\n  dice: 1\n  parts/myloss.py: {weight: 2}\n")
    losses = config.load(file, supervised.Config).losses
    name = str(tmp_path / "parts" / "myloss.py")
    assert list(losses) == ["dice", name]
    assert losses[name].weight == 2
    assert json.loads(json.dumps(catalog.titled(config.to_dict(supervised.Config(losses)))))[
        "losses"
    ].keys() == {"dice", "myloss"}


def test_a_missing_file_is_said_with_the_line_that_names_it(tmp_path: Path) -> None:
    file = write(tmp_path / "settings.yaml", "losses:\n  dice: 1\n  myloss.py: 1\n")
    with pytest.raises(ConfigError) as caught:
        config.load(file, supervised.Config)
    assert caught.value.code == "part-missing"
    assert caught.value.where == f"{file}:3"
    assert str(tmp_path / "myloss.py") in caught.value.message
    write(tmp_path / "myloss.py", LOSS + "def (:\n")
    with pytest.raises(ConfigError) as caught:
        config.load(file, supervised.Config)
    assert (caught.value.code, caught.value.where) == (
        "part-syntax",
        f"{tmp_path / 'myloss.py'}:10",
    )


def test_a_fault_in_the_file_is_told_with_its_line(tmp_path: Path) -> None:
    syntax = refused(tmp_path / "a.py", NETWORK + "def (:\n")
    assert (syntax.code, syntax.where) == ("part-syntax", f"{tmp_path / 'a.py'}:13")
    absent = refused(tmp_path / "b.py", NETWORK + "import helpers_of_mine\n")
    assert (absent.code, absent.where) == ("part-import", f"{tmp_path / 'b.py'}:13")
    assert "helpers_of_mine" in absent.message
    assert "into this one file" in str(absent.fix)
    ended = refused(tmp_path / "c.py", "import sys\nsys.exit(3)\n")
    assert (ended.code, ended.where) == ("part-import", f"{tmp_path / 'c.py'}:2")


def test_what_a_file_lacks_is_named_with_what_to_write(tmp_path: Path) -> None:
    error = refused(tmp_path / "a.py", NETWORK.replace("def divisor", "def divides"))
    assert error.code == "part-incomplete"
    assert error.message.endswith("got no divisor")
    assert "divisor(config) -> int" in str(error.fix)
    plain = refused(tmp_path / "b.py", NETWORK.replace("@dataclass(frozen=True)", ""))
    assert plain.code == "part-incomplete"
    assert "@dataclass(frozen=True)" in str(plain.fix)


def test_a_part_of_another_room_is_refused_and_the_room_named(tmp_path: Path) -> None:
    error = refused(tmp_path / "a.py", LOSS)
    assert error.code == "part-room"
    assert "expected a network, got a file that looks like a loss" in error.message
    assert "losses: {a.py: 1}" in str(error.fix)
    assert refused(tmp_path / "b.py", NETWORK, "losses").code == "part-room"


@pytest.mark.parametrize("name", ["my.net.py", "1net.py"])
def test_a_file_that_cannot_name_a_part_is_refused(tmp_path: Path, name: str) -> None:
    assert refused(tmp_path / name, NETWORK).code == "part-file"


def test_what_nobody_named_does_not_run(tmp_path: Path) -> None:
    file = write(tmp_path / "evil.py", f"open({str(tmp_path / 'ran')!r}, 'w').close()\n{NETWORK}")
    for name in (str(file), "./evil.py"):
        with pytest.raises(ConfigError) as caught:
            catalog.load("networks", name)
        assert caught.value.code == "part-not-named"
    assert not (tmp_path / "ran").exists()


def test_plain_data_name_no_code(tmp_path: Path) -> None:
    """Only a file of settings does, which the user gives; documents of models are plain data."""
    file = write(tmp_path / "evil.py", f"open({str(tmp_path / 'ran')!r}, 'w').close()\n{NETWORK}")
    chosen = config.from_dict({"network": str(file), "target": str(file)}, RunConfig)
    text = f"network: {file}\nmethod_settings: {{losses: {{{file}: 1}}}}\n"
    for one in (chosen, config.load(text, RunConfig)):
        with pytest.raises(ConfigError) as caught:
            catalog.load("networks", one.network)
        assert caught.value.code == "part-not-named"
    assert not (tmp_path / "ran").exists()
    write(tmp_path / "settings.yaml", text)
    catalog.load("networks", config.load(tmp_path / "settings.yaml", RunConfig).network)
    assert (tmp_path / "ran").exists()


def test_a_file_named_anew_is_read_anew_and_else_stays_what_it_was(tmp_path: Path) -> None:
    file = write(tmp_path / "mynet.py", NETWORK)
    name = catalog.named(str(file))
    before = catalog.origin("networks", name)
    write(file, NETWORK.replace("ours, 2026", "mine, 2026"))  # as long, within a second
    assert catalog.load("networks", name).PAPER == "ours, 2026", "not two texts in one run"
    assert catalog.origin("networks", name) == before
    assert catalog.load("networks", catalog.named(str(file))).PAPER == "mine, 2026"
    assert catalog.origin("networks", name) != before
    assert not list(tmp_path.glob("__pycache__"))


def test_an_error_in_the_file_is_its_own_and_no_bug_of_delineate(tmp_path: Path) -> None:
    file = write(tmp_path / "mynet.py", NETWORK + "def fall():\n    return 1 / 0\n")
    module = catalog.load("networks", catalog.named(str(file)))
    with pytest.raises(ZeroDivisionError) as caught:
        module.fall()
    fault = catalog.fault(caught.value)
    assert fault is not None
    assert (fault.code, fault.where) == ("part-fault", f"{file}:14")
    assert catalog.fault(ValueError("elsewhere")) is None


# --- entry points ---------------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path: Path, install: Callable[[Path, dict[str, str], str], None]) -> Path:
    """A package that offers two networks, one under a name of Delineate's own."""
    module = write(tmp_path / "lab_nets" / "labnet.py", NETWORK)
    points = {"labnet": "lab_nets.labnet", "unet": "lab_nets.labnet", "broken": "lab_nets.nowhere"}
    install(tmp_path / "lab_nets", points, "networks")
    return module


def test_an_installed_package_adds_networks_and_takes_none_away(installed: Path) -> None:
    assert {"labnet", "unet", "broken"} <= set(catalog.members("networks"))
    assert catalog.load("networks", "labnet").PAPER == "ours, 2026"
    assert catalog.load("networks", "unet").__name__ == "delineate.networks.unet"
    (line,) = catalog.shadowed("networks")
    assert "lab-nets 1.2" in line
    file = catalog.origin("networks", "labnet")["file"]
    assert file["package"] == "lab-nets 1.2"
    entry = {"name": "labnet", "file": file}
    assert catalog.stored("networks", entry).PAPER == "ours, 2026"
    with pytest.raises(ConfigError) as caught:
        catalog.load("networks", "broken")
    assert caught.value.code == "part-import"
    assert caught.value.where == "entry point broken of lab-nets 1.2"


def test_a_model_of_an_installed_network_wants_the_code_of_its_training(installed: Path) -> None:
    entry = {"name": "labnet", "file": {"sha256": "0" * 64, "package": "lab-nets 1.1"}}
    with pytest.raises(ModelFileError) as caught:
        catalog.stored("networks", entry)
    assert caught.value.code == "part-differs"
    assert "lab-nets 1.1" in caught.value.message


# --- what model files say -------------------------------------------------------------------------


def test_a_model_file_names_code_by_hash_and_never_by_path(tmp_path: Path) -> None:
    file = write(tmp_path / "evil.py", f"open({str(tmp_path / 'ran')!r}, 'w').close()\n{NETWORK}")
    entries = [
        {"name": str(file)},
        {"name": "evil.py"},
        {"name": "../evil"},
        {"name": str(file), "file": {"sha256": "0" * 64}},
        {"name": "evil", "file": {"sha256": str(file), "path": str(file), "package": str(file)}},
        {"name": "evil", "file": str(file)},
    ]
    for entry in entries:
        with pytest.raises(ModelFileError) as caught:
            catalog.stored("networks", entry)
        assert caught.value.code in ("part-needed", "model-file-network")
    assert not (tmp_path / "ran").exists()


def test_changed_code_takes_the_place_of_that_of_the_training_only_by_force(
    tmp_path: Path,
) -> None:
    file = write(tmp_path / "mynet.py", NETWORK)
    name = catalog.named(str(file))
    entry = {"name": "mynet", **catalog.origin("networks", name)}
    assert catalog.force("networks", entry) is None
    write(file, NETWORK + "# changed\n")
    catalog.named(str(file))
    with pytest.raises(ModelFileError) as caught:
        catalog.stored("networks", entry)
    assert caught.value.code == "part-differs"
    assert str(file) in caught.value.message
    assert str(file) in str(catalog.force("networks", entry))
    assert catalog.stored("networks", entry) is catalog.load("networks", name)


def test_the_catalog_brings_no_torch() -> None:
    code = "import sys; from delineate.core import catalog; catalog.members('networks'); "
    code += "catalog.named('./a.py'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
