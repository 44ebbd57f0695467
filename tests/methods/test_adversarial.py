from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from delineate.core import config as settings
from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.core.errors import ConfigError
from delineate.core.schema import Label, Schema
from delineate.methods import adversarial
from delineate.methods._plan import Plan
from delineate.networks import unet
from delineate.networks.global_critic import GlobalCritic
from delineate.networks.patch_critic import Branches, PatchCritic

SCHEMA = Schema((Label("a", 1), Label("b", 2)))
CONTEXT = Context(2, 1, 3, SCHEMA)


def make(deep_supervision: int = 0, **given: Any) -> Plan:
    torch.manual_seed(0)
    net = unet.build(unet.Config(2, 4, 4, deep_supervision=deep_supervision), 1, 3)
    chosen = settings.from_dict({"critic_width": 4, **given}, adversarial.Config)
    return adversarial.build(chosen, net.train(), CONTEXT)


#: What the papers and S1 say, in the words of the settings.
PRINTED: dict[str, dict[str, Any]] = {
    "stable": {
        "sees": "joined", "critic": "patch", "spectral_norm": True, "game": "hinge",
        "r1_weight": 1.0, "r1_every": 8, "expert": "smoothed", "noise": 0.1, "weight": 0.02,
        "warm_up": 0.2, "ramp": 0.2, "gradient_cap": 0.1, "critic_momentum": 0.5,
        "losses": {"dice": 1.0, "cross_entropy": 1.0},
    },
    "literal": {
        "sees": "mask", "critic": "global", "game": "nonsaturating", "losses": {"class_bce": 1.0},
        "learning_rate": 1e-4, "critic_rate": 1e-4, "weight_decay": 0.0, "critic_norm": "batch",
    },
    "luc": {
        "sees": "branches", "game": "nonsaturating", "losses": {"cross_entropy": 1.0},
        "weight": 1.0, "expert": "one_hot",
    },
    "pix2pix": {
        "sees": "joined", "critic": "patch", "wide_field": True, "critic_layers": 3,
        "losses": {"class_l1": 100.0}, "weight": 1.0, "critic_rate": 2e-4, "critic_momentum": 0.5,
        "learning_rate": 2e-4, "momentum": 0.5,
    },
    "scan": {
        "sees": "mask", "critic": "global", "losses": {"cross_entropy": 1.0}, "weight": 0.01,
    },
}  # fmt: skip


@pytest.mark.parametrize("preset", PRINTED)
def test_a_preset_says_what_its_paper_says(preset: str) -> None:
    chosen = settings.to_dict(settings.from_dict({"preset": preset}, adversarial.Config))
    chosen["losses"] = {name: term["weight"] for name, term in chosen["losses"].items()}
    assert {key: chosen[key] for key in PRINTED[preset]} == PRINTED[preset]
    if preset != "stable":  # none of the later precautions
        plain = {"warm_up": 0, "ramp": 0, "gradient_cap": 0, "r1_weight": 0, "noise": 0}
        assert {key: chosen[key] for key in plain} == plain
        assert (chosen["views"], chosen["gate"]) == (False, [0, 1])


def test_presets_are_told_apart_by_their_table_alone() -> None:
    assert set(PRINTED) == set(adversarial.PRESETS)
    plain = settings.to_dict(adversarial.Config())
    for changes in adversarial.PRESETS.values():
        assert set(changes) <= set(plain), "a preset sets settings and nothing else"


@pytest.mark.parametrize("preset", PRINTED)
def test_what_the_user_gives_wins_over_the_preset(preset: str) -> None:
    plan = make(preset=preset, learning_rate=3e-3, critic_rate=5e-3, critic_momentum=0.25)
    optimisers = plan.stages[0].optimisers
    assert optimisers["segmenter"].param_groups[0]["lr"] == 3e-3
    assert optimisers["critic"].param_groups[0]["lr"] == 5e-3
    assert optimisers["critic"].param_groups[0]["betas"] == (0.25, 0.999)
    plan = make(preset=preset)
    chosen = settings.from_dict({"preset": preset}, adversarial.Config)
    group = plan.stages[0].optimisers["segmenter"].param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (chosen.learning_rate, chosen.weight_decay)
    assert group["betas"][0] == chosen.momentum


