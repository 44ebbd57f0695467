from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from delineate.core import model_file
from delineate.core.errors import ConfigError, InputError, ModelFileError, ResourceError
from delineate.core.image import Grid, Image
from delineate.core.quantities import parse_bytes
from delineate.core.schema import Label, Schema
from delineate.inference.outlines import outline
from delineate.inference.runtimes.torch import choose_device, load, runtime
from delineate.inference.session import Session
from delineate.networks import _precision, unet
from delineate.preprocess.presets import Channel, Preparation

SCHEMA = Schema(labels=(Label("organ", 4), Label("lesion", 255)))
PREPARATION = Preparation(
    channels=(Channel("ct", "CT", "window", {"low": -1e6, "high": 1e6, "mean": 0.0, "std": 1.0}),),
    ndim=3,
    crop=False,
)


def write_model(path: Path, **change: Any) -> Path:
    """A small random U-Net in a model file."""
    settings = {"ndim": 3, "width": 4, "levels": 2, **change.pop("network", {})}
    channels = change.pop("weights_for", 1)
    torch.manual_seed(0)
    network = unet.build(unet.Config(**settings), channels, SCHEMA.num_outputs)
    document = {
        "network": {"name": "unet", "config": settings},
        "channels": ["ct"],
        "schema": SCHEMA.to_dict(),
        "preparation": PREPARATION.to_dict(),
        "input": {"patch": [8, 8, 8], "mirror_axes": [0, 1]},
        **change,
    }
    model_file.save(path, network.state_dict(), document)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_model(tmp_path / "m.safetensors")


def scan(shape: tuple[int, ...] = (11, 9, 12), spacing: float = 1.0) -> Image:
    array = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    affine = np.diag([*([spacing] * len(shape)), *([1.0] * (4 - len(shape)))])
    return Image(array, Grid(shape, affine))


def test_prediction_is_in_file_values_on_the_grid_with_facts(path: Path) -> None:
    image = scan(spacing=2.0)
    found = outline(Session.open(path, "cpu"), image, probabilities=True)
    assert found.labels.shape == image.grid.shape
    assert set(np.unique(found.labels)) <= {0, 4, 255}
    assert found.grid is image.grid
    assert found.probabilities is not None
    assert np.allclose(found.probabilities.sum(0), 1, atol=1e-5)
    values = np.array([0, 4, 255])[found.probabilities.argmax(0)]
    assert np.array_equal(found.labels, values)
    organ = int((found.labels == 4).sum())
    assert found.facts["voxels"]["organ"] == organ
    assert found.facts["volume_ml"]["organ"] == pytest.approx(organ * 8 / 1000)
    inside = found.labels > 0
    assert found.facts["confidence"] == pytest.approx(
        found.probabilities.max(0)[inside].mean(), abs=1e-5
    )
    assert set(found.facts["seconds"]) == {"prepare", "network", "home"}
    assert found.facts["peak_memory_mb"] > 10
    assert found.facts["warnings"] == []


def ball(radius: float = 20.0, size: int = 56) -> Image:
    at = np.indices((size,) * 3) - (size - 1) / 2 - 0.3
    array = (np.sqrt((at**2).sum(0)) < radius).astype(np.float32)[None]
    return Image(array, Grid((size,) * 3, np.eye(4)))


def least(session: Session, image: Image, **options: Any) -> int:
    """Hardly more memory than an image needs, by what its refusal says."""
    memory = 1.0
    for _ in range(8):
        try:
            outline(session, image, memory_bytes=int(memory), **options)
            return int(memory)
        except ResourceError as error:
            said = re.search(r"allow it with --memory (\S+?)(,|$)", error.fix or "")
            memory = parse_bytes(said[1]) if said else 1.25 * memory
    raise AssertionError("no memory is enough")


