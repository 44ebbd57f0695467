"""Starting from the weights of a file: what is read, what is refused, and what training does."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from delineate.core import model_file
from delineate.core.context import Context
from delineate.core.errors import ConfigError, DelineateError, InputError, OutputError
from delineate.core.schema import Label, Schema
from delineate.methods import supervised
from delineate.networks import unet
from delineate.networks._transfer import Weights
from delineate.provenance import lineage
from delineate.settings import RunConfig
from delineate.tasks.predict import predict
from delineate.tasks.train import train
from delineate.training import initial_weights

CHANNELS = ("t1", "t1gd", "t2", "flair")


def cohort(folder: Path, channels: tuple[str, ...], labels: tuple[str, ...]) -> Path:
    """Eight subjects in nnU-Net's layout: a ball in a ball; the same images whatever is chosen."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    radius = np.linalg.norm(np.indices((16, 16, 16)) - 7.5, axis=0)
    for subject in range(8):
        shape = (radius < 6).astype(np.uint8) + (radius < 3)
        noise = np.random.default_rng(subject).normal(size=(4, 16, 16, 16))
        images = shape * np.array([1, 2, 3, 4.0])[:, None, None, None] + 0.3 * noise + 9
        for n, channel in enumerate(channels):
            image = images[CHANNELS.index(channel)].astype(np.float32)
            path = folder / "imagesTr" / f"s{subject}_{n:04d}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), path)
        values = {"rim": 1, "core": 2}
        kept = np.select(
            [shape == values[name] for name in labels], range(1, len(labels) + 1), 0
        ).astype(np.uint8)
        nibabel.save(
            nibabel.Nifti1Image(kept, np.eye(4)), folder / "labelsTr" / f"s{subject}.nii.gz"
        )
    document = {
        "channel_names": {str(n): name for n, name in enumerate(channels)},
        "labels": {"background": 0, **{name: n for n, name in enumerate(labels, start=1)}},
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(document))
    return folder


def settings(folder: Path, **more: Any) -> Path:
    path = folder / f"settings-{len(list(folder.iterdir()))}.yaml"
    chosen = {"patch": [16, 16, 16], "batch": 2, "validation": 0.2, "holdout": 0.3, **more}
    path.write_text(json.dumps(chosen))
    return path


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of four channels and two labels, with batch norm, whose statistics can move."""
    folder = tmp_path_factory.mktemp("old")
    data = cohort(folder / "data", CHANNELS, ("rim", "core"))
    shape = {"norm": "batch", "levels": 3, "deep_supervision": 1}
    config = settings(folder, width=4, network_settings=shape)
    train(data, steps=2, config=config, out=folder / "run", audit=False)
    return folder / "run" / "model.safetensors"


@pytest.fixture(scope="module")
def flair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same subjects, of whom one channel and one label are known."""
    return cohort(tmp_path_factory.mktemp("flair") / "data", ("flair",), ("core",))


# ------------------------------------------------------------------------------ from end to end


