"""Settings of preprocessing from a run to its model file, and predict's replay of them."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from delineate.core import config as settings
from delineate.core import model_file
from delineate.core.case import Case
from delineate.core.errors import ConfigError, InputError
from delineate.core.schema import Label, Schema
from delineate.data.channels import read_channels
from delineate.data.cohort import Cohort
from delineate.inference.session import Session
from delineate.phantoms.generate import generate
from delineate.preprocess import autoencoder, bias, presets
from delineate.settings import RunConfig
from delineate.tasks.train import train
from delineate.training import learned_preparation
from delineate.training.preparing import plan_preparation, prepare_cohort, recipe_key

SCHEMA = Schema(labels=(Label("organ", 1),))
TINY = """
width: 4
patch: [16, 16, 16]
batch: 2
holdout: 0
validation: 0.25
bias_correction: true
denoise: autoencoder
derived: [clahe, clusters]
clusters: auto
"""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Learn, and look for shading, for a moment only."""
    monkeypatch.setattr(autoencoder, "fit", functools.partial(autoencoder.fit, steps=5))
    monkeypatch.setitem(bias._RULES, "n4", functools.partial(bias.n4, iterations=2, levels=1))


def cohort(folder: Path, modality: str = "MR", levels: int = 0, cases: int = 3) -> Cohort:
    """Noisy cubes of tissue; of few grey levels where ``levels`` says so."""
    found = []
    for i in range(cases):
        generator = np.random.default_rng(i)
        array = np.zeros((20, 22, 18), np.float32)
        inside = generator.normal(100 + 60 * (np.arange(14) > 6)[:, None, None], 8, (14, 16, 12))
        array[3:17, 3:19, 3:15] = inside
        if levels:
            array = np.digitize(array, np.linspace(60, 180, levels - 1)).astype(np.float32) * 20
        label = (array > 130).astype(np.uint8)
        paths = [folder / f"{i}.nii.gz", folder / f"{i}_seg.nii.gz"]
        for path, values in zip(paths, (array, label), strict=True):
            nib.save(nib.Nifti1Image(values, np.diag([4.0, 4.0, 4.0, 1.0])), path)
        found.append(Case(f"c{i}", f"s{i}", {"t1": paths[0]}, paths[1]))
    return Cohort(folder, "test", tuple(found), SCHEMA, modalities={"t1": modality})


def test_a_run_keeps_its_preprocessing_and_predict_repeats_it(tmp_path: Path, quick: None) -> None:
    scans = generate(tmp_path / "scans", 4, 6.0, seed=3, anatomy="ellipsoid", controls=0.0)
    config = tmp_path / "tiny.yaml"
    config.write_text(TINY)
    out = tmp_path / "run"
    record = train(scans, steps=2, config=config, out=out, audit=False)

    document = model_file.load(out / "model.safetensors").document
    kept = document["preparation"]
    assert kept == record["preparation"]
    assert (kept["bias_correction"], kept["denoise"]) == (True, "autoencoder")
    assert kept["derived"] == ["clahe", "clusters"]
    assert 2 <= kept["clusters"] <= 8
    assert list(kept["elbow"]) == [str(n) for n in range(2, 9)]
    channels = document["input"]["channels"]
    assert sum(name.startswith("cluster:") for name in channels) == kept["clusters"]
    assert sum(name.startswith("clahe:") for name in channels) == len(document["channels"])

    session = Session.open(out / "model.safetensors", "cpu")
    whole = Cohort.open(scans)
    split = json.loads((out / "split.json").read_text())
    train_cases = whole.subset(split["parts"]["train"])
    cached = prepare_cohort(train_cases, session.preparation, out / "cache")
    again = presets.apply(
        session.preparation, read_channels(train_cases.cases[0], session.channels)
    )
    np.testing.assert_array_equal(again.array, cached[0].image)
    assert [step["step"] for step in again.history][-4:] == [
        "bias", "denoise", "normalise", "derive",
    ]  # fmt: skip
    assert list(again.history) == list(cached[0].history)

    page = (out / "report.html").read_text()
    assert "Clusters (K-means)" in page
    assert "chosen by the elbow" in page
    assert kept["denoiser"]["weights"][:40] not in page


def test_what_is_learned_is_learned_from_training_cases_alone(tmp_path: Path, quick: None) -> None:
    whole = cohort(tmp_path, cases=4)
    asked: dict[str, Any] = {"denoise": "autoencoder", "derived": ["clusters"], "clusters": "auto"}
    training = whole.subset(["c0", "c1"])
    before = plan_preparation(training, judged=whole.subset(["c3"]), **asked)
    noise = np.random.default_rng(7).normal(500, 90, (20, 22, 18)).astype(np.float32)
    nib.save(nib.Nifti1Image(noise, np.diag([4.0, 4.0, 4.0, 1.0])), tmp_path / "3.nii.gz")
    assert plan_preparation(training, judged=whole.subset(["c3"]), **asked) == before
    assert plan_preparation(whole.subset(["c0", "c3"]), **asked).denoiser != before.denoiser


def test_every_setting_has_a_cache_of_its_own_but_reasons_do_not(tmp_path: Path) -> None:
    few = cohort(tmp_path)
    plan = plan_preparation(few)
    assert (plan.bias_correction, plan.denoise, plan.denoiser, plan.elbow) == (
        False, "none", None, {},
    )  # fmt: skip
    others = [
        plan_preparation(few, bias_correction=True),
        plan_preparation(few, denoise="median"),
        plan_preparation(few, denoise="wavelet"),
        plan_preparation(few, derived=["clahe"]),
    ]
    keys = {recipe_key(one, SCHEMA) for one in (plan, *others)}
    assert len(keys) == 5
    chosen = plan_preparation(few, derived=["clusters"], clusters="auto")
    as_number = plan_preparation(few, derived=["clusters"], clusters=chosen.clusters)
    assert recipe_key(chosen, SCHEMA) == recipe_key(as_number, SCHEMA)


