"""A scan of another modality, or in other units, than the model's is refused; a good one never."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.inference.test_session import write_model

from delineate.core.errors import InputError
from delineate.core.image import Grid, Image
from delineate.data import readers
from delineate.inference._contract import contradictions, measure, training_range
from delineate.inference.outlines import outline
from delineate.inference.session import Session
from delineate.preprocess.normalise import MODALITIES

GRID = Grid((24, 24, 24), np.eye(4))


def ball(seed: int) -> tuple[np.random.Generator, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    return rng, np.linalg.norm(np.indices((24,) * 3) - 11.5, axis=0) < 8 + seed % 3


def ct(seed: int = 0, **meta: Any) -> Image:
    """A body of -100 to 60 HU with a bone, in air."""
    rng, body = ball(seed)
    array = np.where(body, rng.normal(20, 60, body.shape), rng.normal(-1000, 15, body.shape))
    array[11:13, 11:13] = 900
    return Image(array[None].astype(np.float32).round(), GRID, meta=meta)


def mr(seed: int = 0, scale: float = 400.0, **meta: Any) -> Image:
    rng, body = ball(seed)
    array = scale * np.abs(np.where(body, rng.normal(1, 0.3, body.shape), 0.02))
    return Image(array[None].astype(np.float32), GRID, meta=meta)


def pet(seed: int = 0, scale: float = 1.0, **meta: Any) -> Image:
    rng, body = ball(seed)
    array = scale * np.where(body, rng.gamma(2, 1.0, body.shape), 0.05)
    return Image(array[None].astype(np.float32), GRID, meta=meta)


def photo(seed: int = 0, scale: float = 1.0) -> Image:
    return Image((mr(seed, 100).array.clip(0, 255) * scale).astype(np.float32), GRID)


def model(modality: str, scans: list[Image] | None) -> dict[str, Any]:
    rule = MODALITIES[modality][0]
    range_ = {} if scans is None else {"intensity": training_range(map(measure, scans))}
    return {
        "preparation": {"channels": [{"name": "image", "modality": modality, "rule": rule}]},
        "provenance": {"training_range": range_},
    }


CTS, PETS = [ct(k) for k in range(4)], [pet(k) for k in range(4)]
MRS = [mr(k, scale) for k, scale in enumerate((3.0, 60.0, 400.0, 9e4))]
PHOTOS = [photo(k) for k in range(4)]


@pytest.mark.parametrize(
    ("trained", "scan"),
    [
        (model("CT", CTS), ct(7)),
        (model("CT", CTS), ct(7, modality="CT")),
        (model("CT", CTS), Image(ct(7).array[:, 6:18, 6:18, 6:18], Grid((12,) * 3, np.eye(4)))),
        (model("MR", MRS), mr(7, 5e5)),  # MR has no unit
        (model("MR", MRS), mr(7, 0.5)),
        (model("MR", MRS), Image(mr(7).array - 30, GRID)),  # the undershoot of an interpolation
        (model("MR", MRS), Image((mr(7).array - 200) / 100, GRID)),  # z-scored by another tool
        (model("MR", MRS), Image(mr(7, 4096).array * 2 - 4096, GRID)),  # phase
        (model("unknown", MRS), mr(7, 900)),
        (model("unknown", CTS), ct(7)),
        (model("PET", PETS), pet(7, 8.0)),
        (model("RGB", PHOTOS), photo(7, 0.2)),
        (model("MR", MRS), mr(7, modality="OT")),  # a tag that tells nothing
        (model("MR", None), ct(7)),  # an old model knows no units
        (model("CT", None), mr(7)),
    ],
)  # fmt: skip
def test_what_may_be_of_the_same_kind_passes(trained: dict[str, Any], scan: Image) -> None:
    assert contradictions(trained, measure(scan)) == []


@pytest.mark.parametrize(
    ("trained", "scan", "why"),
    [
        (model("MR", MRS), ct(7), "look like Hounsfield units"),
        (model("unknown", MRS), ct(7), "look like Hounsfield units"),
        (model("XR", MRS), ct(7), "look like Hounsfield units"),
        (model("PET", PETS), ct(7), "look like Hounsfield units"),
        (model("CT", CTS), mr(7), "no Hounsfield units"),
        (model("CT", CTS), Image(mr(7).array - 8, GRID), "no Hounsfield units"),
        (model("CT", CTS), Image(ct(7).array + 1024, GRID), "no Hounsfield units"),
        (model("CT", CTS), Image(ct(7).array / 500, GRID), "no Hounsfield units"),
        (model("unknown", CTS), mr(7), "no Hounsfield units"),
        (model("PET", PETS), pet(7, 9000.0), "other units"),
        (model("RGB", PHOTOS), photo(7, 1 / 255), "other units"),
        (model("MR", None), ct(7, modality="CT"), "expected MR as in training, got CT"),
        (model("CT", CTS), pet(7, modality="PT"), "expected CT as in training, got PET"),
        (model("MR", MRS), mr(7, modality="US"), "expected MR as in training, got US"),
        (model("unknown", [mr(1, modality="MR")]), mr(7, modality="CT"), "expected MR"),
    ],
)  # fmt: skip
def test_what_contradicts_the_model_is_named(
    trained: dict[str, Any], scan: Image, why: str
) -> None:
    (found,) = contradictions(trained, measure(scan))
    assert found.startswith("channel image: ")
    assert why in found


def test_voxels_that_are_no_numbers_are_left_to_their_own_message() -> None:
    hole = mr(7)
    hole.array[:] = np.nan
    assert contradictions(model("MR", MRS), measure(hole)) == []
    assert training_range([measure(hole)]) == []


def test_the_session_refuses_and_can_be_forced(tmp_path: Path) -> None:
    kept = {"training_range": {"intensity": training_range(map(measure, CTS))}}
    session = Session.open(write_model(tmp_path / "m.safetensors", provenance=kept), "cpu")
    assert outline(session, ct(7)).facts["warnings"] == []
    with pytest.raises(InputError, match="no Hounsfield units") as caught:
        outline(session, mr(7))
    assert caught.value.code == "contract"
    assert "--force" in (caught.value.fix or "")
    (warning,) = outline(session, mr(7), force=True).facts["warnings"]
    assert "no Hounsfield units" in warning


def test_real_scans_are_told_apart(real_data: Any) -> None:
    """Training on one half of the hippocampi, whose ranges differ a thousandfold."""
    hippocampi = [
        measure(readers.read(path))
        for path in sorted((real_data("msd-task04-hippocampus") / "imagesTr").glob("h*.nii.gz"))[
            ::20
        ]
    ]
    document = model("MR", None)
    document["provenance"] = {"training_range": {"intensity": training_range(hippocampi[::2])}}
    assert not any(contradictions(document, scan) for scan in hippocampi[1::2])
    scan = readers.read(real_data("totalsegmentator-example") / "example_ct_sm.nii.gz")
    assert contradictions(document, measure(scan))
