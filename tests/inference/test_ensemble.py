from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.inference.test_session import PREPARATION, SCHEMA, least, scan, with_network, write_model

from delineate.core import model_file
from delineate.core.errors import ConfigError, ModelFileError, ResourceError
from delineate.core.image import Grid, Image
from delineate.core.schema import Label, Schema
from delineate.inference.classes import classify, mean_of_slices
from delineate.inference.ensemble import Ensemble, model_files, open_models
from delineate.inference.outlines import outline
from delineate.inference.session import Session


class Constant(torch.nn.Module):
    """The same logits everywhere."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = (len(x), len(self.logits), *x.shape[2:])
        return self.logits.view(1, -1, *(1,) * (x.ndim - 2)).expand(shape)


def member(folder: Path, name: str, *logits: float, **change: Any) -> Session:
    """A model file that differs from others by its provenance, if by nothing else."""
    path = write_model(folder / f"{name}.safetensors", config={"name": name}, **change)
    session = Session.open(path, "cpu")
    return with_network(session, Constant(*logits)) if logits else session


def prepared(**change: Any) -> dict[str, Any]:
    return dataclasses.replace(PREPARATION, **change).to_dict()


def test_probabilities_are_averaged_and_not_labels(tmp_path: Path) -> None:
    """Two of three say background by a hair, one is sure of the lesion."""
    hair, sure = np.log([0.4, 0.3, 0.3]), np.log([0.05, 0.05, 0.9])
    members = [member(tmp_path, n, *x) for n, x in zip("abc", (hair, hair, sure), strict=True)]
    found = outline(Ensemble(members), scan(), probabilities=True)
    assert found.probabilities is not None
    expected = (2 * np.exp(hair) + np.exp(sure)) / 3
    assert found.probabilities[:, 3, 3, 3] == pytest.approx(expected, abs=1e-6)
    assert set(np.unique(found.labels)) == {255}
    assert found.facts["confidence"] == pytest.approx(0.5)


def test_members_of_other_spacings_patches_and_dimensions_meet_on_the_grid_of_the_file(
    tmp_path: Path,
) -> None:
    flat = {
        "network": {"ndim": 2}, "weights_for": 3,
        "preparation": prepared(ndim=2, slice_axis=1, spacing_mm=(1.7, None, 2.2)),
        "input": {"patch": [8, 8], "mirror_axes": [0], "slice_axis": 1, "neighbours": 1},
    }  # fmt: skip
    members = [
        member(tmp_path, "fine"),
        member(tmp_path, "coarse", preparation=prepared(crop=True, spacing_mm=(2.0, 1.3, 1.7))),
        member(tmp_path, "flat", **flat),
    ]
    array = np.zeros((1, 20, 18, 16), np.float32)
    array[0, 4:17, 2:15, 5:14] = scan((13, 13, 9)).array[0] + 3
    affine = np.eye(4)
    affine[:3, :3] = [[0, 0.95, -0.31], [-1.1, 0, 0], [0, 0.31, 0.95]]
    image = Image(array, Grid((20, 18, 16), affine))
    alone = [outline(one, image, probabilities=True).probabilities for one in members]
    mean = np.mean(alone, axis=0)
    together = Ensemble(members)
    found = outline(together, image, probabilities=True)
    assert found.probabilities == pytest.approx(mean, abs=1e-6)
    assert np.array_equal(found.labels, np.array([0, 4, 255])[found.probabilities.argmax(0)])
    assert found.probabilities.sum(0) == pytest.approx(np.ones(image.grid.shape), abs=1e-5)
    few = outline(together, image, memory_bytes=least(together, image))
    assert np.array_equal(few.labels, found.labels)


def test_memory_of_an_ensemble_does_not_grow_with_its_members(tmp_path: Path) -> None:
    image = scan((24, 20, 16))
    members = [member(tmp_path, name) for name in "abcd"]
    two, four = least(Ensemble(members[:2]), image), least(Ensemble(members), image)
    assert two == four
    assert two > least(members[0], image)
    with pytest.raises(ResourceError):
        outline(Ensemble(members), image, memory_bytes=least(members[0], image))


def test_progress_runs_once_over_all_members(tmp_path: Path) -> None:
    ticks: list[float] = []
    pair = Ensemble([member(tmp_path, name) for name in "ab"])
    outline(pair, scan(), progress=lambda done, total: ticks.append(done / total))
    assert ticks == sorted(ticks)
    assert ticks[-1] == 1
    assert 0.5 in ticks


def test_the_largest_component_alone_is_kept_where_every_member_does(tmp_path: Path) -> None:
    rules = [["organ", "lesion"], ["lesion"]]
    members = [
        member(tmp_path, name, postprocess={"keep_largest": rule})
        for name, rule in zip("ab", rules, strict=True)
    ]
    assert Ensemble(members).keep_largest == ("lesion",)
    assert Ensemble(members).crf is None


def test_what_every_member_takes_for_a_speck_is_one(tmp_path: Path) -> None:
    volumes = [{"organ": 9.0, "lesion": 4.0}, {"lesion": 6.0}]
    members = [
        member(tmp_path, name, postprocess={"least_volume": volume})
        for name, volume in zip("ab", volumes, strict=True)
    ]
    assert Ensemble(members).least_volume == {"lesion": 4.0}
    assert Ensemble(members[:1]).least_volume == volumes[0]


def test_a_crf_that_all_ask_for_alike_refines_every_member(tmp_path: Path) -> None:
    asked = {"postprocess": {"crf": {"iterations": 2}}}
    members = [member(tmp_path, name, **asked) for name in "ab"]
    found = outline(Ensemble(members), scan())
    assert found.facts["crf"]["iterations"] == 2
    other = member(tmp_path, "c", postprocess={"crf": {"iterations": 3}})
    assert outline(Ensemble([members[0], other]), scan()).facts["crf"] is None


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"channels": ["mr"]}, "channels ct in a.safetensors, but mr in b.safetensors"),
        (
            {"schema": Schema(labels=(Label("organ", 1), Label("lesion", 255))).to_dict()},
            r"labels organ \(4\), lesion \(255\) in a.safetensors, but organ \(1\)",
        ),
        (
            {"schema": dataclasses.replace(SCHEMA, regions={"all": ("organ", "lesion")}).to_dict()},
            r"regions none in a.safetensors, but all = organ \+ lesion in b.safetensors",
        ),
    ],
)
def test_models_that_answer_another_question_are_refused(
    tmp_path: Path, change: dict[str, Any], difference: str
) -> None:
    with pytest.raises(ConfigError, match=difference) as caught:
        Ensemble([member(tmp_path, "a"), member(tmp_path, "b", **change)])
    assert caught.value.code == "ensemble"


def test_a_model_given_twice_is_refused(tmp_path: Path) -> None:
    member(tmp_path, "a")
    with pytest.raises(ConfigError, match="2 times") as caught:
        open_models([tmp_path / "a.safetensors"] * 2, "cpu")
    assert caught.value.code == "ensemble-twice"


def test_a_folder_of_folds_stands_for_its_models(tmp_path: Path) -> None:
    names = [f"fold-{k}" for k in (1, 2, 10)]
    for name in names:
        (tmp_path / name).mkdir()
        write_model(tmp_path / name / "model.safetensors", config={"name": name})
    files = model_files([tmp_path])
    assert [file.parent.name for file in files] == names
    members = open_models(files, "cpu").members
    assert [member.name for member in members] == [str(file) for file in files], "told apart"
    (tmp_path / "fold-2" / "model.safetensors").unlink()
    with pytest.raises(ModelFileError, match="none of fold-2"):
        model_files([tmp_path])


class Mean(torch.nn.Module):
    """Logits (0, scale × mean of the picture)."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = self.scale * x.mean((1, 2, 3))
        return torch.stack([torch.zeros_like(mean), mean], 1)


