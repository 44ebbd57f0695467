"""What becomes of every tensor that is given to a network, and what freezing means."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks
from delineate.networks import _cost, _transfer, unet
from delineate.networks._transfer import Ends, Transfer

SMALL = {"width": 4, "levels": 3, "deep_supervision": 1}


def net(channels: int, outputs: int, seed: int = 0, ndim: int = 2, **more: object) -> nn.Module:
    torch.manual_seed(seed)
    return unet.build(unet.Config(**{**SMALL, "ndim": ndim, **more}), channels, outputs)


def move(
    old: nn.Module | dict[str, Tensor],
    new: nn.Module,
    channels: tuple[list[str] | None, list[str]],
    outputs: tuple[list[str] | None, list[str]],
    ndim: int = 2,
) -> Transfer:
    """From old to new, each pair being names in the old and in the new network."""
    tensors = dict(old.state_dict()) if isinstance(old, nn.Module) else old
    config = unet.Config(**{**SMALL, "ndim": ndim})
    grow = _transfer.axes(
        lambda c, o: unet.build(config, c, o), len(channels[1]), 1 + len(outputs[1])
    )
    background = ["background"]
    known = None if outputs[0] is None else background + outputs[0]
    ends = Ends(*grow, channels[1], background + outputs[1], channels[0], known)
    before = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    found = _transfer.transfer(new, tensors, ends)
    listed = [*found.loaded, *found.resized, *found.left_out]
    assert sorted(listed) == sorted(tensors), "every tensor of the file is listed once"
    for name in found.fresh:
        assert torch.equal(before[name], new.state_dict()[name])
    return found


STEM, HEAD = "encoder.0.0.0.weight", "heads.0.weight"


def test_the_same_network_takes_everything_as_it_is() -> None:
    old, new = net(2, 3, seed=1), net(2, 3, seed=2)
    found = move(old, new, (["a", "b"], ["a", "b"]), (["x", "y"], ["x", "y"]))
    assert set(found.loaded) == set(old.state_dict())
    assert not found.fresh
    image = torch.randn(1, 2, 16, 16)
    assert torch.equal(old.eval()(image), new.eval()(image))


def test_channels_are_kept_by_name_even_where_their_number_is_the_same() -> None:
    """Width 4 and four channels: shapes alone could not tell the stem from its neighbours."""
    names = ["t1", "t1c", "t2", "flair"]
    old, new = net(4, 2, seed=1), net(4, 2, seed=2)
    found = move(old, new, (names, names[::-1]), (["x"], ["x"]))
    assert list(found.resized) == [STEM]
    image = torch.randn(1, 4, 16, 16)
    assert torch.allclose(old.eval()(image), new.eval()(image.flip(1)), atol=1e-5)


def test_one_of_four_channels_is_the_old_network_with_the_others_blank() -> None:
    old, new = net(4, 2, seed=1), net(1, 2, seed=2)
    found = move(old, new, (["t1", "t1c", "t2", "flair"], ["flair"]), (["x"], ["x"]))
    assert found.resized == {STEM: "input channels flair kept"}
    image = torch.zeros(1, 4, 16, 16)
    image[:, 3] = torch.randn(16, 16)
    assert torch.allclose(old.eval()(image), new.eval()(image[:, 3:]), atol=1e-5)


def test_a_channel_that_is_new_starts_as_the_mean() -> None:
    old, new = net(2, 2, seed=1), net(3, 2, seed=2)
    move(old, new, (["a", "b"], ["b", "c", "a"]), (["x"], ["x"]))
    was, now = old.state_dict()[STEM], new.state_dict()[STEM]
    assert torch.equal(now[:, 0], was[:, 1])
    assert torch.equal(now[:, 2], was[:, 0])
    assert torch.allclose(now[:, 1], was.mean(1))


@pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 4), (4, 2)])
def test_unknown_channels_keep_the_answer_to_the_same_image_in_each(
    before: int, after: int
) -> None:
    old, new = net(before, 2, seed=1), net(after, 2, seed=2)
    found = move(old, new, (None, [f"c{i}" for i in range(after)]), (["x"], ["x"]))
    assert list(found.resized) == [STEM]
    image = torch.randn(1, 1, 16, 16)
    a, b = old.eval()(image.expand(1, before, 16, 16)), new.eval()(image.expand(1, after, 16, 16))
    assert torch.allclose(a, b, atol=1e-5)


def test_rows_of_the_head_follow_the_names_of_labels() -> None:
    old, new = net(1, 3, seed=1), net(1, 4, seed=2)
    fresh = new.state_dict()[HEAD].clone()
    found = move(old, new, (["a"], ["a"]), (["rim", "core"], ["oedema", "core", "rim"]))
    was, now = old.state_dict()[HEAD], new.state_dict()[HEAD]
    for mine, theirs in {0: 0, 2: 2, 3: 1}.items():
        assert torch.equal(now[mine], was[theirs])
    assert torch.equal(now[1], fresh[1])
    heads = {"heads.0.weight", "heads.0.bias", "heads.1.weight", "heads.1.bias"}
    assert set(found.resized) == heads, "coarser heads too"
    assert found.resized[HEAD] == "outputs background, core, rim kept"


def test_a_head_without_a_common_label_is_left_out_whatever_its_size() -> None:
    found = move(net(1, 2), net(1, 2, seed=2), (["a"], ["a"]), (["liver"], ["spleen"]))
    assert {n for n in found.left_out if n.startswith("heads")} == set(found.left_out)
    assert len(found.left_out) == 4
    assert set(found.fresh) == set(found.left_out)


def test_a_head_of_unknown_labels_is_taken_only_if_it_has_the_size() -> None:
    assert not move(net(1, 3), net(1, 3), (None, ["a"]), (None, ["x", "y"])).left_out
    found = move(net(1, 3), net(1, 2), (None, ["a"]), (None, ["x"]))
    assert set(found.left_out) == {n for n in net(1, 3).state_dict() if n.startswith("heads")}


def test_an_encoders_own_file_finds_its_place() -> None:
    old, new = net(1, 2, seed=1), net(1, 2, seed=2)
    own = {n.removeprefix("encoder."): t for n, t in old.state_dict().items() if "encoder" in n}
    found = move(own, new, (None, ["a"]), (None, ["x"]))
    assert len(found.loaded) == len(own)
    assert found.renamed == "encoder.… put before"
    assert torch.equal(new.state_dict()[STEM], old.state_dict()[STEM])
    other = {f"student.{name}": tensor for name, tensor in old.state_dict().items()}
    other |= {f"head.{i}.weight": torch.ones(3) for i in range(3)}
    found = move(other, net(1, 2, seed=3), (None, ["a"]), (None, ["x"]))
    assert found.renamed == "student.… taken away"
    assert set(found.left_out) == {f"head.{i}.weight" for i in range(3)}


def test_a_head_of_another_width_is_left_out_even_if_it_shares_labels() -> None:
    found = move(net(1, 3, width=8), net(1, 2), (["a"], ["a"]), (["liver", "spleen"], ["liver"]))
    assert found.left_out[HEAD] == "expected shape (2, 4, 1, 1), got (3, 8, 1, 1)"


def test_what_has_another_shape_or_type_is_left_out_with_the_reason() -> None:
    old = dict(net(1, 2, width=8).state_dict())
    old["encoder.0.0.1.weight"] = torch.ones(4, dtype=torch.long)
    old["encoder.0.0.1.bias"] = torch.ones(4).to_sparse()
    found = move(old, net(1, 2), (None, ["a"]), (None, ["x"]))
    assert found.left_out[STEM] == "expected shape (4, 1, 3, 3), got (8, 1, 3, 3)"
    assert "int64" in found.left_out["encoder.0.0.1.weight"]
    assert "plain numbers" in found.left_out["encoder.0.0.1.bias"]


def test_numbers_that_are_none_stop_it_before_anything_is_changed() -> None:
    old, new = net(1, 2, seed=1), net(1, 2, seed=2)
    before = copy.deepcopy(new.state_dict())
    bad = {**old.state_dict(), HEAD: torch.full_like(old.state_dict()[HEAD], torch.nan)}
    with pytest.raises(ConfigError, match=r"heads\.0\.weight") as caught:
        move(bad, new, (None, ["a"]), (None, ["x"]))
    assert caught.value.code == "weights-not-finite"
    assert all(torch.equal(tensor, before[name]) for name, tensor in new.state_dict().items())


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flat_kernels_answer_alike_in_a_volume_of_equal_slices(axis: int) -> None:
    flat = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ConvTranspose2d(3, 4, 2, 2))
    deep = nn.Sequential(nn.Conv3d(2, 3, 3, padding=1), nn.ConvTranspose3d(3, 4, 2, 2))
    found = _transfer.transfer(deep, flat.state_dict(), Ends(slice_axis=axis))
    assert set(found.resized) == {"0.weight", "1.weight"}
    image = torch.randn(1, 2, 6, 6)
    volume = deep(image.unsqueeze(2 + axis).repeat_interleave(6, 2 + axis))
    inner = volume.movedim(2 + axis, 0)[2:-2]  # beyond the ends there are zeros, not slices
    assert torch.allclose(inner, flat(image).expand_as(inner), atol=1e-5)


# --------------------------------------------------------------------------------------- freezing


class Pair(nn.Module):
    """Eleven stages, so that ``stage.1`` begins the name of ``stage.10``."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = nn.ModuleList(
            nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.Dropout(0.5)) for _ in range(11)
        )