def test_a_model_of_four_channels_and_two_labels_becomes_one_of_one_and_one(
    old: Path, flair: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    out = tmp_path / "run"
    record = train(
        flair, weights=old, freeze=("encoder",), steps=3, seed=1, config=settings(tmp_path),
        out=out, audit=False, say=said.append,
    )  # fmt: skip
    before, after = model_file.load(old), model_file.load(out / "model.safetensors")
    for name, tensor in before.tensors.items():
        if name.startswith("encoder") and name != "encoder.0.0.0.weight":
            assert np.array_equal(tensor, after.tensors[name]), name
    stem = "encoder.0.0.0.weight"
    assert np.array_equal(before.tensors[stem][:, 3:], after.tensors[stem]), "flair's own kernels"
    moved = [n for n in after.tensors if n.startswith("decoder") and n.endswith("weight")]
    assert any(not np.array_equal(before.tensors[n], after.tensors[n]) for n in moved)

    kept = json.loads((out / "run.json").read_text())["transfer"]
    assert kept == record["transfer"]
    heads = [f"heads.{i}.{kind}" for i in (0, 1) for kind in ("bias", "weight")]
    assert sorted(kept["resized"]) == [stem, *heads]
    assert kept["resized"]["heads.0.weight"] == "outputs background, core kept"
    listed = [*kept["loaded"], *kept["resized"], *kept["left_out"]]
    assert sorted(listed) == sorted(before.tensors)
    assert not kept["left_out"]
    (line,) = [text for text in said if text.startswith("weights: ") and "tensors of" in text]
    assert "5 of them resized" in line
    assert "encoder frozen" in line
    assert record["plan"]["parameters"] < record["transfer"]["frozen"]["encoder"]
    assert "5 of them resized" in (out / "report.html").read_text()

    document = after.document
    assert document["provenance"]["transfer"]["lineage"] == [before.hash]
    assert document["provenance"]["hashes"]["weights"] == kept["sha256"]
    assert document["card"]["weights"] == line.removeprefix("weights: ")
    assert document["config"]["weights"] == "model.safetensors"
    assert str(old.parent) not in json.dumps(document), "a model file names no folder of its maker"
    assert document["network"]["config"] == {
        **before.document["network"]["config"], "ndim": 3
    }  # fmt: skip
    predict(out / "model.safetensors", flair, tmp_path / "masks", only=["s1"])
    masks = list((tmp_path / "masks").glob("*.nii.gz"))
    assert {v for m in masks for v in np.unique(np.asarray(nibabel.load(m).dataobj))} <= {0, 1}


def test_the_run_knows_the_file_that_it_started_from(
    old: Path, flair: Path, tmp_path: Path
) -> None:
    config, weights = settings(tmp_path), tmp_path / "start.safetensors"
    weights.write_bytes(old.read_bytes())
    out = tmp_path / "run"
    train(flair, weights=weights, steps=2, config=config, out=out, audit=False)
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**record, "status": "running"}))
    said: list[str] = []
    train(flair, weights=weights, steps=2, config=config, out=out, audit=False, say=said.append)
    assert any("going on with the figures" in text for text in said)
    (out / "run.json").write_text(json.dumps({**record, "status": "running"}))
    bare = {n: torch.from_numpy(t) for n, t in model_file.load(old).tensors.items()}
    safetensors.torch.save_file(bare, weights)
    with pytest.raises(OutputError, match="settings") as caught:
        train(flair, weights=weights, steps=2, config=config, out=out, audit=False)
    assert caught.value.code == "run-differs"


def test_settings_of_the_file_give_way_to_those_that_are_given(
    old: Path, flair: Path, tmp_path: Path
) -> None:
    """A plain file has no settings: among the widths to be measured, that which fits is found."""
    weights = tmp_path / "plain.safetensors"
    tensors = {f"module.{n}": torch.from_numpy(t) for n, t in model_file.load(old).tensors.items()}
    safetensors.torch.save_file(tensors, weights)
    shape = {"norm": "batch", "levels": 3}
    config = settings(tmp_path, network_settings=shape, layer_rate=0.5, width=4)
    out = tmp_path / "run"
    record = train(flair, weights=weights, steps=2, config=config, out=out, audit=False)
    kept = record["transfer"]
    assert kept["model"] is None
    assert kept["peeled"] == ["module."]
    assert list(kept["resized"].values()) == ["4 input channels to 1, each their mean"]
    # the file has a coarser head, the new network has none; the finest has rows of unknown meaning
    assert {name.partition(".")[0] for name in kept["left_out"]} == {"heads"}
    assert kept["fresh"] == ["heads.0.weight", "heads.0.bias"]


def test_what_cannot_be_is_told_before_training(old: Path, flair: Path, tmp_path: Path) -> None:
    def start(**more: Any) -> None:
        train(flair, steps=2, config=settings(tmp_path), out=tmp_path / "r", audit=False, **more)

    with pytest.raises(ConfigError, match="expected weights") as caught:
        start(freeze=("encoder",))
    assert caught.value.code == "weights-needed"
    with pytest.raises(ConfigError, match="did you mean 'encoder'") as caught:
        start(weights=old, freeze=("encodr",))
    assert caught.value.code == "freeze-unknown"
    with pytest.raises(InputError, match="No such file") as caught:
        start(weights=tmp_path / "none.pt")
    assert caught.value.code == "weights-missing"
    with pytest.raises(InputError, match=r"give .*model\.safetensors"):
        start(weights=old.parent)
    other = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"encodr.0.0.0.weight": torch.ones(4, 1, 3, 3, 3)}, other)
    with pytest.raises(ConfigError, match=r"did you mean 'encoder\.0\.0\.0\.weight'") as caught:
        start(weights=other)
    assert caught.value.code == "weights-nothing-fits"
    wide = tmp_path / "wide.safetensors"
    safetensors.torch.save_file({"encoder.0.0.0.weight": torch.ones(99, 1, 3, 3, 3)}, wide)
    with pytest.raises(ConfigError, match="such as width"):
        start(weights=wide)
    assert not list(tmp_path.glob("r/checkpoints/*"))


