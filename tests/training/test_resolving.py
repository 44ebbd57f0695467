"""Settings: what is told before any work, what a run writes down, and that it can be done again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delineate.comparing import suites
from delineate.core import catalog, model_file
from delineate.core import config as settings
from delineate.core.errors import ConfigError
from delineate.methods import _game
from delineate.phantoms.generate import generate
from delineate.settings import RunConfig
from delineate.tasks.train import train

TINY = "width: 4\npatch: [16, 16, 16]\nbatch: 2\n"


@pytest.fixture(scope="module")
def brains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "scans"
    return generate(folder, 6, 6.0, seed=3, anatomy="ellipsoid", controls=0.0, twins=0.0)


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "slices"
    return generate(
        folder, 6, 6.0, seed=1, anatomy="ellipsoid", layout="kaggle", controls=0.0, twins=0.0
    )


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


# --------------------------------------------------------------------- told before any work

MISSPELT = [
    ("method_settings:\n  learning_rat: 1", "run.yaml:2: method_settings.learning_rat:", "rate"),
    ("method_settings: {losses: {dise: 1}}", "run.yaml:1: method_settings.losses.dise:", "dice"),
    (
        "method_settings:\n  losses:\n    focal:\n      gama: 1\n",
        "run.yaml:4: method_settings.losses.focal.gama:",
        "'gamma'",
    ),
    ("method: adversarial\nmethod_settings:\n  preset: litteral", "run.yaml:3:", "'literal'"),
    ("method: gan_features\nmethod_settings:\n  taumm: 3", "run.yaml:3:", "'tau_mm'"),
    ("network_settings:\n  widht: 8", "run.yaml:2: network_settings.widht:", "'width'"),
    ("network: vnet\nnetwork_settings:\n  width: '8'", "run.yaml:3: network_settings.width:", ""),
    ("network: unet\nnetwork_settings:\n  norm: batsch", "run.yaml:3: network_settings.norm:", ""),
    ("network_settings:\n  width: -1", "run.yaml:2: network_settings.width:", ""),
    ("loop:\n  ema_: 1", "run.yaml:2: loop.ema_:", "'ema'"),
    ("loop:\n  ema: 2", "run.yaml:2: loop.ema:", ""),
    ("loop:\n  warm_up: 2", "run.yaml:2: loop.warm_up: expected a warm_up from 0 to 1", ""),
    ("loop: {validations: -1}", "run.yaml:1: loop.validations:", ""),
    ("opening:\n  layot: bids", "run.yaml:2: opening.layot:", "'layout'"),
    ("seed: 1\nmethod: supervized", "run.yaml:2: method:", "'supervised'"),
    ("seed: 1\nnetwork: unett", "run.yaml:2: network:", "'unet'"),
    ("target: class\nmethod: supervised", "run.yaml:2: method: expected a method that trains", ""),
    ("target: class\nnetwork: unet", "run.yaml:2: network: expected a classifier, got", ""),
    ("method: layerwise\nnetwork: cnn", "run.yaml:2: network: expected 'dbn'", "dbn"),
    ("seed: 1\nbatch: 0", "run.yaml:2: batch: expected batch of 1 or more", ""),
    ("seed: 1\nbudget: soon", "run.yaml:2: budget: expected a duration", ""),
    ("patch: [16, 0]\nseed: 1", "run.yaml:1: patch: expected a patch of 2 or 3 sizes", ""),
    ("method_settings:\n  learning_rate: -1", "run.yaml:2: method_settings.learning_rate:", ""),
    (
        "method: adversarial\nmethod_settings:\n  losses: {signed_distance: 1, dice: 1}",
        "run.yaml:3: method_settings.losses: expected losses that look at the logits",
        "",
    ),
]


@pytest.mark.parametrize(("text", "message", "fix"), MISSPELT)
def test_a_wrong_setting_is_told_before_the_data_are_opened(
    text: str, message: str, fix: str, tmp_path: Path
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        train(tmp_path / "no such folder", config=path, steps=1, out=tmp_path / "run")
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value.where)
    assert fix in (caught.value.fix or "")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patch: [16, 16]", "expected a patch of 3 sizes"),
        ("network: film_unet\nmethod: vae_features\nnetwork_settings: {first: [9]}", "9"),
        ("network: segnet\nnetwork_settings: {levels: 40}", "levels"),
    ],
)
def test_what_cannot_be_built_is_told_before_cases_are_prepared(
    text: str, message: str, brains: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(brains, config=write(tmp_path, text), steps=1, out=tmp_path / "run", audit=False)
    assert not list((tmp_path / "run").glob("cache/*/case.json"))


@pytest.mark.parametrize(
    ("arm", "line"),
    [
        ("settings: {method_settings: {learning_rat: 1}}", "settings.method_settings.learning_rat"),
        ("settings: {network_settings: {widht: 1}}", "settings.network_settings.widht"),
        ("settings: {loop: {emma: 1}}", "settings.loop.emma"),
        ("settings: {validatoin: 0.1}", "settings.validatoin"),
        ("settings: {method_settings: {losses: {focal: {gama: 1}}}}", "losses.focal.gama"),
        ("method: supervized", "method"),
        ("settings: {seed: 3}", "settings.seed"),
    ],
)
def test_a_wrong_setting_of_an_arm_is_told_with_the_line_in_the_suite(
    arm: str, line: str, tmp_path: Path
) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(
        "title: t\nquestion: q\nmetrics: [dice]\narms:\n- {name: fine, network: unet}\n"
        f"- name: wrong\n  network: unet\n  {arm}\n"
    )
    with pytest.raises(ConfigError) as caught:
        suites.load(str(path))
    assert f"{path}:8: arms[1]." in str(caught.value)
    assert line in str(caught.value)


def test_metrics_and_arms_that_are_named_have_lines(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    start = "title: t\nquestion: q\narms: [{name: fine, network: unet}]\n"
    for line in ("metrics: [dise]", "metrics: [dice]\nreference: fin"):
        path.write_text(start + line)
        with pytest.raises(ConfigError) as caught:
            suites.load(str(path))
        assert f"{path}:{4 + line.count(chr(10))}: " in str(caught.value)
        assert "did you mean" in str(caught.value.fix)


def test_settings_of_all_arms_of_a_suite_have_lines_too(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(
        "title: t\nquestion: q\nmetrics: [dice]\narms:\n- {name: fine, network: unet}\n"
        "settings:\n  method_settings:\n    learning_rat: 1\n"
    )
    with pytest.raises(ConfigError, match="learning_rat") as caught:
        suites.load(str(path))
    assert f"{path}:8: settings.method_settings" in str(caught.value)


@pytest.mark.parametrize("name", suites.names())
def test_the_suites_that_come_along_are_sound(name: str) -> None:
    suites.load(name)


# ------------------------------------------------------------------ written down, done again


def weights(run: Path) -> dict[str, Any]:
    return model_file.load(run / "model.safetensors").tensors


def config_of(run: Path) -> RunConfig:
    return settings.load(run / "config.yaml", RunConfig)


def test_a_run_writes_every_setting_to_the_last_field(brains: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    path = write(tmp_path, TINY + "method: adversarial\nmethod_settings: {preset: luc}\n")
    train(brains, config=path, steps=2, holdout=0.0, out=out, audit=False)
    found = config_of(out)
    assert (found.steps, found.budget, found.device) == (2, None, "cpu")
    open_still = {"opening", "weights", "budget", "folds"}
    left = {k for k, v in settings.to_dict(found).items() if v in (None, "auto")}
    assert left <= open_still, "nothing that decides the run is left open"
    method = settings.from_dict({"preset": "luc"}, catalog.load("methods", "adversarial").Config)
    written = settings.from_dict(found.method_settings, type(method))
    assert written == method.complete(3)
    assert written.critic_layers == 2
    network = catalog.load("networks", "unet").Config
    assert set(found.network_settings) == set(settings.to_dict(network()))
    document = model_file.load(out / "model.safetensors").document
    assert document["config"]["method_settings"] == settings.to_dict(written)
    assert document["config"]["network_settings"] == document["network"]["config"]
    assert "preset: luc" in (out / "asked.yaml").read_text()
    assert "# weight of" not in (out / "asked.yaml").read_text()
    assert (
        "# peak" in (out / "config.yaml").read_text()
        or "peak (AdamW)" in (out / "config.yaml").read_text()
    ), "with the help of every setting"


METHODS = [
    "supervised",
    "adversarial",
    "classify",
    *(pytest.param(m, marks=pytest.mark.slow) for m in ("segan", "cpgan", "deep_features")),
    *(pytest.param(m, marks=pytest.mark.slow) for m in ("layerwise", "gan_features")),
    *(pytest.param(m, marks=pytest.mark.slow) for m in ("unimatch", "sassnet")),
]


@pytest.mark.parametrize("method", METHODS)
def test_the_settings_of_a_run_give_the_same_weights_to_the_byte(
    method: str, brains: Path, slices: Path, tmp_path: Path
) -> None:
    classes = method in ("classify", "deep_features", "layerwise")
    data = slices if classes else brains
    small = "width: 4\nbatch: 4\nholdout: 0.0\nvalidation: 0.0\nmethod: " + method + "\n"
    small += "target: presence\npatch: [16, 16]\n" if classes else "patch: [16, 16, 16]\n"
    small += {"adversarial": "method_settings: {preset: luc, losses: {focal: 2}}\n"}.get(method, "")
    steps = 10 if method == "deep_features" else 4  # some train, some collect
    train(data, config=write(tmp_path, small), steps=steps, seed=5, out=tmp_path / "a", audit=False)
    again = tmp_path / "b"
    train(data, config=tmp_path / "a" / "config.yaml", out=again, audit=False)
    first, second = weights(tmp_path / "a"), weights(again)
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert (again / "config.yaml").read_text() == (tmp_path / "a" / "config.yaml").read_text()


@pytest.mark.slow
def test_a_run_on_a_budget_is_done_again_by_its_steps(brains: Path, tmp_path: Path) -> None:
    path = write(tmp_path, TINY + "holdout: 0.0\nvalidation: 0.0\n")
    record = train(brains, config=path, budget="30s", out=tmp_path / "a", audit=False)
    found = config_of(tmp_path / "a")
    assert (found.steps, found.budget) == (record["steps"], None)
    assert "it kept to 30s" in (tmp_path / "a" / "config.yaml").read_text()
    few = {"config": tmp_path / "a" / "config.yaml", "steps": 3, "audit": False}
    again = [train(brains, out=tmp_path / name, **few)["plan"] for name in "bc"]
    for name in ("network", "width", "patch", "batch", "neighbours", "parameters"):
        assert again[0][name] == record["plan"][name]
    first, second = weights(tmp_path / "b"), weights(tmp_path / "c")
    assert all(np.array_equal(first[name], second[name]) for name in first)


# -------------------------------------------------------------------- a file, and options


def test_options_win_over_the_settings_of_a_run(brains: Path, tmp_path: Path) -> None:
    path = write(tmp_path, TINY + "holdout: 0.0\nvalidation: 0.0\n")
    train(brains, config=path, steps=2, out=tmp_path / "a", audit=False)
    whole, said = tmp_path / "a" / "config.yaml", list[str]()
    train(
        brains, config=whole, network="vnet", steps=1, seed=7, out=tmp_path / "b", audit=False,
        say=said.append,
    )  # fmt: skip
    found = config_of(tmp_path / "b")
    assert (found.network, found.steps, found.seed, found.width) == ("vnet", 1, 7, 4)
    assert any("network_settings of unet are left out" in line for line in said)
    with pytest.raises(ConfigError, match="target: expected settings for the target class") as at:
        train(brains, config=whole, target="class", out=tmp_path / "c")
    assert f"{whole}:" in str(at.value.where)
    with pytest.raises(ConfigError, match="a budget or a number of steps"):
        train(brains, config=whole, budget="1m", steps=3, out=tmp_path / "d")


def test_a_budget_wins_over_the_steps_of_a_run() -> None:
    from delineate.data.opening import Opening
    from delineate.training import resolving

    given = {"budget": "90s", "steps": None}
    chosen, _ = resolving.read(None, given, Opening("bids"))
    assert (chosen.seconds, chosen.opening.layout) == (90.0, "bids")


def test_the_rules_of_critics_are_made_definite() -> None:
    assert [_game.Rules().complete(n).critic_layers for n in (2, 3)] == [3, 2]
    assert _game.Rules(critic_layers=5).complete(2).critic_layers == 5
    assert json.dumps(settings.to_dict(_game.Rules()))


def test_a_setting_of_a_part_at_the_top_is_told_where_such_settings_go(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("steps: 5\nlearning_rate: 0.01\n")
    with pytest.raises(ConfigError) as caught:
        train(tmp_path, config=file, out=tmp_path / "run")
    assert "expected a setting of a run" in caught.value.message
    assert caught.value.where == f"{file}:2"
    assert "below target_settings, method_settings or network_settings" in str(caught.value.fix)
