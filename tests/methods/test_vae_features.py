from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from delineate.core import config as settings
from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.core.errors import ConfigError
from delineate.core.schema import Label, Schema
from delineate.methods import vae_features
from delineate.methods._plan import Plan
from delineate.networks import _vae as vae
from delineate.networks import cnn, film_unet, vae_cnn

SCHEMA = Schema((Label("a", 1),), classes=("wide", "tall"))
CONTEXT = Context(2, 2, 2, SCHEMA, target="class")
SMALL: dict[str, Any] = {"ndim": 2, "width": 8, "common": 16, "unique": 8, "grid": 2}


def sequences(count: int, seed: int, size: int = 16) -> Batch:
    """An ellipse in two sequences: its shape is shared, contrast and stripes are each one's own."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand((count, 1, 1), generator=generator)

    axis = torch.linspace(-1, 1, size)
    y, x = axis[:, None], axis[None]
    klass = torch.randint(2, (count,), generator=generator)
    tall = torch.where(klass > 0, 1.22, 0.82)[:, None, None]
    away = ((y - draw(-0.4, 0.4)) / tall).square() + ((x - draw(-0.4, 0.4)) * tall).square()
    inside = (away < draw(0.45, 0.55).square()).float()
    first = draw(0.8, 2.0) * inside + draw(-0.5, 0.5) * torch.sin(9 * x)
    second = -draw(0.8, 2.0) * inside + draw(-0.5, 0.5) * torch.sin(9 * y)
    image = torch.stack([first, second], 1)
    image += 0.05 * torch.randn(image.shape, generator=generator)
    return Batch(image, inside.to(torch.uint8), class_index=klass)


def make(network: Any = vae_cnn, **given: Any) -> tuple[Any, Plan]:
    torch.manual_seed(0)
    net = network.build(network.Config(**SMALL), 2, 2)
    return net, vae_features.build(settings.from_dict(given, vae_features.Config), net, CONTEXT)


def trained(engine: Callable[..., Any], steps: int = 240, **given: Any) -> Any:
    """A small network after some steps; the learning rate rises and falls."""
    net, plan = make(learning_rate=5e-3, **given)
    (optimiser,) = plan.stages[0].optimisers.values()
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 5e-3 * min(1, (step + 1) / 20) * (1 - step / steps)
        plan.stages[0].step(sequences(16, 1000 + step), engine(step / steps))
    return net.eval()


class Codes:
    """What a trained network says of sequences that it has never seen."""

    def __init__(self, net: Any, count: int = 400) -> None:
        batch = sequences(count, 7)
        torch.manual_seed(1)
        with torch.no_grad():
            self.both = net.branches(batch.image)
            self.right = (net(batch.image).argmax(1) == batch.class_index).float().mean().item()
        means = [nn.functional.normalize(c.common.mean, dim=1) for c in self.both]
        cosines = means[0] @ means[1].T
        self.same = cosines.diagonal().mean().item()
        self.strangers = (cosines.sum() - cosines.trace()).item() / (count * (count - 1))

    def probe(self, part: str) -> float:
        """How often a logistic regression tells from a code which sequence it is of."""
        with torch.no_grad():
            drawn = [getattr(codes, part).draw().numpy() for codes in self.both]
        half = len(drawn[0]) // 2
        known, new = (np.concatenate([d[i] for d in drawn]) for i in (np.s_[:half], np.s_[half:]))
        which = np.repeat([0, 1], half)
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
        return float(model.fit(known, which).score(new, which))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ------------------------------------------------------------------------------ what codes hold


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_the_sound_loss_parts_what_is_shared_from_what_is_not(engine: Callable[..., Any]) -> None:
    codes = Codes(trained(engine))
    assert codes.same > 0.9
    assert codes.strangers < 0.6, "the common code is about the image, it is not a constant"
    assert codes.probe("unique") >= 0.9
    assert codes.probe("common") < 0.65
    assert codes.right > 0.9


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_the_printed_cosine_drives_common_codes_apart(engine: Callable[..., Any]) -> None:
    codes = Codes(trained(engine, steps=80, cosine="printed"))  # and everything else sound
    assert codes.same < -0.5
    assert codes.probe("common") > 0.9, "which sequence it is of is all over the common code"


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_the_literal_sum_drives_them_apart_too(engine: Callable[..., Any]) -> None:
    assert Codes(trained(engine, steps=60, preset="literal")).same < -0.5


# ------------------------------------------------------------------------------------- the terms


def normal(mean: Any, log_variance: Any) -> vae.Normal:
    return vae.Normal(torch.tensor(mean), torch.tensor(log_variance))


def test_the_divergence_is_that_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    code = vae.Normal(*torch.randn((2, 5, 7), generator=generator))
    spread = (0.5 * code.log_variance).exp()
    each = kl_divergence(Normal(code.mean, spread), Normal(0.0, 1.0))  # type: ignore[no-untyped-call]
    torch.testing.assert_close(vae_features.kl(code), each.mean(0))


def test_free_bits_by_hand() -> None:
    # mean^2 / 2 where the variance is 1: 0.5, 0.02 and 0 nats; mean over the batch, then the floor
    code = normal([[1.0, 0.2, 0.0], [1.0, 0.2, 0.0]], [[0.0] * 3] * 2)
    still = normal([[0.0]] * 2, [[0.0]] * 2)
    both = (vae.Codes(code, still), vae.Codes(still, still))
    total, free = vae_features.divergence(both, 0.05)
    assert total.item() == pytest.approx(0.52)
    assert free.item() == pytest.approx(0.5 + 5 * 0.05)
    assert vae_features.divergence(both, 0.0)[1].item() == pytest.approx(0.52)
    # a number whose variance is 1/4: (0.25 - 1 + log 4) / 2
    assert vae_features.kl(normal([[0.0]], [[math.log(0.25)]])).item() == pytest.approx(
        (math.log(4) - 0.75) / 2
    )


def test_what_is_free_has_no_gradient() -> None:
    mean = torch.tensor([[1.0, 0.2]], requires_grad=True)
    code = vae.Normal(mean, torch.zeros_like(mean))
    still = normal([[0.0]], [[0.0]])
    vae_features.divergence((vae.Codes(code, still), vae.Codes(still, still)), 0.05)[1].backward()
    assert mean.grad is not None
    assert mean.grad.tolist() == [[1.0, 0.0]]


def test_active_units_are_those_that_differ_between_images() -> None:
    code = normal(
        [[0.0, 1.0, 0.00], [0.5, 1.0, 0.19]], [[0.0] * 3] * 2
    )  # variance 0.0625, 0, 0.009
    still = normal([[3.0]] * 2, [[0.0]] * 2)
    found = vae_features.active_units((vae.Codes(code, still), vae.Codes(still, still)))
    assert found.item() == 1


def test_cosines_by_hand() -> None:
    def codes(common: list[float], unique: list[float]) -> vae.Codes:
        return vae.Codes(*(normal([v], [[0.0] * len(v)]) for v in (common, unique)))

    first, second = codes([0.0, 0.0, 2.0], [1.0, 0.0]), codes([0.0, 0.0, 5.0], [0.0, -3.0])
    assert vae_features.disentangled(first, second).item() == pytest.approx(0)
    assert vae_features.printed_cosine(first, second).item() == pytest.approx(1)
    # common codes at right angles: 1; unique ones opposed: 1; within the first a cosine of 0.6
    first, second = codes([3.0, 4.0, 0.0], [2.0, 0.0]), codes([4.0, -3.0, 0.0], [-1.0, 0.0])
    expected = 1 + 1 + (0.6 + 0.8) / 2
    assert vae_features.disentangled(first, second).item() == pytest.approx(expected)
    assert vae_features.printed_cosine(first, second).item() == pytest.approx(0)


# -------------------------------------------------------------------------------------- the step


def test_the_loss_is_the_sum_of_what_the_log_says(engine: Callable[..., Any]) -> None:
    config = vae_features.Config(free_nats=0.0)
    for progress, beta in ((0.0, 0.0), (0.15, 5e-4), (0.3, 1e-3), (1.0, 1e-3)):
        said = make(free_nats=0.0)[1].stages[0].step(sequences(4, 0), engine(progress))
        total = (
            said["loss_reconstruction"]
            + 0.5 * said["loss_swapped"]
            + beta * said["kl"]
            + 0.1 * said["loss_cosine"]
            + said["loss_answer"]
        )
        assert said["loss"].item() == pytest.approx(total.item(), rel=1e-5)
    assert (config.swap_weight, config.beta, config.warm_up) == (0.5, 1e-3, 0.3)


def test_reconstruction_is_the_mean_over_voxels_or_the_norm(engine: Callable[..., Any]) -> None:
    batch = sequences(1, 0)
    _, plan = make(beta=0.0)
    mean = plan.stages[0].step(batch, engine())["loss_reconstruction"].item()
    _, plan = make(preset="literal")
    norm = plan.stages[0].step(batch, engine())["loss_reconstruction"].item()
    # of one image each: sqrt(m1 n) + sqrt(m2 n), where m1 + m2 = mean
    assert math.sqrt(mean * 256) <= norm <= math.sqrt(2 * mean * 256)


def test_classes_teach_the_encoders_and_outlines_do_not(engine: Callable[..., Any]) -> None:
    """One step from the same weights on the same images with other answers."""

    def moved(network: Any, other: Batch) -> bool:
        found = []
        for batch in (sequences(4, 0), other):
            net, plan = make(network)
            torch.manual_seed(3)
            plan.stages[0].step(batch, engine())
            found.append(net.branches.state_dict())
        return any(not torch.equal(found[0][key], found[1][key]) for key in found[0])

    batch = sequences(4, 0)
    assert batch.class_index is not None
    assert moved(vae_cnn, Batch(batch.image, batch.label, class_index=1 - batch.class_index))
    assert not moved(film_unet, Batch(batch.image, 1 - batch.label, class_index=batch.class_index))


def test_decoders_serve_training_alone() -> None:
    net, plan = make()
    assert plan.predictor is net
    assert not any("decod" in name for name in net.state_dict())
    assert "decoders" in plan.stages[0].modules


def test_another_network_is_refused() -> None:
    net = cnn.build(cnn.Config(), 2, 2)
    with pytest.raises(ConfigError, match="'cnn'") as caught:
        vae_features.build(vae_features.Config(), net, CONTEXT)
    assert "vae_cnn" in (caught.value.fix or "")


def test_impossible_settings_are_refused() -> None:
    for wrong in ({"beta": -1.0}, {"warm_up": 2.0}, {"label_smoothing": 1.0}, {"preset": "best"}):
        with pytest.raises(ConfigError):
            settings.from_dict(wrong, vae_features.Config)
