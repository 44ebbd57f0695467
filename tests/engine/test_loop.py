"""The engine's contract, on a toy problem that trains in milliseconds a step."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric

from delineate.core.case import Batch
from delineate.core.config import from_dict
from delineate.core.context import Context
from delineate.core.errors import CheckpointError, ConfigError, OutputError, TrainingError
from delineate.core.schema import Label, Schema
from delineate.engine import checkpoint, log
from delineate.engine.budget import Candidate, Pace, choose
from delineate.engine.loop import Loop, Settings
from delineate.methods import adversarial, supervised
from delineate.methods._plan import Plan, Stage
from delineate.networks import unet
from delineate.training import devices

SCHEMA = Schema((Label("a", 1), Label("b", 2)))
CONTEXT = Context(2, 1, 3, SCHEMA)


def batches(step: int, micro: int, split: int) -> Batch:
    generator = torch.Generator().manual_seed(step * 100 + micro)
    label = torch.randint(0, 3, (2, 16, 16), generator=generator).byte()
    image = label[:, None].float() + 0.3 * torch.randn((2, 1, 16, 16), generator=generator)
    return Batch(image, label)


def blobs(step: int, micro: int, split: int) -> Batch:
    """Eight larger images with a square each: batch norm needs something to take a mean of."""
    generator = torch.Generator().manual_seed(step)
    label = torch.zeros((8, 64, 64), dtype=torch.uint8)
    for case, (i, j) in zip(label, torch.randint(8, 32, (8, 2), generator=generator), strict=True):
        case[i : i + 20, j : j + 20] = 1
        case[i + 5 : i + 12, j + 5 : j + 12] = 2
    return Batch(label[:, None].float(), label)


def make(method: str) -> Plan:
    torch.manual_seed(3)
    net = unet.build(unet.Config(ndim=2, width=4, levels=3, dropout=0.2), 1, 3)
    if method == "adversarial":
        config = adversarial.Config(critic_width=4, warm_up=0.1, ramp=0.1)
        return adversarial.build(config, net, CONTEXT)
    return supervised.build(supervised.Config(), net, CONTEXT)


def loop(plan: Plan, folder: Path, steps: int, precision: str = "32-true", **changes) -> Loop:
    return Loop(
        plan,
        changes.pop("batches", batches),
        Settings(**changes.pop("settings", {})),
        folder,
        fabric=Fabric(accelerator="cpu", devices=1, precision=precision),
        seed=1,
        pace=Pace(steps, None),
        **changes,
    )


def weights(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@pytest.mark.parametrize("method", ["supervised", "adversarial"])
@pytest.mark.parametrize("at", [1, 4, 7])
def test_a_stopped_run_goes_on_bit_exactly(tmp_path: Path, method: str, at: int) -> None:
    whole = loop(make(method), tmp_path / "whole", 8).run()
    part = make(method)
    first = loop(part, tmp_path / "part", 8)
    first.stop = lambda: first.pace.step >= at
    assert first.run().status == "interrupted"
    second = loop(make(method), tmp_path / "part", 8).run()
    assert second.status == "finished"
    assert torch.equal(weights(whole.predictor), weights(second.predictor))
    lines = [json.loads(x) for x in (tmp_path / "part" / "log.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines] == list(range(1, 9))
    ours = [json.loads(x) for x in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert [x["loss"] for x in ours] == [x["loss"] for x in lines]


def test_with_channels_last_a_stopped_run_goes_on_bit_exactly_too(tmp_path: Path) -> None:
    """Fused steps do not look at the order of memory: averages must have that of the weights."""

    def plan() -> Plan:
        made = make("supervised")
        devices.place(made, Fabric(accelerator="cpu", devices=1, precision="bf16-mixed"))
        return made

    first = loop(plan(), tmp_path / "part", 6, "bf16-mixed")
    first.stop = lambda: first.pace.step >= 3
    first.run()
    second = loop(plan(), tmp_path / "part", 6, "bf16-mixed").run()
    whole = loop(plan(), tmp_path / "whole", 6, "bf16-mixed").run()
    assert any(not p.is_contiguous() for p in whole.predictor.parameters())
    assert torch.equal(weights(whole.predictor), weights(second.predictor))


def test_a_part_that_diverged_does_not_cost_the_model(tmp_path: Path) -> None:
    plan = make("adversarial")
    run = loop(plan, tmp_path, 3)
    step = run._step

    def diverge() -> dict[str, float]:
        numbers = step()
        if run.pace.step == 2:
            with torch.no_grad():
                next(plan.keeps["critic"].module.parameters()).fill_(float("nan"))
        return numbers

    run._step = diverge  # type: ignore[method-assign]
    outcome = run.run()
    assert outcome.keeps == {}
    assert "critic: weights not finite, it is not in the model" in outcome.events
    assert torch.isfinite(weights(outcome.predictor)).all()


KILLED = """
    import sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[2])
    import test_loop as t
    run = t.loop(t.make("adversarial"), Path(sys.argv[1]), 40,
                 settings={"checkpoint_seconds": 0.0})
    run.run()
    print("finished", flush=True)
