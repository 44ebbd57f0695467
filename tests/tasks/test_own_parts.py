"""Parts of the user's own, end to end: trained by path, predicted with the file at hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from delineate.cli.main import main
from delineate.core import catalog, model_file
from delineate.core.errors import ConfigError, DelineateError, ModelFileError, OutputError
from delineate.data.opening import Opening
from delineate.phantoms.generate import generate
from delineate.settings import RunConfig
from delineate.tasks.evaluate import evaluate
from delineate.tasks.networks import networks
from delineate.tasks.predict import predict
from delineate.tasks.train import train
from delineate.training import held_out
from delineate.training.resolving import part_words

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SETTINGS = """\
network: parts/dilated.py
method: ../lab/mirrored.py
steps: 3
width: 4
patch: [16, 16, 16]
batch: 2
holdout: 0.2
validation: 0.1
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans, the example files where a user would have them, and a run that names them by path."""
    folder = tmp_path_factory.mktemp("own") / "lab"
    generate(folder / "scans", 5, 6.0, seed=3, anatomy="ellipsoid", controls=0.0, twins=0.0)
    (folder / "parts").mkdir()
    for name in ("dilated.py", "log_cosh_dice.py"):
        shutil.copy(EXAMPLES / name, folder / "parts")
    shutil.copy(EXAMPLES / "mirrored.py", folder)
    (folder / "settings.yaml").write_text(SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "_NAMED", {})
        train(folder / "scans", config=folder / "settings.yaml", out=folder / "run")
    return folder


def case(lab: Path) -> str:
    return next(p.name for p in sorted((lab / "scans").iterdir()) if p.is_dir())


def test_a_run_records_own_parts_by_name_and_hash(lab: Path) -> None:
    record = json.loads((lab / "run" / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["scored"]["cases"] == record["scored"]["of"] > 0, "figures need no further word"
    assert (record["network"], record["method"]) == ("dilated", "mirrored")
    assert record["plan"]["network"] == "dilated"
    assert f"network: {lab / 'parts' / 'dilated.py'}" in (lab / "run" / "config.yaml").read_text()
    document = model_file.load(lab / "run" / "model.safetensors").document
    digest = document["network"]["file"]["sha256"]
    assert document["network"]["name"] == "dilated"
    assert [(one["room"], one["name"]) for one in document["provenance"]["own"]] == [
        ("networks", "dilated"), ("methods", "mirrored")
    ]  # fmt: skip
    assert document["provenance"]["own"][0]["sha256"] == digest
    assert str(lab) not in json.dumps(document), "a model file names no folder of its maker"
    page = (lab / "run" / "report.html").read_text()
    assert "dilated" in page


def test_a_model_of_an_own_network_predicts_with_its_file_and_not_without(
    lab: Path, tmp_path: Path
) -> None:
    model, scans, only = lab / "run" / "model.safetensors", lab / "scans", [case(lab)]
    with pytest.raises(ModelFileError) as caught:
        predict(model, scans, tmp_path / "out", only=only)
    document = model_file.load(model).document
    assert caught.value.code == "part-needed"
    assert caught.value.where == str(model)
    assert "dilated.py" in caught.value.message
    assert document["network"]["file"]["sha256"] in caught.value.message
    assert "--part" in str(caught.value.fix)
    predict(model, scans, tmp_path / "out", only=only, part=(lab / "parts" / "dilated.py",))
    assert list((tmp_path / "out").glob("*.nii.gz"))


def test_a_file_that_was_changed_is_refused_unless_forced(lab: Path, tmp_path: Path) -> None:
    model, scans, only = lab / "run" / "model.safetensors", lab / "scans", [case(lab)]
    file = tmp_path / "dilated.py"
    file.write_text((lab / "parts" / "dilated.py").read_text() + "# changed\n")
    with pytest.raises(ModelFileError) as caught:
        predict(model, scans, tmp_path / "out", only=only, part=(file,))
    assert caught.value.code == "part-differs"
    lines: list[str] = []
    index = predict(
        model, scans, tmp_path / "out", only=only, part=(file,), force=True, say=lines.append
    )
    (forced,) = [line for line in lines if line.startswith("forced:")]
    assert index["settings"]["changed"] == [forced], "whoever reads the masks can know"
    with pytest.raises(ModelFileError):  # once is not for ever
        predict(model, scans, tmp_path / "again", only=only, part=(file,))
    with pytest.raises(ConfigError) as missing:
        predict(model, scans, tmp_path / "no", only=only, part=(tmp_path / "away.py",))
    assert missing.value.code == "part-missing"


def test_a_model_file_cannot_make_anything_run(lab: Path, tmp_path: Path) -> None:
    """Whatever it says, and whichever way it is opened."""
    good = model_file.load(lab / "run" / "model.safetensors")
    evil = tmp_path / "evil.py"
    text = (lab / "parts" / "dilated.py").read_text()
    evil.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n{text}")
    digest = good.document["network"]["file"]["sha256"]
    for network in (
        {"name": str(evil), "config": {}},
        {"name": str(evil), "config": {}, "file": {"sha256": digest}},
        {"name": "evil", "config": {}, "file": {"sha256": digest, "path": str(evil)}},
    ):
        document = {k: v for k, v in good.document.items() if k not in ("format", "sha256")}
        forged = tmp_path / "forged.safetensors"
        model_file.save(forged, good.tensors, {**document, "network": network})
        with pytest.raises(DelineateError):
            predict(forged, lab / "scans", tmp_path / "out", only=[case(lab)], force=True)
        with pytest.raises(DelineateError):
            train(lab / "scans", steps=1, weights=forged, out=tmp_path / "run")
        assert main(["model", "show", str(forged), "--quiet"]) == 0
    assert not (tmp_path / "ran").exists()


def test_weights_of_an_own_network_are_gone_on_with_where_its_file_is_named(
    lab: Path, tmp_path: Path
) -> None:
    model = lab / "run" / "model.safetensors"
    with pytest.raises(ModelFileError) as caught:
        train(lab / "scans", steps=1, weights=model, out=tmp_path / "no")
    assert caught.value.code == "part-needed"
    assert "--network" in str(caught.value.fix)
    record = train(
        lab / "scans", steps=1, weights=model, network=str(lab / "parts" / "dilated.py"),
        out=tmp_path / "run", holdout=0.0,
    )  # fmt: skip
    assert record["plan"]["width"] == 4, "the shape of the model's network"
    assert record["transfer"]["loaded"]


def test_a_run_whose_parts_were_changed_is_not_gone_on_with(lab: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "myloss.py", tmp_path / "run"
    shutil.copy(lab / "parts" / "log_cosh_dice.py", file)
    (tmp_path / "settings.yaml").write_text(
        "width: 4\npatch: [16, 16, 16]\nbatch: 2\nholdout: 0\nmethod_settings:\n"
        "  losses:\n    myloss.py: 1\n    cross_entropy: 0.5\n"
    )
    record = train(lab / "scans", steps=2, config=tmp_path / "settings.yaml", out=out)
    assert record["status"] == "finished"
    assert '"loss_myloss"' in (out / "log.jsonl").read_text()
    document = model_file.load(out / "model.safetensors").document
    assert document["config"]["method_settings"]["losses"].keys() == {"myloss", "cross_entropy"}
    stopped = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**stopped, "status": "interrupted"}))
    file.write_text(file.read_text() + "# changed\n")
    with pytest.raises(OutputError) as caught:
        train(lab / "scans", steps=2, config=tmp_path / "settings.yaml", out=out)
    assert caught.value.code == "run-differs"
    assert "code of parts of your own" in caught.value.message


def test_the_command_line_blames_the_file_and_not_itself(
    lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mynet.py"
    text = (lab / "parts" / "dilated.py").read_text()
    file.write_text(text.replace("self.head(self.layers(x))", "self.tail(self.layers(x))"))
    words = ["train", str(lab / "scans"), "--network", str(file), "--steps", "1"]
    assert main([*words, "--out", str(tmp_path / "run"), "--quiet"]) == 1
    error = capsys.readouterr().err
    line = next(n for n, one in enumerate(text.splitlines(), 1) if "self.head(self" in one)
    assert f"[part-fault] {file}:{line}" in error
    assert "tail" in error
    assert "bug in Delineate" not in error


def test_what_scores_the_rest_names_the_files(lab: Path) -> None:
    chosen = RunConfig(network="/a/mynet.py", target="outline", method="/a/mymethod.py")
    parts = part_words(chosen)
    assert parts == ["--part", "/a/mynet.py"], "a method is needed no more"
    commands = held_out.commands(Path("m"), lab / "scans", Opening(), ["a"], parts)
    assert all(" --part /a/mynet.py" in command for command in commands)
    assert part_words(RunConfig(network="unet")) == []


def test_a_fault_in_a_file_is_told_with_its_line_before_any_work(lab: Path, tmp_path: Path) -> None:
    file = tmp_path / "mynet.py"
    for text, code, line in (
        ("def (:\n", "part-syntax", ":1"),
        ("import of_nobody\n", "part-import", ":1"),
        ("KIND = 'segmenter'\nPAPER = ''\n", "part-incomplete", ""),
        ((EXAMPLES / "log_cosh_dice.py").read_text(), "part-room", ""),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError) as caught:
            train(lab / "scans", network=str(file), steps=1, out=tmp_path / "run")
        assert (caught.value.code, caught.value.where) == (code, f"{file}{line}")
    file.unlink()
    with pytest.raises(ConfigError, match=str(file)) as caught:
        train(lab / "scans", network=str(file), steps=1, out=tmp_path / "run")
    assert caught.value.code == "part-missing"
    assert not (tmp_path / "run").exists()


def test_the_list_of_networks_takes_a_file(lab: Path) -> None:
    found = networks(name=str(lab / "parts" / "dilated.py"), time=False, dimensions=2)
    assert found["name"] == "dilated"
    (row,) = found["networks"]
    assert row["name"] == "dilated"
    assert row["parameters"] > 0


def test_a_target_of_ones_own_is_trained_and_predicted_by_its_file(
    lab: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mytarget.py"
    file.write_text(
        '"""Outlines by another name."""\nfrom delineate.targets import outline\n'
        "Config = outline.Config\n\n\ndef build(config):\n    return outline.build(config)\n"
    )
    (tmp_path / "tiny.yaml").write_text("target: mytarget.py\nwidth: 4\npatch: [16, 16, 16]\n")
    out = tmp_path / "run"
    record = train(lab / "scans", steps=2, config=tmp_path / "tiny.yaml", out=out)
    assert record["status"] == "finished"
    document = model_file.load(out / "model.safetensors").document
    assert document["target"]["name"] == "mytarget"
    assert [(one["room"], one["name"]) for one in document["provenance"]["own"]] == [
        ("targets", "mytarget")
    ]
    assert document["provenance"]["own"][0]["sha256"] == document["target"]["file"]["sha256"]
    assert str(tmp_path) not in json.dumps(document)
    catalog._NAMED.clear()  # as in another process
    only, masks = [case(lab)], tmp_path / "masks"
    with pytest.raises(ModelFileError) as caught:
        predict(out / "model.safetensors", lab / "scans", masks, only=only)
    assert caught.value.code == "part-needed"
    assert "--target" in str(caught.value.fix)
    predict(out / "model.safetensors", lab / "scans", masks, only=only, part=(file,))
    catalog._NAMED.clear()
    with pytest.raises(ModelFileError):
        evaluate(masks, lab / "scans", tmp_path / "scores")
    evaluate(masks, lab / "scans", tmp_path / "scores", part=(file,))
    assert (tmp_path / "scores" / "cases.csv").is_file()


def test_several_models_are_predicted_with_one_file(lab: Path, tmp_path: Path) -> None:
    model, file = lab / "run" / "model.safetensors", lab / "parts" / "dilated.py"
    other = tmp_path / "other.safetensors"
    train(lab / "scans", config=lab / "settings.yaml", out=tmp_path / "run", seed=1, holdout=0.0)
    shutil.copy(tmp_path / "run" / "model.safetensors", other)
    index = predict([model, other], lab / "scans", tmp_path / "out", only=[case(lab)], part=(file,))
    assert [one["network"] for one in index["model"]["members"]] == ["dilated", "dilated"]


def test_a_network_of_an_installed_package_needs_no_file(
    lab: Path, tmp_path: Path, install: Callable[[Path, dict[str, str], str], None]
) -> None:
    package = tmp_path / "lab_parts"
    package.mkdir()
    shutil.copy(EXAMPLES / "dilated.py", package / "deep.py")
    install(package, {"labnet": "lab_parts.deep", "unet": "lab_parts.deep"}, "networks")
    out, lines = tmp_path / "run", list[str]()
    (tmp_path / "tiny.yaml").write_text("width: 4\npatch: [16, 16, 16]\nholdout: 0\n")
    train(
        lab / "scans", config=tmp_path / "tiny.yaml", network="labnet", steps=1, out=out,
        say=lines.append,
    )  # fmt: skip
    assert any("entry point of that name in lab-parts 1.2 is left out" in line for line in lines)
    model = out / "model.safetensors"
    network = model_file.load(model).document["network"]
    assert (network["name"], network["file"]["package"]) == ("labnet", "lab-parts 1.2")
    predict(model, lab / "scans", tmp_path / "masks", only=[case(lab)])
    found = networks(name="labnet", time=False, dimensions=3)
    assert found["networks"][0]["parameters"] > 0
    assert found["notes"]
