"""The shared encoder: it is SAM's by name, shape and arithmetic, and takes SAM's weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _sam as sam
from delineate.networks import sam_automed, sam_medcls

SMALL = {"image_size": 64, "dim": 24, "depth": 2, "heads": 3, "neck": 16, "adapter": 6}


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def encoder(channels: int = 3, seed: int = 0, **changes: Any) -> nn.Module:
    torch.manual_seed(seed)
    net = sam_medcls.build(sam_medcls.Config(**{**SMALL, **changes}), channels, 2).eval()
    for name, parameter in net.named_parameters():
        if "rel_pos" in name:  # 0 at first, which would hide them
            nn.init.normal_(parameter, std=0.5)
    return net


def attention_tensors(before: str, dim: int, inner: int) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for part in "qkv":
        found[f"{before}.{part}_proj.weight"] = (inner, dim)
        found[f"{before}.{part}_proj.bias"] = (inner,)
    return found | {f"{before}.out_proj.weight": (dim, inner), f"{before}.out_proj.bias": (dim,)}


def vit_b() -> dict[str, tuple[int, ...]]:
    """The image encoder in the public ViT-B checkpoint: 177 tensors."""
    found: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, 64, 64, 768),
        "patch_embed.proj.weight": (768, 3, 16, 16),
        "patch_embed.proj.bias": (768,),
    }
    for i in range(12):
        offsets = 127 if i in (2, 5, 8, 11) else 27  # 2 x 64 - 1 everywhere, 2 x 14 - 1 in windows
        block: dict[str, tuple[int, ...]] = {
            "norm1.weight": (768,),
            "norm1.bias": (768,),
            "attn.rel_pos_h": (offsets, 64),
            "attn.rel_pos_w": (offsets, 64),
            "attn.qkv.weight": (2304, 768),
            "attn.qkv.bias": (2304,),
            "attn.proj.weight": (768, 768),
            "attn.proj.bias": (768,),
            "norm2.weight": (768,),
            "norm2.bias": (768,),
            "mlp.lin1.weight": (3072, 768),
            "mlp.lin1.bias": (3072,),
            "mlp.lin2.weight": (768, 3072),
            "mlp.lin2.bias": (768,),
        }
        found |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    found |= {
        "neck.0.weight": (256, 768, 1, 1),
        "neck.1.weight": (256,),
        "neck.1.bias": (256,),
        "neck.2.weight": (256, 256, 3, 3),
        "neck.3.weight": (256,),
        "neck.3.bias": (256,),
    }
    return {f"image_encoder.{name}": shape for name, shape in found.items()}


def decoder() -> dict[str, tuple[int, ...]]:
    """What is kept of the public checkpoints' decoder and prompt encoder."""
    found: dict[str, tuple[int, ...]] = {}
    for i in range(2):
        layer = f"mask_decoder.transformer.layers.{i}"
        found |= attention_tensors(f"{layer}.self_attn", 256, 256)
        found |= attention_tensors(f"{layer}.cross_attn_token_to_image", 256, 128)
        found |= attention_tensors(f"{layer}.cross_attn_image_to_token", 256, 128)
        for n in range(1, 5):
            found |= {f"{layer}.norm{n}.weight": (256,), f"{layer}.norm{n}.bias": (256,)}
        found |= {f"{layer}.mlp.lin1.weight": (2048, 256), f"{layer}.mlp.lin1.bias": (2048,)}
        found |= {f"{layer}.mlp.lin2.weight": (256, 2048), f"{layer}.mlp.lin2.bias": (256,)}
    last = "mask_decoder.transformer"
    found |= attention_tensors(f"{last}.final_attn_token_to_image", 256, 128)
    found |= {f"{last}.norm_final_attn.weight": (256,), f"{last}.norm_final_attn.bias": (256,)}
    up = "mask_decoder.output_upscaling"
    found |= {f"{up}.0.weight": (256, 64, 2, 2), f"{up}.0.bias": (64,)}
    found |= {f"{up}.1.weight": (64,), f"{up}.1.bias": (64,)}
    found |= {f"{up}.3.weight": (64, 32, 2, 2), f"{up}.3.bias": (32,)}
    prompts = "prompt_encoder"
    found[f"{prompts}.pe_layer.positional_encoding_gaussian_matrix"] = (2, 128)
    found[f"{prompts}.no_mask_embed.weight"] = (1, 256)
    return found | {f"{prompts}.point_embeddings.{i}.weight": (1, 256) for i in range(4)}