class Bright(torch.nn.Module):
    """Logits (0, x, -9)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([0.5 + 0 * x[:, 0], x[:, 0], 0 * x[:, 0] - 9], 1) * 2


def test_a_ball_comes_home_round_from_a_coarser_model(tmp_path: Path) -> None:
    """Probabilities are interpolated: labels of the model's 2 mm would be stairs (0.975)."""
    coarse = dataclasses.replace(PREPARATION, spacing_mm=(2.0, 2.0, 2.0))
    path = write_model(tmp_path / "m.safetensors", preparation=coarse.to_dict())
    session = with_network(Session.open(path, "cpu"), Bright())
    image = ball()
    truth = image.array[0] > 0
    for options in ({}, {"memory_bytes": least(session, image)}):
        mask = outline(session, image, **options).labels == 4
        assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.99


def with_network(session: Session, network: torch.nn.Module) -> Session:
    return Session(runtime(session.document, network, torch.device("cpu")))


ASKED = [{}, {"mirror": True}, {"probabilities": True}, {"crf": True},
         {"crf": True, "probabilities": True, "mirror": True}]  # fmt: skip


def test_a_few_rows_at_a_time_need_less_than_all_probabilities(path: Path) -> None:
    """64 x 24 x 24 voxels, 3 outputs: their probabilities alone would be 442 kB, twice held."""
    session = Session.open(path, "cpu")
    image = scan((64, 24, 24))
    few = outline(session, image, memory_bytes=1_100_000)
    assert np.array_equal(few.labels, outline(session, image).labels)


@pytest.mark.parametrize("options", ASKED)
@pytest.mark.parametrize("flat", [False, True])
def test_memory_decides_whether_never_what(
    tmp_path: Path, options: dict[str, Any], flat: bool
) -> None:
    """Resampled, cropped, oblique and turned; the largest part kept: the same to the last bit."""
    change: dict[str, Any] = {"crop": True, "spacing_mm": (1.7, 1.2, 2.2)}
    shape: dict[str, Any] = {"patch": [8, 8, 8], "mirror_axes": [0, 1]}
    network: dict[str, Any] = {}
    if flat:
        change |= {"ndim": 2, "slice_axis": 1, "spacing_mm": (1.7, None, 2.2)}
        shape = {"patch": [8, 8], "mirror_axes": [0], "slice_axis": 1, "neighbours": 1}
        network = {"network": {"ndim": 2}, "weights_for": 3}
    path = write_model(
        tmp_path / "m.safetensors", input=shape, postprocess={"keep_largest": ["organ"]},
        preparation=dataclasses.replace(PREPARATION, **change).to_dict(), **network,
    )  # fmt: skip
    session = Session.open(path, "cpu")
    array = np.zeros((1, 34, 24, 26), np.float32)
    array[0, 5:31, 3:22, 4:20] = scan((26, 19, 16)).array[0] + 3
    affine = np.eye(4)
    affine[:3, :3] = [[0, 0.95, -0.31], [-1.1, 0, 0], [0, 0.31, 0.95]]
    image = Image(array, Grid((34, 24, 26), affine))
    whole = outline(session, image, **options)
    few = outline(session, image, memory_bytes=least(session, image, **options), **options)
    assert np.array_equal(whole.labels, few.labels)
    assert len(np.unique(whole.labels)) > 1
    assert whole.facts["confidence"] == few.facts["confidence"]
    assert whole.facts["crf"] == few.facts["crf"]
    if options.get("probabilities"):
        assert np.array_equal(whole.probabilities, few.probabilities)


@pytest.mark.parametrize(("options", "word"), [({"probabilities": True}, "probab"), ({}, "memory")])
def test_too_little_memory_is_said_before_the_network_runs(
    path: Path, options: dict[str, Any], word: str
) -> None:
    with pytest.raises(ResourceError) as caught:
        outline(Session.open(path, "cpu"), scan(), memory_bytes=1000, **options)
    assert caught.value.code == "memory"
    assert word in (caught.value.fix or "")


