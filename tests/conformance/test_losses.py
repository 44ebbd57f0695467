"""What every segmentation loss owes the house; see ``delineate.conformance``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric

from delineate.conformance import losses
from delineate.conformance._rules import Check, Subject
from delineate.core import catalog
from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.core.schema import Label, Schema
from delineate.engine.budget import Pace
from delineate.engine.loop import Loop
from delineate.engine.settings import Settings
from delineate.methods import supervised
from delineate.methods._plan import Plan
from delineate.networks import unet

OUTPUTS = losses.OUTPUTS
NAMES = [n for n in catalog.members("losses") if hasattr(catalog.load("losses", n), "KIND")]
SUBJECTS = [
    pytest.param(subject, id=f"{name}-{subject.form}")
    for name in NAMES
    for subject in losses.subjects(catalog.load("losses", name), name)
]


def _id(check: Check) -> str:
    return check.__name__


@pytest.mark.parametrize("check", losses.FILE_CHECKS, ids=_id)
@pytest.mark.parametrize("name", NAMES)
def test_its_file(name: str, check: Check) -> None:
    check(Subject(catalog.load("losses", name), name, ""))


@pytest.mark.parametrize("check", losses.CHECKS, ids=_id)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_it(subject: Subject, check: Check) -> None:
    check(subject)


def test_a_distance_head_survives_a_crash_and_is_not_in_the_model(tmp_path: Path) -> None:
    chosen = {"dice": 1, "cross_entropy": 1, "signed_distance": 0.3, "hausdorff": {"warm_up": 0.3}}
    schema = Schema((Label("a", 1), Label("b", 2)))

    def plan() -> Plan:
        torch.manual_seed(0)
        net = unet.build(unet.Config(ndim=2, width=4, levels=3, deep_supervision=1), 1, OUTPUTS)
        return supervised.build(
            supervised.Config(losses=chosen), net, Context(2, 1, OUTPUTS, schema)
        )

    def batches(step: int, micro: int, split: int) -> Batch:
        label = torch.zeros((2, 16, 16), dtype=torch.uint8)
        label[:, 3:12, 2 + step : 8 + step] = 1
        return Batch(label.float()[:, None], label, (0.7, 1.2))

    def loop(folder: str) -> Loop:
        (tmp_path / folder).mkdir(exist_ok=True)
        fabric = Fabric(accelerator="cpu", devices=1)
        return Loop(
            plan(), batches, Settings(), tmp_path / folder, fabric=fabric, seed=1,
            pace=Pace(6, None),
        )  # fmt: skip

    whole = loop("whole")
    head = whole.plan.stages[0].modules["distance_head"]
    start = {key: tensor.clone() for key, tensor in head.state_dict().items()}
    one = whole.run()
    first = loop("part")
    first.stop = lambda: first.pace.step >= 4
    first.run()
    second = loop("part")
    two = second.run()
    plain = unet.build(unet.Config(ndim=2, width=4, levels=3, deep_supervision=1), 1, OUTPUTS)
    assert list(one.predictor.state_dict()) == list(plain.state_dict())
    for key, tensor in one.predictor.state_dict().items():
        assert torch.equal(tensor, two.predictor.state_dict()[key]), key
    heads = [run.plan.stages[0].modules["distance_head"].state_dict() for run in (whole, second)]
    for key, tensor in heads[0].items():
        assert torch.equal(tensor, heads[1][key]), key
        assert not torch.equal(tensor, start[key]), key
    lines = (tmp_path / "part" / "log.jsonl").read_text().splitlines()
    assert "loss_hausdorff" not in lines[0]
    assert {"loss_signed_distance", "factor_hausdorff"} <= set(json.loads(lines[-1]))
