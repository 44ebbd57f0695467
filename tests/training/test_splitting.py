"""What a split leaves out is told before training, and nothing is scored that was not learnt."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from delineate.core import model_file
from delineate.core.errors import InputError
from delineate.core.schema import Label, Schema
from delineate.data.cohort import Cohort
from delineate.settings import RunConfig
from delineate.tasks.train import train
from delineate.training import splitting
from delineate.training.resolving import complete

ORGAN, CYST = 1, 2


def scans(root: Path, cysts: tuple[int, ...], count: int = 8, test: tuple[int, ...] = ()) -> Path:
    """Bright cubes in noise, and in some cases something brighter in them; a table with parts."""
    rng = np.random.default_rng(0)
    rows = []
    for n in range(count):
        label = np.zeros((12, 12, 12), np.uint8)
        label[3:9, 3:9, 3:9] = ORGAN
        if n in cysts:
            label[5:7, 5:7, 5:7] = CYST
        image = (40 * label + rng.normal(size=label.shape)).astype(np.float32)
        row = {"id": f"c{n}", "subject": f"p{n}"}
        for kind, array in (("image", image), ("label", label)):
            file = root / f"files/{kind}{n}.nii"
            file.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), file)
            row[kind] = f"files/{kind}{n}.nii"
        rows.append(row | ({"split": "test" if n in test else "train"} if test else {}))
    with (root / "cases.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, rows[0])
        table.writeheader()
        table.writerows(rows)
    return root / "cases.csv"


def take(data: Path | Cohort, out: Path, **settings: Any) -> tuple[dict[str, Any], list[str], Any]:
    cohort = data if isinstance(data, Cohort) else Cohort.open(data)
    out.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {"hashes": {}}
    said: list[str] = []
    from delineate.core.progress import QUIET

    chosen = complete(RunConfig(**settings), cohort)
    split = splitting.take(chosen, cohort, out, record, out / "cache", said.append, QUIET)
    return record, said, split


def test_a_structure_of_one_subject_is_trained_on_and_has_no_figure(tmp_path: Path) -> None:
    data = scans(tmp_path / "data", cysts=(3,))
    for seed in range(6):
        record, said, split = take(data, tmp_path / f"run{seed}", seed=seed)
        assert "c3" in split["train"]
        assert record["unlearnt"] == []
        (line,) = [line for line in said if "'label 2'" in line]
        assert "one subject, who is trained on: no figure" in line
        assert line in record["split_notes"]


def test_a_structure_that_the_declared_test_part_alone_shows_is_told_each_time(
    tmp_path: Path,
) -> None:
    data = scans(tmp_path / "data", cysts=(6, 7), test=(6, 7))
    for _ in range(2):  # a run that goes on says it again
        record, said, _ = take(data, tmp_path / "run")
        assert record["unlearnt"] == ["label 2"]
        assert any("'label 2' is in no training case (only in test)" in line for line in said)


def test_a_structure_that_is_declared_and_never_drawn_cannot_be_learnt(tmp_path: Path) -> None:
    cohort = Cohort.open(scans(tmp_path / "data", cysts=()))
    declared = dataclasses.replace(cohort, schema=Schema((Label("organ", 1), Label("cyst", 2))))
    record, said, _ = take(declared, tmp_path / "run")
    assert record["unlearnt"] == ["cyst"]
    assert "'cyst' is in no case: it cannot be learnt, and is not scored" in said
    record, _, _ = take(declared, tmp_path / "presence", target="presence")
    assert record["unlearnt"] == []


@pytest.mark.parametrize("part", ["test", "validation"])
def test_where_all_cases_are_declared_for_another_part_that_is_the_error(
    tmp_path: Path, part: str
) -> None:
    data = scans(tmp_path / "data", cysts=(), count=3, test=(0, 1, 2))
    data.write_text(data.read_text().replace(",test", f",{part}"))
    with pytest.raises(InputError, match=f"none of 3 labelled cases .*: the data .* 3 for {part}"):
        take(data, tmp_path / "run")


def test_what_was_not_learnt_is_not_scored_and_model_and_report_say_so(tmp_path: Path) -> None:
    data, out = scans(tmp_path / "data", cysts=(6, 7), test=(6, 7)), tmp_path / "run"
    config = tmp_path / "tiny.yaml"
    config.write_text("width: 4\npatch: [8, 8, 8]\nbatch: 2\nvalidation: 0\n")
    summary = train(data, steps=2, config=config, out=out, audit=False)["scores"]
    assert list(summary["regions"]) == ["label 1"]
    assert any(note.startswith("not scored: label 2") for note in summary["notes"])
    document = model_file.load(out / "model.safetensors").document
    assert document["unlearnt"] == ["label 2"]
    assert document["card"]["does_not_find"] == "label 2"
    assert "cannot be learnt" in (out / "report.html").read_text("utf-8")
    assert "no case is set aside for validation" in " ".join(
        json.loads((out / "run.json").read_text())["split_notes"]
    )


@pytest.mark.parametrize(
    ("subjects", "settings", "parts"),
    [
        (1, {}, {"train": 1}),
        (3, {}, {"train": 3}),
        (7, {}, {"train": 7}),
        (8, {}, {"train": 5, "test": 2, "validation": 1}),
        (4, {"holdout": 0.25}, {"train": 3, "test": 1}),
        (4, {"validation": 0.25}, {"train": 3, "validation": 1}),
        (3, {"folds": 3}, {"train": 2, "test": 1}),
    ],
)
def test_few_labelled_subjects_all_train_unless_somebody_asks_for_parts(
    tmp_path: Path, subjects: int, settings: dict[str, Any], parts: dict[str, int]
) -> None:
    _, _, split = take(scans(tmp_path / "data", cysts=(), count=subjects), tmp_path, **settings)
    assert {name: len(ids) for name, ids in split.parts.items()} == parts


def test_few_to_train_on_beside_a_declared_test_part_all_train_and_it_judges(
    tmp_path: Path,
) -> None:
    data = scans(tmp_path / "data", cysts=(), count=9, test=tuple(range(3, 9)))
    record, _, split = take(data, tmp_path)
    assert {name: len(ids) for name, ids in split.parts.items()} == {"train": 3, "test": 6}
    assert "no_figures" not in record


@pytest.mark.parametrize(
    ("count", "who", "how"),
    [
        (1, "the only labelled subject teaches", "with more of them, delineate crossvalidate DATA"),
        (3, "all 3 labelled subjects teach", "delineate crossvalidate DATA --folds 3"),
    ],
)
def test_a_run_that_all_labelled_subjects_teach_says_everywhere_that_it_has_no_figures_and_why(
    tmp_path: Path, count: int, who: str, how: str
) -> None:
    data, out = scans(tmp_path / "data", cysts=(), count=count), tmp_path / "run"
    config = tmp_path / "tiny.yaml"
    config.write_text("width: 4\npatch: [8, 8, 8]\nbatch: 2\n")
    said: list[str] = []
    record = train(data, steps=2, config=config, out=out, audit=False, say=said.append)
    assert record["status"] == "finished"
    assert record["scores"] == {}
    sentence = record["no_figures"]
    assert sentence.startswith(f"No figures exist, because {who} the model: {how}")
    assert said.count(sentence) == 2  # before training, and at the end
    assert said.index(sentence, said.index(sentence) + 1) > len(said) - 4
    assert sentence in (out / "report.html").read_text("utf-8")
    document = model_file.load(out / "model.safetensors").document
    assert document["card"]["figures"] == sentence
    assert document["postprocess"]["keep_largest"] == []
    assert document["provenance"]["training_cases"] == count
    resolved = (out / "config.yaml").read_text()
    assert "\nholdout: 0.0" in resolved
    assert "\nvalidation: 0.0" in resolved


def test_a_share_to_hold_out_that_leaves_nobody_to_train_on_is_refused(tmp_path: Path) -> None:
    data = scans(tmp_path / "data", cysts=(), count=1)
    with pytest.raises(InputError, match=r"2 labelled subjects.*got 1\n") as caught:
        take(data, tmp_path, holdout=0.2)
    assert "--holdout 0" in (caught.value.fix or "")


def test_a_class_that_no_training_case_has_is_refused_before_training(tmp_path: Path) -> None:
    rows = ["image,class,split"]
    for n in range(8):
        file = tmp_path / f"data/{n}.nii"
        file.parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(np.full((8, 8, 8), n, np.float32), np.eye(4)), file)
        rows.append(f"{n}.nii,{'abc'[n // 3]},{'test' if n > 4 else 'train'}")
    (tmp_path / "data/cases.csv").write_text("\n".join(rows))
    with pytest.raises(InputError, match="none of c") as caught:
        take(tmp_path / "data/cases.csv", tmp_path / "run", target="class")
    assert "--exclude" in (caught.value.fix or "")


def test_of_a_class_with_two_subjects_one_is_always_trained_on(tmp_path: Path) -> None:
    rows = ["image,class"]
    for n in range(8):
        file = tmp_path / f"data/{n}.nii"
        file.parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(np.full((8, 8, 8), n, np.float32), np.eye(4)), file)
        rows.append(f"{n}.nii,{'rare' if n < 2 else 'common'}")
    (tmp_path / "data/cases.csv").write_text("\n".join(rows))
    for seed in range(6):
        _, _, split = take(
            tmp_path / "data/cases.csv", tmp_path / f"r{seed}", target="class", seed=seed,
            holdout=0.4, validation=0.3,
        )  # fmt: skip
        assert {"0", "1"} & set(split["train"])