# ----------------------------------------------------------------------------------- the files


class Evil:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_needs_code_is_refused_without_running_it(tmp_path: Path, zipped: bool) -> None:
    path, mark = tmp_path / "evil.pt", tmp_path / "owned"
    content = {"state_dict": {"a": torch.ones(2)}, "extra": Evil(mark)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"\.system") as caught:
        initial_weights.read(path)
    assert caught.value.code == "weights-unsafe"
    assert "save only its tensors" in str(caught.value)
    assert not mark.exists()


def test_harmless_objects_are_refused_alike(tmp_path: Path) -> None:
    path = tmp_path / "lightning.ckpt"
    torch.save({"state_dict": {"a": torch.ones(2)}, "hp": argparse.Namespace(lr=1)}, path)
    with pytest.raises(InputError, match=r"argparse\.Namespace"):
        initial_weights.read(path)
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(InputError, match="Linear"):
        initial_weights.read(path)


def test_wrappings_are_peeled_and_named(tmp_path: Path) -> None:
    tensors = {"a.weight": torch.ones(2, 3), "a.bias": torch.zeros(2, dtype=torch.bfloat16)}
    compiled = {f"module._orig_mod.{name}": tensor for name, tensor in tensors.items()}
    contents: dict[str, tuple[Any, list[str]]] = {
        "plain": (tensors, []),
        "state": ({"state_dict": tensors, "epoch": 3}, ["state_dict"]),
        "nnunet": ({"network_weights": tensors, "optimizer_state": {"s": {}}}, ["network_weights"]),
        "twice": ({"model": {"state_dict": compiled}},
                  ["model", "state_dict", "module.", "_orig_mod."]),
    }  # fmt: skip
    for name, (content, peeled) in contents.items():
        for zipped in (True, False):
            path = tmp_path / f"{name}.pth"
            torch.save(content, path, _use_new_zipfile_serialization=zipped)
            found = initial_weights.read(path)
            assert found.format == "torch"
            assert list(found.peeled) == peeled
            assert found.tensors.keys() == tensors.keys()
            assert all(torch.equal(found.tensors[n], t) for n, t in tensors.items())
    torch.save({"student": tensors, "teacher": tensors, "epoch": 3}, path)
    assert set(initial_weights.read(path).tensors) == {
        f"{who}.{name}" for who in ("student", "teacher") for name in tensors
    }