def test_mirroring_only_along_the_axes_of_the_document(path: Path, tmp_path: Path) -> None:
    session = Session.open(path, "cpu")
    plain = outline(session, scan(), probabilities=True)
    mirrored = outline(session, scan(), probabilities=True, mirror=True)
    assert mirrored.facts["mirrored"]
    assert not np.allclose(plain.probabilities, mirrored.probabilities)
    never = Session.open(write_model(tmp_path / "n.safetensors", input={"patch": [8] * 3}), "cpu")
    with pytest.raises(ConfigError, match="--mirror") as caught:
        outline(never, scan(), mirror=True)
    assert caught.value.code == "option-model"


def test_post_processing_follows_the_document(tmp_path: Path) -> None:
    def parts(labels: Any, value: int) -> int:
        return int(ndimage.label(labels == value, np.ones((3, 3, 3)))[1])

    image = scan((24, 24, 24))
    plain = outline(Session.open(write_model(tmp_path / "a.safetensors"), "cpu"), image).labels
    name, value = max(("organ", 4), ("lesion", 255), key=lambda pair: parts(plain, pair[1]))
    other = 259 - value
    rules = {"keep_largest": [name]}
    path = write_model(tmp_path / "b.safetensors", postprocess=rules)
    cleaned = outline(Session.open(path, "cpu"), image).labels
    assert parts(plain, value) > 1
    assert parts(cleaned, value) == 1
    assert np.array_equal(plain == other, cleaned == other)


def test_what_is_smaller_than_it_can_be_is_taken_away_and_said(tmp_path: Path) -> None:
    image = scan((24, 24, 24))
    plain = outline(Session.open(write_model(tmp_path / "a.safetensors"), "cpu"), image).labels
    volume = float((plain == 255).sum())
    assert volume > 0
    for least, there in ((volume, True), (volume + 1, False)):
        rules = {"least_volume": {"lesion": least}}
        path = write_model(tmp_path / "b.safetensors", postprocess=rules)
        found = outline(Session.open(path, "cpu"), image)
        assert bool((found.labels == 255).any()) == there
        sentences = [line for line in found.facts["warnings"] if line.startswith("lesion: ")]
        assert len(sentences) == (not there)
        assert (found.facts["volume_ml"]["lesion"] > 0) == there
    unknown = dataclasses.replace(image.grid, spacing_known=False)
    assert (outline(Session.open(path, "cpu"), Image(image.array, unknown)).labels == 255).any()


def test_flat_model_takes_volumes_and_single_slices(tmp_path: Path) -> None:
    preparation = dataclasses.replace(PREPARATION, ndim=2, slice_axis=2)
    path = write_model(
        tmp_path / "flat.safetensors",
        network={"ndim": 2},
        weights_for=3,
        preparation=preparation.to_dict(),
        input={"patch": [8, 8], "slice_axis": 2, "neighbours": 1},
    )
    session = Session.open(path, "cpu")
    volume = scan((10, 9, 4))
    found = outline(session, volume).labels
    assert found.shape == (10, 9, 4)
    thin = Image(volume.array[..., :1], Grid((10, 9, 1), volume.grid.affine))
    flat = Image(volume.array[..., 0], Grid((10, 9), volume.grid.affine))
    assert np.array_equal(outline(session, flat).labels, outline(session, thin).labels[..., 0])


def test_spacing_outside_the_training_range_is_flagged(tmp_path: Path) -> None:
    seen = {"training_range": {"spacing_mm": {"min": [0.9, 0.9, 0.9], "max": [1.2, 1.2, 1.2]}}}
    session = Session.open(write_model(tmp_path / "m.safetensors", provenance=seen), "cpu")
    assert outline(session, scan()).facts["warnings"] == []
    warnings = outline(session, scan(spacing=2.5)).facts["warnings"]
    assert warnings == [
        "voxels of 2.5 × 2.5 × 2.5 mm, where the model was trained on "
        "0.9 to 1.2 × 0.9 to 1.2 × 0.9 to 1.2 mm"
    ]


