"""The fully connected CRF: against its definition, against its authors' program, and in use."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from tests.inference.test_session import scan, write_model
from torch import Tensor

from delineate.core.errors import ConfigError, GeometryError, ModelFileError, ResourceError
from delineate.core.image import Grid, Image
from delineate.core.quantities import parse_bytes
from delineate.data import readers
from delineate.inference import crf
from delineate.inference._lattice import Lattice
from delineate.inference.crf import Config, estimate_bytes, refine
from delineate.inference.outlines import outline
from delineate.inference.session import Session
from delineate.tasks.predict import predict

STRONG = Config(appearance_weight=4, appearance_mm=8, intensity=0.15, smoothness_weight=1)


def blob(
    shape: tuple[int, ...], channels: int = 1, labels: int = 2, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy probabilities, a noisy image and the truth: balls within each other."""
    rng = np.random.default_rng(seed)
    radius = np.sqrt(sum(a**2 for a in np.meshgrid(*[np.linspace(-1, 1, s) for s in shape])))
    truth = sum((radius.swapaxes(0, 1) < 0.7 / k).astype(int) for k in range(1, labels))
    image = np.stack([truth + 0.12 * rng.normal(size=shape) for _ in range(channels)])
    logits = 2 * np.eye(labels)[truth] + 1.5 * rng.normal(size=(*shape, labels))
    p = torch.from_numpy(logits).float().softmax(-1).movedim(-1, 0)
    return p, torch.from_numpy(image).float(), torch.from_numpy(np.asarray(truth))


def by_definition(
    p: NDArray[Any], points: list[tuple[float, NDArray[Any]]], steps: int
) -> NDArray[Any]:
    """Mean field in plain loops over pairs; ``p (N, L)``, points ``(N, d)`` with their weights."""
    count, labels = p.shape
    q = p / p.sum(1, keepdims=True)
    for _ in range(steps):
        energy = -np.log(p)
        for weight, x in points:
            k = np.exp([[-0.5 * np.sum((a - b) ** 2) for b in x] for a in x])
            total = k.sum(1)
            for i, j in itertools.product(range(count), range(count)):
                for a, b in itertools.product(range(labels), range(labels)):
                    if a != b:  # Potts: unlike labels cost
                        energy[i, a] += weight * k[i, j] / math.sqrt(total[i] * total[j]) * q[j, b]
        q = np.exp(-energy)
        q /= q.sum(1, keepdims=True)
    return q


def test_exact_inference_is_the_definition() -> None:
    p, image, _ = blob((4, 5), channels=2, labels=3)
    config = Config(1.5, 3.0, 0.4, 0.7, 2.0, iterations=3)
    spacing = (0.5, 2.0)
    where = np.stack(np.meshgrid(np.arange(4) * 0.5, np.arange(5) * 2.0, indexing="ij"), -1)
    where = where.reshape(-1, 2)
    colour = crf._intensities(image).numpy()
    both = np.concatenate([where / 3.0, colour / 0.4], axis=1)
    flat = p.flatten(1).T.double().numpy()
    expected = by_definition(flat, [(0.7, where / 2.0), (1.5, both)], 3)
    found = refine(p, image, spacing, config, exact=True)
    assert found.flatten(1).T.numpy() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("shape", "channels", "labels"),
    [((40, 36), 1, 2), ((30, 32), 3, 4), ((12, 12, 11), 1, 3), ((10, 12, 12), 4, 2)],
)
def test_the_fast_way_agrees_with_the_exact_one(
    shape: tuple[int, ...], channels: int, labels: int
) -> None:
    p, image, truth = blob(shape, channels, labels)
    spacing = (1.0, 1.5, 2.0)[: len(shape)]
    exact = refine(p, image, spacing, STRONG, exact=True)
    fast = refine(p, image, spacing, STRONG)
    assert (fast - exact).abs().mean() < 0.01
    assert (fast.argmax(0) == exact.argmax(0)).double().mean() > 0.985
    before, after = ((q.argmax(0) == truth).double().mean() for q in (p, fast))
    assert after > before + 0.05


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4, 6])
def test_the_lattice_is_a_gaussian(dimensions: int) -> None:
    rng = torch.Generator().manual_seed(dimensions)
    points = 0.8 * torch.randn((900, dimensions), generator=rng)
    values = torch.rand((900, 2), generator=rng)
    exact = crf._exact(points)(values.T).T
    found = Lattice(points)(values)
    assert (found - exact).norm() / exact.norm() < (0.02 if dimensions < 4 else 0.06)
    assert torch.equal(Lattice(points)(values), found)


def test_the_lattice_in_pieces_is_the_lattice(monkeypatch: pytest.MonkeyPatch) -> None:
    points = torch.randn((700, 3), generator=torch.Generator().manual_seed(0))
    values = torch.rand((700, 2))
    whole = Lattice(points)(values)
    monkeypatch.setattr("delineate.inference._lattice._CHUNK", 64)
    monkeypatch.setattr("delineate.inference._lattice._ROWS", 50)
    assert torch.allclose(Lattice(points)(values), whole, atol=1e-6)


