from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from delineate.core.errors import ConfigError
from delineate.networks import sam_automed as automed

SMALL = {"image_size": 64, "dim": 48, "depth": 2, "heads": 3, "neck": 32}


def make(**changes: Any) -> automed.SamAutoMed:
    torch.manual_seed(0)
    return automed.build(automed.Config(**{**SMALL, **changes}), 1, 2)


def squares(n: int, side: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise with a brighter square at a random place, and where it is."""
    rng = torch.Generator().manual_seed(seed)
    x, label = torch.randn((n, 1, side, side), generator=rng), torch.zeros(n, side, side).long()
    for i in range(n):
        r, c = torch.randint(0, side - 16, (2,), generator=rng).tolist()
        label[i, r : r + 16, c : c + 16] = 1
    return x * 0.5 + 2 * label[:, None], label


def test_centres_lie_in_the_middle_of_cells_column_first() -> None:
    wanted = [[0.25, 0.5], [0.75, 0.5]]
    assert automed.centres(1, 2, torch.device("cpu")).tolist() == wanted


def test_a_place_is_told_by_sines_and_cosines_of_its_random_waves() -> None:
    layer = automed.Positions(4)
    layer.positional_encoding_gaussian_matrix.copy_(torch.tensor([[0.25, 0.0], [0.0, 1.0]]))
    # the right rim, middle row: angles 2 pi (1 x 0.25) and 0
    found = layer(torch.tensor([1.0, 0.5]))
    assert found.tolist() == pytest.approx([1, 0, 0, 1], abs=1e-6)


@pytest.mark.parametrize("patch", [4, 8, 16, 32])
def test_prompts_lie_on_the_grid_of_tokens(patch: int) -> None:
    torch.manual_seed(0)
    prompts = automed.PromptGenerator(1, 16, patch, "instance")
    dense, sparse, places = prompts(torch.randn(2, 1, 2 * patch, 3 * patch))
    assert dense.shape == (2, 6, 16)
    assert sparse.shape == (2, 4, 16)
    assert places.shape == (6, 16)


def test_a_sparse_prompt_says_where_its_map_is_highest() -> None:
    """With a map that has one sharp peak, the token is that place's code and its own kind."""
    torch.manual_seed(0)
    prompts = automed.PromptGenerator(1, 16, 8, "instance").eval()
    torch.nn.init.zeros_(prompts.content.weight)
    torch.nn.init.zeros_(prompts.content.bias)
    peak = torch.zeros(1, 4, 2, 4)
    peak[0, 1, 1, 2] = 100.0
    prompts.where.register_forward_hook(lambda module, inputs, out: peak)
    _, sparse, places = prompts(torch.randn(1, 1, 16, 32))
    kind = prompts.point_embeddings[1].weight[0]
    assert torch.allclose(sparse[0, 1], places[1 * 4 + 2] + kind, atol=1e-5)
    # no peak: the middle of the image
    middle = prompts.pe_layer(torch.tensor([0.5, 0.5]))
    assert torch.allclose(sparse[0, 0], middle + prompts.point_embeddings[0].weight[0], atol=1e-5)


def test_masks_are_read_at_four_times_the_resolution_of_tokens() -> None:
    net = make(patch=4).eval()
    seen = []
    net.mask_decoder.register_forward_hook(lambda m, i, out: seen.append(tuple(out.shape)))
    assert net(torch.randn(1, 1, 16, 24)).shape == (1, 2, 16, 24)
    assert seen == [(1, 2, 16, 24)]
    assert make(patch=16).eval()(torch.randn(1, 1, 32, 48)).shape == (1, 2, 32, 48)


def test_every_class_has_an_mlp_of_its_own() -> None:
    torch.manual_seed(0)
    mlps, x = automed.ClassMlps(16, 3), torch.randn(2, 3, 16)
    for c in range(3):
        y = x[:, c]
        for i, (weight, bias) in enumerate(zip(mlps.weights, mlps.biases, strict=True)):
            y = F.linear(y.relu() if i else y, weight[c].T, bias[c])
        assert torch.allclose(mlps(x)[:, c], y, atol=1e-5)


def test_positions_are_told_apart() -> None:
    """The same bright spot elsewhere gives other tokens, or no mask could follow it."""
    net = make().eval()
    x = torch.zeros(2, 1, 32, 32)
    x[0, 0, 4:8, 4:8] = x[1, 0, 20:24, 20:24] = 1  # alike within their patches
    with torch.no_grad():
        features = net.image_encoder(x)
    assert (features[0, :, 0, 0] - features[1, :, 2, 2]).abs().max() > 1e-2


def test_one_patch_alone_is_refused_in_words() -> None:
    with pytest.raises(ConfigError, match="one patch") as caught:
        make()(torch.randn(1, 1, 8, 8))
    assert "(16, 16)" in str(caught.value)
    with pytest.raises(ConfigError):
        make(norm="layer")


@pytest.mark.slow
def test_it_learns_to_outline_a_bright_square() -> None:
    """With an overlap in the loss, as in use; the share of bright pixels alone would cost 1.1."""
    net = make().train()
    optimiser = torch.optim.AdamW(net.parameters(), 4e-3)
    losses = []
    for step in range(50):
        x, label = squares(4, 48, step)
        logits = net(x)
        inside = logits.softmax(1)[:, 1]
        overlap = 2 * (inside * label).sum() / (inside.sum() + label.sum())
        loss = F.cross_entropy(logits, label) + 1 - overlap
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < 0.3 * losses[0]
    x, label = squares(8, 48, 999)
    with torch.no_grad():
        found = net.eval()(x).argmax(1)
    dice = 2 * (found & label).sum() / (found.sum() + label.sum())
    assert dice > 0.7