@pytest.mark.parametrize(
    ("image", "code"),
    [
        (Image(np.ones((2, 9, 9, 9), np.float32), Grid((9, 9, 9), np.eye(4))), "channels"),
        (Image(np.ones((1, 9, 9), np.float32), Grid((9, 9), np.eye(4))), "dimensions"),
    ],
)
def test_images_that_do_not_fit_are_refused(path: Path, image: Image, code: str) -> None:
    with pytest.raises(InputError) as caught:
        outline(Session.open(path, "cpu"), image)
    assert caught.value.code == code


def drop(tensors: dict[str, Any]) -> None:
    tensors.pop("heads.0.bias")


def add(tensors: dict[str, Any]) -> None:
    tensors["extra"] = np.zeros(2)


def reshape(tensors: dict[str, Any]) -> None:
    tensors["heads.0.bias"] = np.zeros(7, np.float32)


@pytest.mark.parametrize(
    ("change", "word"),
    [(drop, "heads.0.bias is missing"), (add, "extra is unknown"), (reshape, r"is \(7,\) instead")],
)
def test_weights_that_do_not_fit_the_network_are_refused(
    path: Path, change: Callable[[dict[str, Any]], None], word: str
) -> None:
    file = model_file.load(path)
    tensors = dict(file.tensors)
    change(tensors)
    model_file.save(path, tensors, file.document)
    with pytest.raises(ModelFileError, match=word) as caught:
        Session.open(path, "cpu")
    assert caught.value.code == "model-file-weights"
    assert caught.value.where == str(path)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"network": {"name": "unett", "config": {}}}, "model-file-network"),
        ({"network": {"name": "unet", "config": {"wdith": 3}}}, "model-file-network"),
        ({"network": {"name": "unet", "config": {"ndim": 7}}}, "model-file-network"),
        ({"schema": {}}, "model-file-network"),
        ({"preparation": {}}, "model-file-document"),
    ],
)
def test_documents_that_name_what_is_not_there_are_refused(
    path: Path, change: dict[str, Any], code: str
) -> None:
    file = model_file.load(path)
    model_file.save(path, file.tensors, {**file.document, **change})
    with pytest.raises(ModelFileError) as caught:
        Session.open(path, "cpu")
    assert caught.value.code == code
    assert caught.value.where == str(path)


def test_a_document_that_names_another_module_loads_nothing(path: Path) -> None:
    file = model_file.load(path)
    for name in ("../core/errors", "os", "_blocks", "unet.unet"):
        network = {"name": name, "config": {}}
        model_file.save(path, file.tensors, {**file.document, "network": network})
        with pytest.raises(ModelFileError):
            Session.open(path, "cpu")


@pytest.mark.parametrize("name", ["cuda:99", "nonsense", "xpu"])
def test_devices_that_are_not_there_are_refused(name: str) -> None:
    with pytest.raises(ResourceError) as caught:
        choose_device(name)
    assert caught.value.code == "device"


class Failing(torch.nn.Module):
    def __init__(self, why: str) -> None:
        super().__init__()
        self.why = why

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError(self.why)


def test_memory_fault_of_the_network_is_said_in_words(path: Path) -> None:
    why = "[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"
    session = with_network(Session.open(path, "cpu"), Failing(why))
    with pytest.raises(ResourceError, match="memory ran out"):
        outline(session, scan())


def test_fault_of_the_network_is_not_taken_for_a_memory_fault(path: Path) -> None:
    session = with_network(Session.open(path, "cpu"), Failing("shapes"))
    with pytest.raises(RuntimeError, match="shapes"):
        outline(session, scan())


def test_sixteen_bits_give_nearly_the_same_probabilities(path: Path, sixteen_bits: None) -> None:
    windows = np.random.default_rng(0).normal(size=(2, 1, 8, 8, 8)).astype(np.float32)
    half = load(path, "cpu").infer(windows)["probabilities"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_precision, "measured", lambda: False)
        whole = load(path, "cpu").infer(windows)["probabilities"]
    assert half.dtype == np.float32
    assert 0 < np.abs(half - whole).max() < 0.02
