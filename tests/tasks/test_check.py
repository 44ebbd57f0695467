"""A part of the user's own is tried by the rules of its room, and what it breaks is named."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from delineate.cli.main import main
from delineate.conformance import losses, methods, networks
from delineate.conformance._rules import Check, run
from delineate.core import catalog
from delineate.core.errors import ConfigError, ConformanceError
from delineate.methods import classify
from delineate.tasks.check import check
from delineate.tasks.train import train

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
#: What is changed in an example, the rule that this breaks, and what is said of it.
BREAKS = {
    "dilated": [
        ("return 1", "return 2", networks.refuses_a_size_it_cannot_take, r"\(17, 18\) is taken"),
        ("self.head(self.layers(x))", "self.head(self.layers(x))[..., 1:]",
         networks.gives_the_shape_it_promises, r"instead of \(2, 3, 16, 17\)"),
        ("self.head(self.layers(x))", "self.head(self.layers(x).detach())",
         networks.gradient_reaches_every_parameter, r"none reaches layers\.0\.weight"),
        ("return logits", "return logits + torch.rand(1)", networks.the_seed_decides, "each time"),
        ("layers: list", "torch.manual_seed(1)\n        layers: list",
         networks.the_seed_decides, "another seed gives the same"),
        ('"channels of every layer"', '""', networks.has_settings, "width has no help"),
        ("frozen=True", "frozen=False", networks.has_settings, "write frozen=True"),
        ("self.config = config", "print(config)", networks.touches_nothing, r"print\(\), line \d+"),
        ("before = channels\n", "before = 2\n", networks.takes_any_channels_and_outputs, "input"),
        ("self.head(self.layers(x))", "self.tail(x)", networks.gives_the_shape_it_promises,
         r"AttributeError: .*tail.*, line \d+"),
        ("not in (2, 3)", "not in (2, 3, 4)", networks.takes_two_or_three_dimensions, "ndim=4"),
    ],
    "log_cosh_dice": [
        (" * annotated(label, logits)", "", losses.ignored_has_no_say, "the loss changes"),
        ("torch.cosh(1 -", "torch.cosh(0 -", losses.truth_costs_least, "truth"),
        ("1 - dice[1:].mean()", "1 - 2 * dice[1:].mean().detach() + dice[1:].mean()",
         losses.descends, "it goes from"),
        ("1 - dice[1:].mean()", "1 - dice[1:].mean().detach()", losses.gradient_is_finite, "grad"),
        ("config or Config(), logits.float()", "config or Config(), logits.bfloat16()",
         losses.half_precision, "comes out"),
        ("Config(Term)", "Config", losses.keeps_the_contract, "does not add to Term"),
    ],
    "mirrored": [
        ("cross_entropy.loss(logits, batch.label)", "logits.square().mean()",
         methods.ignored_teaches_nothing, "there is one"),
        ("update(optimiser, loss)", "update(optimiser, loss / batch.labelled.sum())",
         methods.nobody_labelled_does_no_harm, "not finite"),
        ("update(optimiser, loss)", "loss.backward()", methods.a_step_updates_and_reports,
         "0 updates of 1"),
        ('"loss": loss.detach()', '"loss": loss', methods.a_step_updates_and_reports, "detach"),
        ('{"segmenter": network}, ', "{}, ", methods.its_plan_is_whole, "not among its modules"),
        ("network.parameters()", "list(network.parameters())[1:]", methods.its_plan_is_whole,
         "1 parameters of the predictor have no optimiser"),
        ('USES = ("labelled",)', 'USES = ("all",)', methods.keeps_the_contract, "USES is"),
        ("loss = supervised", "loss = 1 + 0 * supervised", methods.learns, "from .* to"),
        ("supervised = dice", "vars(config)['n'] = vars(config).get('n', 0) + 1\n"
         "        supervised = config.n * dice", methods.goes_on_bit_exactly, "differs: what must"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", ["dilated", "log_cosh_dice", "mirrored"])
def test_the_examples_pass(name: str) -> None:
    found = check(EXAMPLES / f"{name}.py")
    assert found["room"] == {"dilated": "networks", "mirrored": "methods"}.get(name, "losses")
    assert len(found["rules"]) > 10
    assert all(row["kept"] == "yes" for row in found["rules"])


def changed(folder: Path, name: str, old: str, new: str) -> Path:
    text = (EXAMPLES / f"{name}.py").read_text()
    assert old in text
    file = folder / f"{name}.py"
    file.write_text(text.replace(old, new).replace("from torch", "import torch\nfrom torch", 1))
    return file


@pytest.mark.parametrize(
    ("name", "old", "new", "rule", "got"),
    [pytest.param(name, *one) for name, some in BREAKS.items() for one in some],
)
def test_a_broken_rule_is_found(
    tmp_path: Path, name: str, old: str, new: str, rule: Check, got: str
) -> None:
    file = catalog.named(str(changed(tmp_path, name, old, new)))
    room = catalog.recognise(file)
    module = catalog.load(room, file)
    subjects = catalog.load("conformance", room).subjects(module, file)
    verdicts = list(run([rule], subjects))
    assert any(verdict.fault and re.search(got, verdict.fault) for verdict in verdicts), verdicts


def test_all_that_is_broken_is_said(tmp_path: Path) -> None:
    file = changed(tmp_path, "dilated", "return logits", "return logits.relu() * 0")
    lines: list[str] = []
    with pytest.raises(ConformanceError) as caught:
        check(file, say=lines.append)
    assert caught.value.exit_code == 2
    assert caught.value.where == str(file)
    assert any("Gradient reaches every parameter" in line and "(2D)" in line for line in lines)
    assert f"got {len(lines)} broken" in caught.value.message


def test_a_file_of_no_room_needs_to_be_told_which(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def divisor(config):\n    return 1\n")
    with pytest.raises(ConfigError) as caught:
        check(file)
    assert caught.value.code == "part-room"
    with pytest.raises(ConformanceError, match="got no KIND, PAPER, Config or build"):
        check(file, room="networks")


def test_what_is_no_python_file_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, code in (("mine", "part-file"), ("away.py", "part-missing")):
        with pytest.raises(ConfigError) as caught:
            check(Path(name))
        assert (caught.value.code, caught.value.where) == (code, str(tmp_path / name))


def test_a_loss_is_no_network() -> None:
    with pytest.raises(ConformanceError, match="looks like a loss"):
        check(EXAMPLES / "log_cosh_dice.py", room="networks")


def test_the_exit_code_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(EXAMPLES / "dilated.py"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["room"] == "networks"
    file = tmp_path / "mine.py"
    file.write_text((EXAMPLES / "dilated.py").read_text().replace("frozen=True", ""))
    assert main(["check", str(file), "--quiet"]) == 2
    assert "[conformance]" in capsys.readouterr().err
    file.write_text("def (:\n")
    assert main(["check", str(file), "--quiet"]) == 1
    assert f"{file}:1" in capsys.readouterr().err


def test_a_file_of_the_package_passes_as_it_does_in_its_tests() -> None:
    unet = Path(str(catalog.load("networks", "unet").__file__))
    assert check(unet)["room"] == "networks"


TARGET = '''"""Presence, which a method of its own learns."""

from delineate.targets import NoSettings, presence

Config = NoSettings
PRESENCE = presence.build(NoSettings())


class Own(type(PRESENCE)):
    trains = "namer"
    method = "naming"


def build(config):
    return Own(PRESENCE.question)
'''


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A target of one's own that asks for another kind of model, and the method that trains it."""
    target, method = tmp_path / "mytarget.py", tmp_path / "naming.py"
    target.write_text(TARGET)
    text = Path(str(classify.__file__)).read_text()
    method.write_text(text.replace('TRAINS = ("classifier",)', 'TRAINS = ("namer",)'))
    return target, method


def test_a_method_of_a_kind_of_its_own_is_known_by_its_target(pair: tuple[Path, Path]) -> None:
    target, method = pair
    with pytest.raises(ConformanceError, match=r"TRAINS is \('namer',\), not of .*--part FILE"):
        check(method)
    assert check(method, part=(target,))["room"] == "methods"


@pytest.mark.slow
def test_a_target_is_tried_with_a_method_of_its_own(pair: tuple[Path, Path]) -> None:
    target, method = pair
    with pytest.raises(ConformanceError, match="its method 'naming' is not here"):
        check(target)
    found = check(target, part=(method,))
    assert found["room"] == "targets"
    assert "A run trains, predicts and scores" in found["rules"][-1]["rule"]


def test_training_asks_for_the_method_that_a_target_needs(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="the method 'naming', by which mytarget is learned") as e:
        train(tmp_path, target=catalog.named(str(pair[0])), steps=1, out=tmp_path / "run")
    assert e.value.code == "method-needed"
    assert "--method PATH/naming.py" in str(e.value)
    assert not (tmp_path / "run").exists()