def test_smoothing_is_the_gaussian_over_all_pairs_and_that_of_scipy() -> None:
    values = torch.rand((2, 17, 23), generator=torch.Generator().manual_seed(0))
    widths = [1.5, 3.0]
    separable = crf._Separable((17, 23), widths, values.device)(values)
    exact = crf._exact(crf._positions((17, 23), widths, values.device))(values)
    assert torch.allclose(separable, exact, atol=2e-4)
    ones = ndimage.gaussian_filter(np.ones((17, 23)), widths, mode="constant")
    blurred = ndimage.gaussian_filter(values[0].numpy() / np.sqrt(ones), widths, mode="constant")
    assert separable[0].numpy() == pytest.approx(blurred / np.sqrt(ones), abs=2e-3)


@pytest.mark.parametrize("labels", [2, 4])
def test_it_agrees_with_the_authors_program(labels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    densecrf = pytest.importorskip("pydensecrf.densecrf", reason="pydensecrf2 is not installed")
    p, image, _ = blob((64, 48), 3, labels)
    colour = (255 * (image - image.min()) / (image.max() - image.min())).byte()
    config = Config(4.0, 30.0, 12 / 255, 3.0, 3.0, iterations=10)
    theirs = densecrf.DenseCRF2D(48, 64, labels)
    unary = -p.clamp_min(1e-5).log().flatten(1).numpy()
    theirs.setUnaryEnergy(np.ascontiguousarray(unary, np.float32))
    theirs.addPairwiseGaussian(sxy=3, compat=3)
    rgb = np.ascontiguousarray(colour.permute(1, 2, 0).numpy())
    theirs.addPairwiseBilateral(sxy=30, srgb=12, rgbim=rgb, compat=4)
    expected = np.array(theirs.inference(10)).reshape(labels, 64, 48)
    monkeypatch.setattr(crf, "_intensities", lambda image: (image.flatten(1).float() / 255).T)
    found = refine(p, colour.float(), (1.0, 1.0), config).numpy()
    assert np.abs(found - expected).mean() < 0.002
    assert (found.argmax(0) == expected.argmax(0)).mean() > 0.995


def test_an_outline_is_drawn_to_the_edge_of_the_image() -> None:
    truth = torch.zeros((32, 32), dtype=torch.long)
    truth[8:24, 8:24] = 1
    drawn = torch.zeros((32, 32))
    drawn[10:26, 10:26] = 1  # two pixels off
    p = torch.stack([1 - drawn, drawn]) * 0.6 + 0.2
    image = truth[None] + 0.05 * torch.randn(
        (1, 32, 32), generator=torch.Generator().manual_seed(0)
    )
    found = refine(p, image, (1.0, 1.0), STRONG).argmax(0)
    assert (found != truth).sum() < 0.1 * (drawn != truth).sum()


def test_widths_are_millimetres() -> None:
    p, image, _ = blob((20, 24))
    half = dataclasses.replace(STRONG, appearance_mm=4.0, smoothness_mm=0.75)
    large = refine(p, image, (2.0, 2.0), STRONG)
    assert torch.allclose(large, refine(p, image, (1.0, 1.0), half), atol=1e-6)
    far = dataclasses.replace(STRONG, appearance_weight=0.0)  # columns do not know each other
    assert torch.allclose(
        refine(p, image, (1.0, 50.0), far)[:, :, 3:4],
        refine(p[:, :, 3:4], image[:, :, 3:4], (1.0, 50.0), far),
        atol=1e-5,
    )


def test_without_kernels_nothing_changes() -> None:
    p, image, _ = blob((9, 8))
    none = Config(appearance_weight=0.0, smoothness_weight=0.0)
    assert torch.allclose(refine(p, image, (1.0, 1.0), none), p, atol=1e-4)
    assert torch.equal(p, blob((9, 8))[0])  # the input is not changed


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_certainty_and_flat_images_give_no_nan(value: float) -> None:
    p = torch.zeros((3, 6, 7))
    p[1] = 1
    found = refine(p, torch.full((2, 6, 7), value), (1.0, 1.0))
    assert torch.allclose(found.sum(0), torch.ones((6, 7)), atol=1e-5)
    assert (found.argmax(0) == 1).all()


def test_one_very_bright_voxel_does_not_blind_it() -> None:
    p, image, truth = blob((32, 32))
    image[0, 0, 0] = 1e6
    found = refine(p, image, (1.0, 1.0), STRONG)
    assert (found.argmax(0) == truth).double().mean() > 0.97


def test_what_does_not_belong_together_is_refused() -> None:
    p, _, _ = blob((9, 8))
    for shape, spacing in (((1, 8, 8), (1.0, 1.0)), ((1, 9, 8), (1.0,))):
        with pytest.raises(GeometryError, match="expected an image") as caught:
            refine(p, torch.zeros(shape), spacing)
        assert caught.value.code == "crf-shape"


@pytest.mark.parametrize("name", ["appearance_mm", "intensity", "smoothness_mm", "iterations"])
def test_widths_of_nothing_are_refused(name: str) -> None:
    for value in (0, -1, math.nan, math.inf):
        with pytest.raises(ConfigError, match=name):
            Config(**{name: value})
    with pytest.raises(ConfigError, match="at least 0"):
        Config(appearance_weight=-1.0)


def test_memory_is_bounded() -> None:
    p, _, _ = blob((40, 40), channels=1)
    noise = torch.rand((4, 40, 40), generator=torch.Generator().manual_seed(0))
    fine = dataclasses.replace(STRONG, intensity=0.01)
    need = estimate_bytes((40, 40), channels=4, outputs=2)
    with pytest.raises(ResourceError, match="hardly two voxels are alike") as caught:
        refine(p, noise, (1.0, 1.0), fine, memory_bytes=need + 10_000)
    assert caught.value.code == "lattice"
    calm = torch.zeros((4, 40, 40))
    refine(p, calm, (1.0, 1.0), STRONG, memory_bytes=need + 100_000)


def test_more_features_than_can_be_numbered_are_refused() -> None:
    with pytest.raises(ResourceError, match="spread less"):
        Lattice(1e6 * torch.randn((10, 6)))


# --- in use ---------------------------------------------------------------------------------------

CRF = {"appearance_weight": 8.0, "smoothness_weight": 8.0}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "m.safetensors", postprocess={"crf": CRF})