def test_a_prefix_is_whole_parts_of_a_name() -> None:
    pair = Pair()
    assert _transfer.freeze(pair, ["stage.1"]) == 4
    frozen = {name for name, p in pair.named_parameters() if not p.requires_grad}
    assert frozen == {f"stage.1.{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias")}


def test_frozen_norms_stay_in_evaluation_and_so_do_those_of_copies() -> None:
    pair = Pair()
    _transfer.freeze(pair, ["stage.3"])
    for one in (pair, copy.deepcopy(pair)):
        one.train()
        resting = [name for name, module in one.named_modules() if not module.training]
        assert resting == ["stage.3.1"]
    twin = copy.deepcopy(pair).train()
    twin.stage[3](torch.randn(8, 1, 4, 4))
    twin.stage[4](torch.randn(8, 1, 4, 4))
    assert twin.stage[3][1].num_batches_tracked == 0
    assert twin.stage[4][1].num_batches_tracked == 1
    assert pair.stage[4][1].num_batches_tracked == 0


def test_an_unknown_prefix_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'encoder'") as caught:
        _transfer.freeze(net(1, 2), ["encodr"])
    assert caught.value.code == "freeze-unknown"
    with pytest.raises(ConfigError, match=r"did you mean 'encoder\.2'"):
        _transfer.freeze(net(1, 2), ["encoder.7"])