"""


@pytest.mark.parametrize("delay", [0.05, 0.3])
def test_kill_nine_while_checkpointing_loses_nothing(tmp_path: Path, delay: float) -> None:
    whole = loop(make("adversarial"), tmp_path / "whole", 40).run()
    folder = tmp_path / "killed"
    source = Path(__file__).parents[2] / "src"
    command = [
        sys.executable,
        "-c",
        textwrap.dedent(KILLED),
        str(folder),
        str(Path(__file__).parent),
    ]
    child = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
    )  # fmt: skip
    while not list(folder.glob("checkpoints/step-*2.safetensors")) and child.poll() is None:
        pass
    try:
        child.wait(delay)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGKILL)
    child.communicate()
    resumed = loop(make("adversarial"), folder, 40).run()
    assert torch.allclose(weights(whole.predictor), weights(resumed.predictor), atol=1e-6)
    assert not list(folder.glob("checkpoints/.tmp-*"))
    assert len(list(folder.glob("checkpoints/step-*.safetensors"))) == 2


@pytest.mark.slow
def test_the_swapped_loss_of_the_printed_paper_inverts_the_critic(tmp_path: Path) -> None:
    """S1's A4: trained as printed, the critic learns to call predicted masks real."""
    margin = {}
    for swapped in (False, True):
        torch.manual_seed(0)
        net = unet.build(unet.Config(ndim=2, width=4, levels=3), 1, 3)
        config = from_dict({"preset": "literal", "swapped_labels": swapped}, adversarial.Config)
        plan = adversarial.build(config, net, CONTEXT)
        rates = {"segmenter": 0.0, "critic": 1e-3}  # the segmenter holds still to be judged
        for name, optimiser in plan.stages[0].optimisers.items():
            optimiser.param_groups[0]["lr"] = rates[name]
        folder = tmp_path / str(swapped)
        loop(plan, folder, 60, settings={"warm_up": 0.0}, batches=blobs).run()
        lines = (tmp_path / str(swapped) / "log.jsonl").read_text().splitlines()[-10:]
        last = [json.loads(line) for line in lines]
        margin[swapped] = sum(x["d_real"] - x["d_fake"] for x in last) / len(last)
    assert margin[False] > 0.5
    assert margin[True] < -0.5