def test_vit_b_has_the_names_and_shapes_of_the_public_checkpoint() -> None:
    with torch.device("meta"):
        net = sam_automed.build(sam_automed.Config(preset="vit_b"), 3, 2)
    mine = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    wanted = vit_b()
    assert len(wanted) == 177
    ours = {n: s for n, s in mine.items() if n.startswith(sam.ENCODER) and ".adapter." not in n}
    assert ours == wanted
    assert {n: s for n, s in mine.items() if n in decoder()} == decoder()
    parameters = {n: p for n, p in net.image_encoder.named_parameters() if ".adapter." not in n}
    assert sum(p.numel() for p in parameters.values()) == 89_670_912


@pytest.mark.parametrize(("preset", "parameters"), [("vit_l", 308_278_272), ("vit_h", 637_026_048)])
def test_the_larger_encoders_have_the_published_numbers_of_parameters(
    preset: str, parameters: int
) -> None:
    with torch.device("meta"):
        net = sam.Encoder(sam.EncoderConfig(preset=preset, adapter=0), 3)
    assert sum(p.numel() for p in net.parameters()) == parameters


def test_relative_vectors_are_those_of_query_minus_key() -> None:
    table = torch.arange(5.0)[:, None]  # offsets -2 ... 2
    assert sam.relative(table, 3)[..., 0].tolist() == [[2, 1, 0], [3, 2, 1], [4, 3, 2]]
    # one token: the middle of the table; five offsets of a table of three: in between
    assert sam.relative(table, 1).item() == 2
    wider = sam.relative(torch.tensor([[0.0], [5.0], [10.0]]), 3)[:, 0, 0]
    assert wider.tolist() == pytest.approx([5, 8, 10])


def test_attention_is_that_of_a_loop_over_queries_and_keys() -> None:
    torch.manual_seed(0)
    attention = sam.Attention(4, heads=2, side=3)
    nn.init.normal_(attention.rel_pos_h)
    nn.init.normal_(attention.rel_pos_w)
    x = image(1, 2, 3, 4)
    q, k, v = attention.qkv(x)[0].reshape(2, 3, 3, 2, 2).unbind(2)  # (row, column, head, 2)
    across = torch.nn.functional.interpolate(attention.rel_pos_h.T[None], 3, mode="linear")[0].T
    found = torch.zeros(2, 3, 2, 2)
    cells = [(r, c) for r in range(2) for c in range(3)]
    for head in range(2):
        for r, c in cells:
            query = q[r, c, head]
            scores = torch.stack(
                [
                    query @ k[i, j, head] / 2**0.5
                    + query @ across[r - i + 1]
                    + query @ attention.rel_pos_w[c - j + 2]
                    for i, j in cells
                ]
            ).softmax(0)
            found[r, c, head] = sum(
                (s * v[i, j, head] for s, (i, j) in zip(scores, cells, strict=True)),
                torch.zeros(2),
            )
    assert torch.allclose(attention(x)[0], attention.proj(found.flatten(2)), atol=1e-5)


def test_a_window_as_large_as_the_image_is_no_window() -> None:
    attention = sam.Attention(4, heads=1, side=3)
    x = image(2, 3, 3, 4)
    assert torch.allclose(sam.in_windows(attention, x, 3), attention(x), atol=1e-6)


def test_windows_do_not_see_each_other_but_global_blocks_do() -> None:
    x = image(1, 1, 48, 40)  # 6 x 5 tokens: windows of 3 do not fit the columns
    other = x.clone()
    other[..., :24, :24] += 1
    for everywhere, alike in (((), True), ((1,), False)):
        blocks = encoder(1, window=3, global_blocks=everywhere).image_encoder
        tokens = [blocks.patch_embed(y) for y in (x, other)]
        for block in blocks.blocks:
            tokens = [block(y) for y in tokens]
        assert tokens[0].shape == (1, 6, 5, 24)
        assert torch.equal(tokens[0][:, 3:, 3:], tokens[1][:, 3:, 3:]) is alike
        assert not torch.equal(tokens[0][:, :3, :3], tokens[1][:, :3, :3])