def test_something_must_be_left_to_train() -> None:
    with pytest.raises(ConfigError, match="left to train"):
        _transfer.freeze(net(1, 2), ["encoder", "decoder", "up", "heads"])


def test_rates_fall_from_the_output_to_the_input() -> None:
    network = net(1, 2)
    used = _cost.order(network, 1, (16, 16))
    rates = _transfer.rates(network, used, 0.5)
    path = ["encoder.0", "encoder.1", "encoder.2", "up.1", "decoder.1", "up.0", "decoder.0"]
    found = [next(rate for name, rate in rates.items() if name.startswith(f"{p}.")) for p in path]
    assert rates["heads.0.weight"] == 0.5  # the coarser head, used in training alone, comes last
    assert found == [0.5**n for n in range(8, 1, -1)]
    assert set(_transfer.rates(network, used, 1.0).values()) == {1.0}


def test_a_network_that_looks_at_its_own_values_can_be_tried_too() -> None:
    def build(channels: int, outputs: int) -> nn.Module:
        rate = [x.item() for x in torch.linspace(0, 1, 3)]  # impossible without values
        return nn.Sequential(nn.Conv2d(channels, 4, 1), nn.Conv2d(4, outputs, len(rate)))

    state = torch.get_rng_state()
    assert _transfer.axes(build, 4, 2) == ({"0.weight": 1}, {"1.weight": 0, "1.bias": 0})
    assert torch.equal(torch.get_rng_state(), state), "the seed's weights are not disturbed"


def test_a_network_for_a_fixed_number_of_channels_has_no_ends() -> None:
    def build(channels: int, outputs: int) -> nn.Module:
        if channels != 3:
            raise ConfigError("expected 3 channels")
        return blocks.conv(2, 3, outputs)

    assert _transfer.axes(build, 3, 2) == ({}, {})