def test_each_preset_gets_its_kind_of_critic() -> None:
    critics = {preset: make(preset=preset).stages[0].modules["critic"] for preset in PRINTED}
    for preset in ("literal", "scan"):
        critic = critics[preset]
        assert isinstance(critic, GlobalCritic)
        assert critic(torch.rand(2, 3, 32, 32)).shape == (2, 1)  # the mask alone
    for preset in ("stable", "luc", "pix2pix"):
        critic = critics[preset]
        assert isinstance(critic, PatchCritic)
        assert critic(torch.rand(2, 4, 32, 32)).ndim == 4  # image and mask
    assert isinstance(critics["luc"].layers[0], Branches)  # type: ignore[index]
    keys = critics["pix2pix"].state_dict()
    assert not any("parametrizations" in key for key in keys)
    assert any("parametrizations" in key for key in critics["stable"].state_dict())


@pytest.mark.parametrize("preset", PRINTED)
def test_a_segmenter_of_deep_supervision_can_play_too(
    preset: str, squares: Batch, engine: Callable[..., Any]
) -> None:
    step = make(deep_supervision=2, preset=preset).stages[0].step
    assert torch.isfinite(step(squares, engine())["loss"])


@pytest.mark.parametrize("variant", [{"sees": "product"}, {"expert": "scaled"}])
def test_the_other_inputs_of_luc_play_as_well(
    variant: dict[str, str], squares: Batch, engine: Callable[..., Any]
) -> None:
    said = make(preset="luc", **variant).stages[0].step(squares, engine())
    assert torch.isfinite(said["d_loss"])
    assert said["grad_ratio"] > 0


def test_the_adversary_waits_for_the_end_of_the_warm_up(
    squares: Batch, engine: Callable[..., Any]
) -> None:
    step = make().stages[0].step
    early, late = (step(squares, engine(progress)) for progress in (0.1, 0.9))
    assert early["adversarial_weight"] == 0
    assert late["adversarial_weight"].item() == pytest.approx(0.02)
    assert late["grad_ratio"] > 0


def test_losses_are_chosen_as_in_supervised_training(
    squares: Batch, engine: Callable[..., Any]
) -> None:
    said = make(losses={"focal": 2.0, "tversky": 1.0}).stages[0].step(squares, engine())
    assert {"loss_focal", "loss_tversky"} <= set(said)
    with pytest.raises(ConfigError):
        make(losses={"focul": 1.0})


def test_swapped_labels_raise_the_score_of_guesses(
    squares: Batch, engine: Callable[..., Any]
) -> None:
    """A4: the printed discriminator loss teaches the critic to call guesses real."""
    gaps = {}
    for swapped in (False, True):
        plan = make(preset="literal", swapped_labels=swapped, critic_rate=2e-3)
        rival = (plan.stages[0].optimisers["critic"],)
        for _ in range(15):
            said = plan.stages[0].step(squares, engine(moves=rival))
        gaps[swapped] = (said["d_real"] - said["d_fake"]).item()
    assert gaps[False] > 0 > gaps[True]


def test_a_preset_keeps_what_its_critic_sees() -> None:
    found = {preset: make(preset=preset).keeps["critic"] for preset in PRINTED}
    assert {preset: (part.network, part.channels) for preset, part in found.items()} == {
        "stable": ("patch_critic", 4), "luc": ("patch_critic", 4), "pix2pix": ("patch_critic", 4),
        "literal": ("global_critic", 3), "scan": ("global_critic", 3),
    }  # fmt: skip
    assert found["luc"].sees.sees == "branches"
    # the only one whose segmenter is trained class by class
    assert [p for p, part in found.items() if part.sees.activation == "sigmoid"] == ["literal"]


def test_a_critic_can_be_left_out_of_the_model() -> None:
    assert make(keep_critic=False).keeps == {}