def test_accumulation_equals_the_large_batch(tmp_path: Path) -> None:
    def halves(step: int, micro: int, split: int) -> Batch:
        whole = batches(step, 0, 1)
        return Batch(whole.image[micro : micro + 1], whole.label[micro : micro + 1])

    def make_plain() -> Plan:
        plan = make("supervised")
        stage = plan.stages[0]
        net = stage.modules["segmenter"]
        net.dropout.p = 0.0
        optimiser = torch.optim.SGD(net.parameters(), 0.01)  # no division by tiny gradients

        def step(batch, update):
            target = torch.nn.functional.one_hot(batch.label.long(), 3).movedim(-1, 1).float()
            loss = (net(batch.image) - target).square().mean()
            update(optimiser, loss)
            return {"loss": loss.detach()}

        return Plan((type(stage)("s", 1.0, stage.modules, {"o": optimiser}, step),), net)

    one = loop(make_plain(), tmp_path / "one", 3).run()
    two = loop(make_plain(), tmp_path / "two", 3, batches=halves, settings={"accumulate": 2}).run()
    assert torch.allclose(weights(one.predictor), weights(two.predictor), atol=1e-5)


def test_a_step_is_lent_the_averaged_weights_and_told_when_optimisers_step(tmp_path: Path) -> None:
    plan, seen = make("supervised"), []
    stage = plan.stages[0]

    def step(batch, update):
        network = update.averaged
        assert not network.training
        assert not any(p.requires_grad for p in network.parameters())
        seen.append((update.last, weights(network), weights(plan.predictor)))
        return stage.step(batch, update)

    spied = Plan((replace(stage, step=step),), plan.predictor)
    outcome = loop(spied, tmp_path, 3, settings={"accumulate": 2, "ema": 0.5}).run()
    assert [last for last, _, _ in seen] == [False, True] * 3
    averages = [mean for _, mean, _ in seen[::2]] + [weights(outcome.predictor)]
    students = [now for _, _, now in seen[::2]] + [weights(plan.predictor)]
    assert torch.equal(averages[0], students[0])
    for step, (before, after) in enumerate(itertools.pairwise(averages), 1):
        decay = min(0.5, step / (9 + step))  # quicker at the start
        assert torch.allclose(after, decay * before + (1 - decay) * students[step], atol=1e-6)
        assert torch.equal(averages[step - 1], seen[2 * step - 1][1]), "still amid a step"


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_both_precisions_learn(tmp_path: Path, precision: str) -> None:
    outcome = loop(make("supervised"), tmp_path, 25, precision, batches=blobs).run()
    losses = [json.loads(x)["loss"] for x in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])
    assert next(outcome.predictor.parameters()).dtype == torch.float32


def test_not_finite_steps_are_left_out_then_rolled_back_then_refused(tmp_path: Path) -> None:
    def poisoned(bad: range):
        def read(step: int, micro: int, split: int) -> Batch:
            batch = batches(step, micro, split)
            return Batch(batch.image * (float("nan") if step in bad else 1.0), batch.label)

        return read

    once = loop(make("adversarial"), tmp_path / "once", 12, batches=poisoned(range(5, 7))).run()
    assert once.status == "finished"
    assert sum("left out" in event for event in once.events) == 2
    assert torch.isfinite(weights(once.predictor)).all()

    passing = loop(make("supervised"), tmp_path / "passing", 60, batches=poisoned(range(3, 60)))
    assert passing.run().status == "finished", "after a roll-back other data are drawn"
    lines = (tmp_path / "passing" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 61))

    def always(step: int, micro: int, split: int) -> Batch:
        return poisoned(range(3, 60))(step % 10_000_000, micro, split)

    with pytest.raises(TrainingError, match="roll-backs"):
        loop(make("supervised"), tmp_path / "ever", 60, batches=always).run()
    state = checkpoint.read_newest(tmp_path / "ever" / "checkpoints", print)
    assert state is not None
    assert checkpoint.all_finite(state)


def test_out_of_memory_halves_the_batch_once(tmp_path: Path) -> None:
    seen = []

    def greedy(step: int, micro: int, split: int) -> Batch:
        seen.append(split)
        if step == 2 and split == 1:
            raise RuntimeError("DefaultCPUAllocator: not enough memory")
        return batches(step, micro, split)

    outcome = loop(make("supervised"), tmp_path, 5, batches=greedy).run()
    assert outcome.status == "finished"
    assert seen[-1] == 2
    assert any("half the batch" in event for event in outcome.events)