@pytest.mark.parametrize("suffix", [".pt", "-old.pt", ".safetensors"])
def test_damage_is_found_wherever_it_is(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    tensors = {"a": torch.rand(64), "b": torch.rand(64)}
    if suffix == ".safetensors":
        safetensors.torch.save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=suffix == ".pt")
    whole = path.read_bytes()
    for size in (0, 1, 7, 9, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(DelineateError) as caught:
            initial_weights.read(path)
        assert caught.value.where == str(path)
        assert caught.value.fix
    if suffix == ".pt":  # its numbers are under a checksum, which PyTorch does not look at
        at = whole.find(tensors["a"].numpy().tobytes())
        path.write_bytes(whole[: at + 8] + bytes([whole[at + 8] ^ 1]) + whole[at + 9 :])
        with pytest.raises(InputError, match="checksum"):
            initial_weights.read(path)


def test_other_files_are_not_weights(tmp_path: Path) -> None:
    for name, content in {
        "a.h5": b"\x89HDF\r\n\x1a\n" + bytes(100),
        "a.txt": b"hello there, this is text",
        "empty.pt": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError) as caught:
            initial_weights.read(tmp_path / name)
        assert caught.value.code == "weights-format"
    torch.save({"epoch": 3, "names": ["a"]}, tmp_path / "none.pt")
    with pytest.raises(InputError) as caught:
        initial_weights.read(tmp_path / "none.pt")
    assert caught.value.code == "weights-empty"


def test_an_edited_model_file_is_refused(old: Path, tmp_path: Path) -> None:
    data = old.read_bytes()
    (tmp_path / "m.safetensors").write_bytes(data[:-4] + bytes(4))
    with pytest.raises(DelineateError) as caught:
        initial_weights.read(tmp_path / "m.safetensors")
    assert caught.value.code == "model-file-tampered"


# -------------------------------------------------------------------------------- what follows


def weights(tensors: dict[str, Tensor], document: dict[str, Any] | None = None) -> Weights:
    return Weights(Path("w.safetensors"), "safetensors", "0" * 64, tensors, document)


def test_a_model_file_decides_what_was_left_open() -> None:
    shape = {"ndim": 2, "width": 24, "levels": 3, "norm": "batch", "retired": 1}
    document = {
        "network": {"name": "unet", "config": shape},
        "input": {"slice_axis": 2, "neighbours": 2},
    }
    start = weights({}, document)
    found = initial_weights.derive(RunConfig(), start)
    assert (found.network, found.width, found.neighbours) == ("unet", 24, 2)
    assert found.network_settings == {"width": 24, "levels": 3, "norm": "batch"}
    assert initial_weights.derive(found, start) == found
    given = RunConfig(width=8, neighbours=0, network_settings={"levels": 5})
    found = initial_weights.derive(given, start)
    assert (found.width, found.neighbours) == (8, 0)
    assert found.network_settings == {"levels": 5, "norm": "batch"}
    other = RunConfig(network="patch_critic")
    assert initial_weights.derive(other, start) == other
    assert initial_weights.derive(RunConfig(), None).network == "unet"


def test_channels_of_neighbouring_slices_have_names_of_their_own() -> None:
    assert initial_weights.channel_names(["a", "b"], 1) == ["a-1", "b-1", "a", "b", "a+1", "b+1"]


def test_a_network_may_bring_its_own_loader() -> None:
    class Module:
        @staticmethod
        def load_pretrained(network: nn.Module, tensors: dict[str, Tensor]) -> list[str]:
            with torch.no_grad():
                network.weight.copy_(tensors["w"])
            return ["loaded w", "resized p: 4x4 to 2x2", "left out q", "fresh bias"]

    layer = nn.Linear(2, 2)
    given = {name: torch.ones(2, 2) for name in ("w", "p", "q", "r")}
    found = initial_weights.give(weights(given), Module, None, layer, ["a"], ["x"])  # type: ignore[arg-type]
    assert torch.equal(layer.weight, given["w"])
    assert found.loaded == ("w",)
    assert found.resized == {"p": "4x4 to 2x2"}
    assert set(found.left_out) == {"q", "r"}
    assert found.fresh == ("bias",)


def test_every_layer_gets_its_rate_and_what_is_frozen_keeps_still() -> None:
    torch.manual_seed(0)
    network = unet.build(unet.Config(ndim=2, width=4, levels=3), 1, 2)
    network.encoder[0].requires_grad_(False)
    plan = supervised.build(
        supervised.Config(), network, Context(2, 1, 2, Schema((Label("x", 1),)))
    )
    optimiser = plan.stages[0].optimisers["segmenter"]
    peak = optimiser.param_groups[0]["lr"]
    initial_weights.adjust(plan, network, 0.5, (1, 16, 16))
    rates = {id(p): g["lr"] for g in optimiser.param_groups for p in g["params"]}
    assert len(rates) == len(list(network.parameters()))
    assert optimiser.param_groups[0]["lr"] == peak, "the log shows the full rate"
    named = dict(network.named_parameters())
    assert rates[id(named["heads.0.weight"])] == peak
    assert rates[id(named["decoder.0.0.0.weight"])] == peak / 2
    assert rates[id(named["encoder.0.0.0.weight"])] == peak / 2**7
    assert all(g["weight_decay"] == 1e-4 for g in optimiser.param_groups)


def test_an_optimiser_with_nothing_to_do_is_refused() -> None:
    network = unet.build(unet.Config(ndim=2, width=4, levels=3), 1, 2).requires_grad_(False)
    plan = supervised.build(
        supervised.Config(), network, Context(2, 1, 2, Schema((Label("x", 1),)))
    )
    with pytest.raises(ConfigError, match="frozen") as caught:
        initial_weights.adjust(plan, network, 1.0, (1, 16, 16))
    assert caught.value.code == "freeze-all"


def test_a_long_list_stays_out_of_the_model_file() -> None:
    left = {f"t{i}": "why" for i in range(40)}
    kept = {"loaded": ["a"], "resized": {"b": "how"}, "left_out": left, "fresh": []}
    short = lineage.brief(kept)
    assert short == {"loaded": 1, "resized": {"b": "how"}, "left_out": 40, "fresh": []}
