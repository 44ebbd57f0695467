"""Maps of parts that a model keeps beside its predictor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from delineate.core import config, model_file
from delineate.core.errors import ConfigError, ModelFileError, ResourceError
from delineate.core.image import Grid, Image
from delineate.core.schema import Label, Schema
from delineate.inference.outlines import outline
from delineate.inference.session import Session
from delineate.networks import patch_critic, segan_critic, unet
from delineate.preprocess.presets import Channel, Preparation

SCHEMA = Schema((Label("organ", 1), Label("lesion", 2)))
PREPARATION = Preparation(  # changes nothing
    (Channel("ct", "CT", "window", {"low": -1e6, "high": 1e6, "mean": 0.0, "std": 1.0}),),
    ndim=3,
    crop=False,
)
SHAPE = patch_critic.Config(3, 4)
PART: dict[str, Any] = {
    "network": {"name": "patch_critic", "config": config.to_dict(SHAPE)},
    "channels": 4,
    "outputs": 1,
    "sees": {"sees": "joined", "activation": "softmax"},
}

torch.manual_seed(0)
NETWORK = unet.build(unet.Config(3, 4, 2), 1, 3).eval()
CRITIC = patch_critic.build(SHAPE, 4).eval()


def write(path: Path, weights: dict[str, Any] | None = None, **change: Any) -> Path:
    document = {
        "network": {"name": "unet", "config": config.to_dict(NETWORK.config)},
        "channels": ["ct"],
        "schema": SCHEMA.to_dict(),
        "preparation": PREPARATION.to_dict(),
        "input": {"patch": [8, 8, 8], "mirror_axes": [0]},
        "parts": {"critic": {**PART, **change}},
    }
    weights = dict(CRITIC.state_dict()) if weights is None else weights
    model_file.save(path, NETWORK.state_dict(), document, {"critic": weights})
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "m.safetensors")


def scan(*shape: int) -> Image:
    array = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    return Image(array, Grid(shape, np.eye(4)))


def by_hand(image: Image) -> np.ndarray[Any, Any]:
    """What the critic says of one window, put together without the room under test."""
    shown = torch.from_numpy(image.array)[None]
    with torch.no_grad():
        scores = CRITIC.score_map(torch.cat([shown, NETWORK(shown).softmax(1)], 1))
    found: np.ndarray[Any, Any] = scores[0].numpy()
    return found


def test_a_critic_scores_what_the_predictor_drew_on_the_image_s_grid(path: Path) -> None:
    image = scan(8, 8, 8)
    session = Session.open(path, "cpu", parts=["critic"])
    found = outline(session, image, maps=["critic"])
    assert found.maps["critic"].shape == (1, 8, 8, 8)
    assert np.allclose(found.maps["critic"], by_hand(image), atol=1e-5)


def test_mirrored_passes_are_averaged_like_any_map(path: Path) -> None:
    image = scan(8, 8, 8)
    turned = Image(np.ascontiguousarray(image.array[:, ::-1]), image.grid)
    session = Session.open(path, "cpu", parts=["critic"])
    found = outline(session, image, maps=["critic"], mirror=True).maps["critic"]
    wanted = (by_hand(image) + by_hand(turned)[:, ::-1]) / 2
    assert np.allclose(found, wanted, atol=1e-5)


def test_whoever_asks_for_a_map_gets_the_same_outline(path: Path) -> None:
    image = scan(11, 9, 12)
    plain = outline(Session.open(path, "cpu"), image, probabilities=True)
    session = Session.open(path, "cpu", parts=["critic"])
    asked = outline(session, image, probabilities=True, maps=["critic"])
    assert plain.maps == {}
    assert asked.maps["critic"].shape == (1, 11, 9, 12)
    assert np.array_equal(plain.labels, asked.labels)
    assert np.array_equal(plain.probabilities, asked.probabilities)


def test_the_memory_of_a_map_counts(path: Path) -> None:
    session = Session.open(path, "cpu", parts=["critic"])
    image, options = scan(40, 40, 40), {"memory_bytes": 2_200_000}
    outline(session, image, **options)
    with pytest.raises(ResourceError, match="critic"):
        outline(session, image, maps=["critic"], **options)


def test_a_part_that_the_model_does_not_have_is_refused_with_those_it_has(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\(probabilities, critic\), got judge") as caught:
        Session.open(path, "cpu", parts=["judge"])
    assert caught.value.code == "map-unknown"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"network": {**PART["network"], "name": "crtic"}}, "got 'crtic'"),
        ({"network": {**PART["network"], "config": {"depth": 1}}}, "depth"),
        ({"sees": {"sees": "tea leaves"}}, "tea leaves"),
        ({"channels": 5}, "tensors of the critic"),
        ({"weights": {"layers.0.bias": np.zeros(4)}}, "tensors of the critic"),
        ({"network": {"name": "segan_critic", "config": {}}}, "segan_critic gives no score_map"),
    ],
)
def test_a_damaged_part_is_refused_where_it_is_asked_for_alone(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    path = write(tmp_path / "m.safetensors", **change)
    Session.open(path, "cpu")
    with pytest.raises(ModelFileError, match=words) as caught:
        Session.open(path, "cpu", parts=["critic"])
    assert caught.value.where == str(path)


def test_segan_s_critic_has_no_map() -> None:
    """It compares two masks; were this to change, the method should keep it."""
    assert not hasattr(segan_critic.build(segan_critic.Config(), 1), "score_map")