def test_classes_are_averaged_after_the_temperature_of_each(tmp_path: Path) -> None:
    def classifier(name: str, scale: float, temperature: float) -> Session:
        classes = {"names": ["no", "yes"], "target": "class", "temperature": temperature}
        path = write_model(tmp_path / f"{name}.safetensors", config={"name": name})
        document = model_file.load(path).document | {
            "classes": classes,
            "input": {"slice_axis": 2, "patch": [9, 9], "mirror_axes": []},
        }
        return with_network(
            Session(dataclasses.replace(Session.open(path, "cpu").runtime, document=document)),
            Mean(scale),
        )

    members = [classifier("a", 1.0, 1.0), classifier("b", -3.0, 2.0)]
    image = scan((9, 9, 4))
    alone = [classify(one, image, mean_of_slices) for one in members]
    found = classify(Ensemble(members), image, mean_of_slices)
    assert found.class_probabilities is not None
    expected = np.mean([one.class_probabilities["yes"] for one in alone])
    assert found.class_probabilities["yes"] == pytest.approx(expected)
    assert found.facts["confidence"] == max(found.class_probabilities.values())
    for number, slice_ in enumerate(found.facts["slices"]):
        each = [one.facts["slices"][number]["probabilities"]["yes"] for one in alone]
        assert slice_["probabilities"]["yes"] == pytest.approx(np.mean(each))