def test_weights_of_three_channels_and_another_size_give_the_same_features() -> None:
    """A grey image through one channel is that image three times; positions are resized alike."""
    source, target = encoder(3), encoder(1, seed=1, image_size=32)
    report = sam.load_sam(target, source.state_dict())
    grey = image(2, 1, 32, 32)
    with torch.no_grad():
        wanted = source.image_encoder(grey.expand(-1, 3, -1, -1))
        assert torch.allclose(target.image_encoder(grey), wanted, atol=1e-4)
    resized = [line for line in report if line.startswith("resized")]
    assert "resized image_encoder.pos_embed: 1x8x8x24 to 1x4x4x24" in resized
    assert "resized image_encoder.patch_embed.proj.weight: 24x3x8x8 to 24x1x8x8" in resized
    assert len(resized) == 2 + 2 * 2  # and the two tables of each block


def test_the_report_names_every_tensor_once() -> None:
    source, target = encoder(3), encoder(3, seed=1)
    tensors = {n: t for n, t in source.state_dict().items() if ".adapter." not in n}
    tensors = {n: t for n, t in tensors.items() if n.startswith(sam.ENCODER)}
    tensors["mask_decoder.iou_token.weight"] = torch.zeros(1, 256)
    before = {n: t.clone() for n, t in target.state_dict().items()}
    report = sam.load_sam(target, tensors)
    assert "left out mask_decoder.iou_token.weight" in report
    assert "fresh head.0.weight" in report
    named = [line.removeprefix("left out ").split(" ")[-1] for line in report]
    assert sorted(named) == sorted({*target.state_dict(), *tensors})
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, tensors.get(name, before[name])), name


def test_the_prompt_free_segmenter_takes_the_decoder_too() -> None:
    torch.manual_seed(0)
    source, target = (sam_automed.build(sam_automed.Config(**SMALL), 3, n) for n in (2, 4))
    report = sam.load_sam(target, source.state_dict())
    assert "loaded mask_decoder.transformer.layers.1.cross_attn_image_to_token.q_proj.weight" in (
        report
    )
    # another number of classes: their tokens stay fresh
    assert "fresh mask_decoder.class_tokens" in report
    assert "left out mask_decoder.class_tokens" in report


def test_a_foreign_or_damaged_file_is_refused_and_nothing_changed() -> None:
    net = encoder(3)
    before = {n: t.clone() for n, t in net.state_dict().items()}
    whole = {n: torch.ones_like(t) for n, t in before.items()}
    last = "image_encoder.neck.3.bias"
    wrong = [
        {},
        {n: t for n, t in whole.items() if n != last},
        {**whole, last: torch.ones(17)},
        {**whole, "image_encoder.pos_embed": torch.ones(1, 8, 8, 25)},
        {**whole, "image_encoder.patch_embed.proj.weight": torch.ones(24, 3, 16, 16)},
    ]
    for tensors in wrong:
        with pytest.raises(ConfigError, match="image_encoder") as caught:
            sam.load_sam(net, tensors)
        assert caught.value.code == "sam-weights"
        assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())


def test_a_frozen_encoder_trains_its_adapters_alone() -> None:
    net = sam_automed.build(sam_automed.Config(**SMALL, freeze_encoder=True), 1, 2)
    net(image(1, 1, 16, 24)).square().mean().backward()
    for name, parameter in net.named_parameters():
        frozen = name.startswith(sam.ENCODER) and ".adapter." not in name
        assert parameter.requires_grad is not frozen, name
        assert (parameter.grad is None) is frozen, name


def test_a_fresh_adapter_hardly_changes_the_encoder() -> None:
    with_it, without = encoder(1), encoder(1, adapter=0)
    shared = {n: t for n, t in with_it.state_dict().items() if ".adapter." not in n}
    without.load_state_dict(shared)
    x = image(1, 1, 32, 32)
    with torch.no_grad():
        one, two = with_it.image_encoder(x), without.image_encoder(x)
    assert not torch.equal(one, two)
    assert torch.allclose(one, two, atol=0.05)


@pytest.mark.parametrize(
    "wrong",
    [
        {"preset": "vit_s"},
        {"patch": 6},
        {"image_size": 60},
        {"heads": 5},
        {"neck": 24},
        {"depth": 0},
        {"window": -1},
        {"adapter": -1},
        {"global_blocks": (6,)},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    for module in (sam_automed, sam_medcls):
        with pytest.raises(ConfigError):
            module.Config(**wrong)


def test_volumes_are_sent_elsewhere() -> None:
    with pytest.raises(ConfigError, match="flat") as caught:
        sam_automed.Config(ndim=3)
    assert "swin_unetr" in str(caught.value)