def test_a_model_that_asks_for_it_gets_it(model: Path) -> None:
    session = Session.open(model, "cpu")
    found = outline(session, scan(spacing=2.0), probabilities=True)
    plain = outline(session, scan(spacing=2.0), probabilities=True, crf=False)
    assert found.facts["crf"]["appearance_weight"] == 8.0
    assert found.facts["crf"]["iterations"] == Config().iterations  # what was not said is told
    assert "crf" in found.facts["seconds"]
    assert plain.facts["crf"] is None
    assert "crf" not in plain.facts["seconds"]
    assert not np.array_equal(found.labels, plain.labels)
    assert found.probabilities is not None
    assert plain.probabilities is not None
    expected = refine(
        torch.from_numpy(plain.probabilities), torch.from_numpy(scan().array), (2.0,) * 3,
        Config(**CRF),
    )  # fmt: skip
    assert found.probabilities == pytest.approx(expected.numpy(), abs=1e-4)


def test_labels_confidence_and_probabilities_agree(model: Path) -> None:
    session = Session.open(model, "cpu")
    kept = outline(session, scan(), probabilities=True)
    assert kept.probabilities is not None
    index = kept.probabilities.argmax(0)
    assert np.array_equal(kept.labels, np.array([0, 4, 255])[index])
    assert np.array_equal(outline(session, scan()).labels, kept.labels)
    sure = kept.probabilities.max(0)[index > 0].mean() if (index > 0).any() else None
    assert kept.facts["confidence"] == pytest.approx(sure, abs=1e-5)


def test_a_model_that_does_not_ask_can_be_told_to(tmp_path: Path) -> None:
    session = Session.open(write_model(tmp_path / "m.safetensors"), "cpu")
    assert outline(session, scan()).facts["crf"] is None
    assert outline(session, scan(), crf=True).facts["crf"] == dataclasses.asdict(Config())


def test_where_memory_is_short_the_image_is_refused_before_the_network_runs(
    model: Path,
) -> None:
    """Without it the mask would be another one: that is for a person to choose."""
    runtime = Session.open(model, "cpu").runtime
    session = Session(dataclasses.replace(runtime, infer=lambda _: pytest.fail("the network ran")))
    image = scan((40, 24, 24))
    memory = 1_000_000
    for why in ("this image", "hardly two voxels are alike"):
        with pytest.raises(ResourceError, match=why) as caught:
            outline(session, image, memory_bytes=memory)
        assert caught.value.code == "memory"
        assert "--crf false" in (caught.value.fix or "")
        said = re.search(r"with --memory (\S+?),", caught.value.fix or "")
        memory = parse_bytes(said[1]) if said else 0


@pytest.mark.parametrize("wrong", [{"strength": 3}, {"iterations": 0}, True, [1]])
def test_a_model_with_impossible_settings_is_refused(tmp_path: Path, wrong: Any) -> None:
    path = write_model(tmp_path / "m.safetensors", postprocess={"crf": wrong})
    with pytest.raises(ModelFileError):
        Session.open(path, "cpu")


def test_the_command_has_a_switch(model: Path, tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    image = Image(scan().array, Grid((11, 9, 12), np.eye(4)))
    readers.write(tmp_path / "scans" / "a.nii.gz", image)
    for crf_, asked in ((None, True), (True, True), (False, False)):
        out = tmp_path / f"out-{crf_}"
        predict(model, tmp_path / "scans", out, crf=crf_, device="cpu")
        index = json.loads((out / "predictions.json").read_text())
        assert index["settings"]["crf"] is asked
        assert (index["cases"][0]["facts"]["crf"] is not None) == asked