def test_a_truncated_checkpoint_is_named_and_the_older_one_used(tmp_path: Path) -> None:
    said: list[str] = []
    for step in (1, 2, 3):
        checkpoint.write(tmp_path, step, {"a": torch.full((3,), float(step)), "b": [1, None, "x"]})
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    newest = tmp_path / "step-00000003.safetensors"
    newest.write_bytes(newest.read_bytes()[:-5])
    state = checkpoint.read_newest(tmp_path, said.append)
    assert state is not None
    assert state["a"].tolist() == [2, 2, 2]
    assert state["b"] == [1, None, "x"]
    assert any("step-00000003" in line and "step-00000002" in line for line in said)
    older = tmp_path / "step-00000002.safetensors"
    older.write_bytes(b"")
    with pytest.raises(CheckpointError, match="2 damaged"):
        checkpoint.read_newest(tmp_path, said.append)


def test_a_full_disk_leaves_the_older_checkpoint(tmp_path: Path, monkeypatch) -> None:
    checkpoint.write(tmp_path, 1, {"a": torch.ones(3)})
    full = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr("delineate.core.atomic.shutil.disk_usage", lambda path: full)
    with pytest.raises(OutputError, match="free space"):
        checkpoint.write(tmp_path, 2, {"a": torch.zeros(3)})
    state = checkpoint.read_newest(tmp_path, print)
    assert state is not None
    assert state["a"].tolist() == [1, 1, 1]
    assert not list(tmp_path.glob(".tmp-*"))


def test_progress_is_even_without_and_ends_on_time_with_a_deadline(monkeypatch) -> None:
    pace = Pace(4, None)
    seen = []
    while not pace.done:
        pace.tick()
        seen.append(pace.progress)
    assert seen == pytest.approx([0.25, 0.5, 0.75, 1.0])
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    late = Pace(1000, 100.0)  # planned at 0.1 s a step, in truth twice as slow after a while
    late.start()
    while not late.done:
        now[0] += 0.1 if late.step < 300 else 0.2
        late.tick()
    assert now[0] == pytest.approx(100.0, rel=0.02)
    assert late.progress == pytest.approx(1.0, abs=0.02)


def test_the_widest_network_that_sees_enough_patches_is_chosen() -> None:
    candidates = [Candidate(w, (32, 32), 4) for w in (8, 16, 32)]
    cost = {8: 0.05, 16: 0.2, 32: 0.8}

    def budget(seconds: float) -> int:
        choice = choose(candidates, lambda: seconds, lambda c: cost[c.width])
        return choice.candidate.width

    assert budget(60) == 8
    assert budget(600) == 16
    assert budget(6000) == 32
    with pytest.raises(ConfigError, match="10 steps"):
        budget(0.2)


def test_without_tensorboard_the_log_is_kept_all_the_same(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(log, "find_spec", lambda name: None)
    pace = Pace(1, None)
    with log.Log(tmp_path, pace) as kept:
        kept.write(Stage("only", 1.0, {}, {}, lambda batch, update: {}), {"loss": 0.5})
    assert json.loads((tmp_path / "log.jsonl").read_text())["loss"] == 0.5
    assert not (tmp_path / "tensorboard").exists()


def test_a_checkpoint_that_was_not_finished_costs_no_run(tmp_path: Path) -> None:
    """Killed between the file and its sidecar: the one before counts, or the run starts anew."""
    path = checkpoint.write(tmp_path, 0, {"step": 0})
    path.with_suffix(".sha256").unlink()
    assert checkpoint.read_newest(tmp_path, print) is None
    checkpoint.write(tmp_path, 0, {"step": 0})
    checkpoint.write(tmp_path, 5, {"step": 5}).with_suffix(".sha256").unlink()
    assert checkpoint.read_newest(tmp_path, print) == {"step": 0}