@pytest.mark.parametrize("rule", ["auto", "gaussian", "median", "nlm", "wavelet"])
def test_denoised_cases_come_out_of_the_cache_as_predict_makes_them(
    rule: str, tmp_path: Path
) -> None:
    few = cohort(tmp_path, cases=1)
    plan = plan_preparation(few, denoise=rule)
    (case,) = prepare_cohort(few, plan, tmp_path / "cache")
    image = read_channels(few.cases[0], few.channels)
    again = presets.apply(presets.Preparation.from_dict(plan.to_dict()), image)
    np.testing.assert_array_equal(case.image, again.array)
    plain = presets.apply(plan_preparation(few), image).array
    assert not np.array_equal(plain, again.array)


def test_settings_survive_yaml_and_wrong_ones_name_the_line(tmp_path: Path) -> None:
    chosen = RunConfig(bias_correction=True, denoise="nlm", clusters="auto")
    assert settings.load(settings.dump(chosen), RunConfig) == chosen
    assert RunConfig().clusters == 3
    for line, said in (
        ("denoise: bm3d", "bm3d"), ("clusters: elbow", "elbow"), ("bias_correction: n4", "n4"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=said) as caught:
            settings.load(f"seed: 1\n{line}\n", RunConfig, where="run.yaml")
        assert "run.yaml:2" in str(caught.value)


@pytest.mark.parametrize("modality", ["CT", "unknown"])
def test_shading_of_anything_but_mr_is_refused_before_any_work(
    modality: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"t1 \({modality}\)") as caught:
        plan_preparation(cohort(tmp_path, modality), bias_correction=True)
    assert caught.value.code == "bias-not-mr"


def test_pictures_have_no_shading_of_coils(tmp_path: Path) -> None:
    from PIL import Image as Raster

    for name in ("a", "b"):
        values = np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)
        Raster.fromarray(values).save(tmp_path / f"{name}.png")
    cases = tuple(Case(n, n, {"rgb": tmp_path / f"{n}.png"}) for n in ("a", "b"))
    photos = Cohort(tmp_path, "test", cases, SCHEMA, modalities={"rgb": "RGB"})
    with pytest.raises(ConfigError, match=r"rgb\.0 \(RGB\)"):
        plan_preparation(photos, bias_correction=True)
    assert plan_preparation(photos, denoise="auto").denoise == "auto"


def test_too_few_values_for_the_elbow_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"part into 8 clusters.*at most 3") as caught:
        plan_preparation(cohort(tmp_path, levels=4), derived=["clusters"], clusters="auto")
    assert caught.value.code == "elbow-few-values"
    assert "number" in str(caught.value)
    plan = plan_preparation(cohort(tmp_path, levels=4), derived=["clusters"], clusters=3)
    assert plan.clusters == 3


def test_images_without_noise_teach_no_autoencoder(tmp_path: Path) -> None:
    few = cohort(tmp_path)
    for i in range(3):
        array = np.zeros((20, 22, 18), np.float32)
        array[4:16, 4:18, 4:14] = 100
        nib.save(nib.Nifti1Image(array, np.diag([4.0, 4.0, 4.0, 1.0])), tmp_path / f"{i}.nii.gz")
    with pytest.raises(InputError, match="images with noise"):
        plan_preparation(few, denoise="autoencoder")


def test_a_case_that_cannot_be_read_is_left_to_preparation(tmp_path: Path, quick: None) -> None:
    few = cohort(tmp_path)
    array = np.full((20, 22, 18), np.nan, np.float32)
    nib.save(nib.Nifti1Image(array, np.diag([4.0, 4.0, 4.0, 1.0])), tmp_path / "1.nii.gz")
    asked: dict[str, Any] = {"denoise": "autoencoder", "derived": ["clusters"], "clusters": "auto"}
    assert plan_preparation(few, **asked).denoise == "autoencoder"
    with pytest.raises(InputError, match="NaN"):
        plan_preparation(few.subset(["c1"]), **asked)


def test_a_set_number_is_shown_with_the_curve_of_the_case(tmp_path: Path) -> None:
    few = cohort(tmp_path, cases=2)
    plan = plan_preparation(few, derived=["clusters"], clusters=2)
    assert plan.elbow == {}
    cases = prepare_cohort(few, plan, tmp_path / "cache")
    learned_preparation.keep_clusters(tmp_path / "run", plan, cases)
    with np.load(tmp_path / "run" / "preparation" / "clusters.npz", allow_pickle=False) as kept:
        assert kept["numbers"].tolist() == list(range(2, 9))
        assert (kept["inertia"] <= 1).all()
        assert kept["colours"].shape == (3, *kept["image"].shape)
        assert int(kept["chosen"]) == 2
        assert not bool(kept["by_elbow"])
    again = dataclasses.replace(plan, elbow={"2": 0.5, "3": 0.4})
    learned_preparation.keep_clusters(tmp_path / "run", again, cases)
    with np.load(tmp_path / "run" / "preparation" / "clusters.npz", allow_pickle=False) as kept:
        assert bool(kept["by_elbow"])
