from __future__ import annotations

import hashlib
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from delineate.core import model_file
from delineate.core.errors import ModelFileError

DOCUMENT: dict[str, Any] = {
    "network": {"name": "unet", "config": {"ndim": 3, "strides": (1, 2)}},
    "channels": ["flair", "t1c"],
    "schema": {"labels": [], "regions": {}, "classes": [], "lateral": False},
    "preparation": {"spacing_mm": [1.0, 1.0, 0.1 + 0.2]},
    "input": {"patch": [8, 8, 8], "slice_axis": None, "neighbours": 0, "mirror_axes": [0, 2]},
    "provenance": {"site": "Zürich, 東京"},
}
TENSORS = {
    "b.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "a.bias": np.array([0.5, -1.5]),
    "steps": np.array(7, dtype=np.int64),
    "empty": np.zeros((0, 3), np.float16),
}
CRITIC: dict[str, Any] = {
    "network": {"name": "patch_critic", "config": {"ndim": 3}},
    "channels": 5,
    "outputs": 1,
    "sees": {"how": "joined"},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "model.safetensors"
    model_file.save(target, TENSORS, DOCUMENT)
    return target


def refused(path: Path) -> ModelFileError:
    with pytest.raises(ModelFileError) as caught:
        model_file.load(path)
    assert caught.value.fix
    assert str(path) == caught.value.where
    return caught.value


def header(data: bytes) -> tuple[dict[str, Any], bytes]:
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def assemble(head: dict[str, Any], body: bytes) -> bytes:
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the header as a careless (or careful) hand would, lengths kept right."""
    head, body = header(path.read_bytes())
    change(head)
    path.write_bytes(assemble(head, body))


def test_round_trip_keeps_values_types_and_document(path: Path) -> None:
    found = model_file.load(path)
    assert set(found.tensors) == set(TENSORS)
    for name, array in TENSORS.items():
        assert found.tensors[name].dtype == array.dtype
        assert found.tensors[name].shape == array.shape
        assert np.array_equal(found.tensors[name], array)
    assert found.document["channels"] == DOCUMENT["channels"]
    assert found.document["network"]["config"]["strides"] == [1, 2]
    assert found.document["provenance"] == DOCUMENT["provenance"]
    assert found.document["preparation"]["spacing_mm"][2] == 0.1 + 0.2
    assert found.document["card"] == {}


def test_plain_safetensors_reads_the_file(path: Path) -> None:
    tensors = safetensors.numpy.load_file(path)
    assert np.array_equal(tensors["predictor.b.weight"], TENSORS["b.weight"])


def test_torch_and_numpy_give_the_same_file(tmp_path: Path, path: Path) -> None:
    again = tmp_path / "torch.safetensors"
    tensors = {name: torch.from_numpy(array.copy()) for name, array in TENSORS.items()}
    assert model_file.save(again, tensors, DOCUMENT) == model_file.load(path).hash
    assert again.read_bytes() == path.read_bytes()


def test_transposed_and_bfloat16_tensors_keep_their_values(tmp_path: Path) -> None:
    tensors = {
        "t": torch.arange(6.0).reshape(2, 3).T,
        "b": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "big-endian": np.arange(3, dtype=">f4"),
    }
    model_file.save(tmp_path / "m.safetensors", tensors, DOCUMENT)
    found = model_file.load(tmp_path / "m.safetensors").tensors
    assert found["t"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert found["b"].tolist() == [1.5, -2.0]
    assert found["big-endian"].tolist() == [0, 1, 2]


def test_hash_depends_on_weights_and_document(tmp_path: Path) -> None:
    one = model_file.save(tmp_path / "a.safetensors", TENSORS, DOCUMENT)
    other = {**TENSORS, "steps": np.array(8)}
    assert one != model_file.save(tmp_path / "b.safetensors", other, DOCUMENT)
    assert one != model_file.save(
        tmp_path / "c.safetensors", TENSORS, {**DOCUMENT, "card": {"a": 1}}
    )
    assert one == model_file.save(tmp_path / "d.safetensors", TENSORS, DOCUMENT)


def test_every_changed_byte_is_refused(path: Path) -> None:
    data, whole = path.read_bytes(), model_file.load(path)
    rng = np.random.default_rng(0)
    spots = {0, 7, 8, len(data) - 1, *rng.integers(0, len(data), 300).tolist()}
    for spot in spots:
        broken = bytearray(data)
        broken[spot] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        try:
            found = model_file.load(path)
        except ModelFileError:
            continue
        # JSON may say the same in other bytes (padding, \u00fc and \u00fC); content must not differ
        assert found.document == whole.document
        assert all(np.array_equal(found.tensors[n], a) for n, a in whole.tensors.items())


def test_every_truncation_is_refused(path: Path) -> None:
    data = path.read_bytes()
    for length in [*range(40), *range(40, len(data), 17), len(data) - 1]:
        path.write_bytes(data[:length])
        assert refused(path).code in ("model-file-truncated", "model-file-header")


def test_trailing_bytes_are_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")
    assert refused(path).code == "model-file-trailing"


def test_huge_header_is_refused_without_reading_it(path: Path) -> None:
    path.write_bytes((2**40).to_bytes(8, "little") + b"{}")
    assert refused(path).code == "model-file-header"


def test_overlapping_tensors_are_refused(path: Path) -> None:
    def overlap(head: dict[str, Any]) -> None:
        head["predictor.a.bias"]["data_offsets"] = [0, 16]

    edit(path, overlap)
    assert refused(path).code == "model-file-invalid"


@pytest.mark.parametrize("text", ["[]", '"x"', "nonsense", '{"a": 1}', "[" * 100_000])
def test_header_that_is_no_header_is_refused(path: Path, text: str) -> None:
    path.write_bytes(len(text).to_bytes(8, "little") + text.encode())
    assert refused(path).code == "model-file-header"


def test_foreign_safetensors_file_is_refused(path: Path) -> None:
    safetensors.numpy.save_file(TENSORS, path)
    assert refused(path).code == "model-file-foreign"


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.save({"w": torch.zeros(2)}, p),
        lambda p: torch.save({"w": torch.zeros(2)}, p, _use_new_zipfile_serialization=False),
        lambda p: p.write_bytes(pickle.dumps({"w": 1})),
    ],
)
def test_pickles_and_zips_are_refused_by_name(path: Path, make: Callable[[Path], None]) -> None:
    make(path)
    assert refused(path).code == "model-file-pickle"


@pytest.mark.parametrize("size", [0x0480, 0x0580])
def test_header_whose_length_looks_like_a_pickle_is_read(tmp_path: Path, size: int) -> None:
    path = tmp_path / "m.safetensors"

    def length(note: str) -> int:
        model_file.save(path, {}, {**DOCUMENT, "card": {"note": note}})
        return int.from_bytes(path.read_bytes()[:8], "little")

    assert length("x" * (size - length(""))) == size
    assert path.read_bytes()[:2] == pickle.dumps(1, protocol=size >> 8)[:2]
    assert model_file.load(path).hash


def test_edited_document_is_refused(path: Path) -> None:
    def lie(head: dict[str, Any]) -> None:
        head["__metadata__"]["delineate"] = head["__metadata__"]["delineate"].replace("flair", "t2")

    edit(path, lie)
    assert refused(path).code == "model-file-tampered"


def test_renamed_tensor_is_refused(path: Path) -> None:
    def rename(head: dict[str, Any]) -> None:
        head["predictor.c.weight"] = head.pop("predictor.b.weight")

    edit(path, rename)
    assert refused(path).code == "model-file-tampered"


def test_reshaped_tensor_is_refused(path: Path) -> None:
    def reshape(head: dict[str, Any]) -> None:
        head["predictor.b.weight"]["shape"] = [4, 3, 2]

    edit(path, reshape)
    assert refused(path).code == "model-file-tampered"


@pytest.mark.parametrize(
    "text", ["not json", "[]", "null", '{"format": 1}', '{"sha256": {"document": NaN}}']
)
def test_document_that_is_no_document_is_refused(path: Path, text: str) -> None:
    edit(path, lambda head: head["__metadata__"].update(delineate=text))
    assert refused(path).code == "model-file-tampered"


def test_newer_format_asks_for_a_newer_version(path: Path) -> None:
    def age(head: dict[str, Any]) -> None:
        text = head["__metadata__"]["delineate"].replace('"format":2', '"format":3')
        head["__metadata__"]["delineate"] = text

    edit(path, age)
    error = refused(path)
    assert error.code == "model-file-newer"
    assert "newer Delineate" in str(error)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_neither_written_nor_read(
    tmp_path: Path, monkeypatch: Any, value: float
) -> None:
    bad = {"w": np.array([1.0, value], np.float32)}
    path = tmp_path / "m.safetensors"
    with pytest.raises(ModelFileError, match=r"'predictor\.w'"):
        model_file.save(path, bad, DOCUMENT)
    assert not path.exists()
    with monkeypatch.context() as patch:
        patch.setattr(model_file, "_check_finite", lambda *_: None)
        model_file.save(path, bad, DOCUMENT)
    assert refused(path).code == "model-file-not-finite"


@pytest.mark.parametrize(
    "change",
    [
        {"network": "unet"},
        {"network": {"name": "unet"}},
        {"channels": []},
        {"channels": "flair"},
        {"input": {"patch": [8]}},
        {"input": {"patch": [8, 0]}},
        {"input": {"patch": [8, 8.5]}},
        {"input": {"patch": [8, 8], "mirror_axes": [2]}},
        {"input": {"patch": [8, 8], "neighbours": -1}},
        {"input": {"patch": [8, 8], "slice_axis": 3}},
        {"schema": None},
        {"provenance": {"loss": float("nan")}},
        {"config": {"path": Path("x")}},
        {"parts": [CRITIC]},
        {"parts": {"critic": {**CRITIC, "network": {"name": "patch_critic"}}}},
        {"parts": {"critic": {**CRITIC, "channels": 0}}},
        {"parts": {"critic": {**CRITIC, "sees": None}}},
        {"parts": {"a.b": CRITIC}},
        {"parts": {"predictor": CRITIC}},
        {"parts": {"probabilities": CRITIC}},
    ],
)
def test_wrong_document_is_not_written(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(ModelFileError) as caught:
        model_file.save(path, TENSORS, {**DOCUMENT, **change})
    assert caught.value.code == "model-file-document"
    assert list(tmp_path.iterdir()) == []


def test_a_part_comes_back_beside_the_predictor(tmp_path: Path) -> None:
    """Under the names that its own network gives, even where the predictor has the same."""
    path, critic = tmp_path / "m.safetensors", {"b.weight": np.array([3.0], np.float32)}
    model_file.save(path, TENSORS, {**DOCUMENT, "parts": {"critic": CRITIC}}, {"critic": critic})
    found = model_file.load(path)
    assert set(found.tensors) == set(TENSORS)
    assert found.tensors["b.weight"].shape == (2, 3, 4)
    assert {name: list(tensors) for name, tensors in found.parts.items()} == {
        "critic": ["b.weight"]
    }
    assert found.parts["critic"]["b.weight"].tolist() == [3.0]
    assert found.document["parts"] == {"critic": CRITIC}


@pytest.mark.parametrize(
    ("described", "given", "words"),
    [
        (["critic"], {}, "weights of the part 'critic'"),
        (["critic"], {"critic": {}}, "weights of the part 'critic'"),
        ([], {"critic": {"w": np.zeros(3)}}, "weights of predictor, got 'critic.w' beside them"),
    ],
)
def test_a_part_is_both_described_and_there(
    tmp_path: Path, described: list[str], given: dict[str, Any], words: str, monkeypatch: Any
) -> None:
    path, document = (
        tmp_path / "m.safetensors",
        {**DOCUMENT, "parts": dict.fromkeys(described, CRITIC)},
    )
    with pytest.raises(ModelFileError, match=words):
        model_file.save(path, TENSORS, document, given)
    assert not path.exists()
    with monkeypatch.context() as patch:
        patch.setattr(model_file, "_by_part", lambda *_: None)
        model_file.save(path, TENSORS, document, given)
    error = refused(path)
    assert error.code == "model-file-part"
    assert words in str(error)


def write_format_1(path: Path, tensors: dict[str, Any], document: dict[str, Any]) -> None:
    """As versions before named parts wrote it: no prefixes, and nothing is said of parts."""

    def text(data: Any) -> str:
        return json.dumps(data, sort_keys=True, separators=(",", ":"))

    digest, types = hashlib.sha256(), {"float32": "F32", "float64": "F64", "int64": "I64"}
    for name, array in sorted(tensors.items()):
        head = [name, types[str(array.dtype)], list(array.shape), array.nbytes]
        digest.update(text(head).encode() + array.tobytes())
    full = {"postprocess": {}, "config": {}, "provenance": {}, "card": {}, **document, "format": 1}
    full["sha256"] = {"tensors": digest.hexdigest()}
    full["sha256"]["document"] = hashlib.sha256(text(full).encode()).hexdigest()
    safetensors.numpy.save_file(tensors, path, {"delineate": text(full)})


def test_format_1_is_still_read(tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    tensors = {name: TENSORS[name] for name in ("b.weight", "a.bias", "steps")}
    write_format_1(path, tensors, DOCUMENT)
    found = model_file.load(path)
    assert found.document["format"] == 1
    assert found.parts == {}
    assert {name: array.tolist() for name, array in found.tensors.items()} == {
        name: array.tolist() for name, array in tensors.items()
    }


def test_a_format_that_never_was_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_file, "FORMAT", 0)
        patch.setattr(model_file, "check_document", lambda *_: None)
        model_file.save(path, TENSORS, DOCUMENT)
    assert refused(path).code == "model-file-document"


def test_failed_save_leaves_the_older_file(path: Path, monkeypatch: Any) -> None:
    before = path.read_bytes()

    def fail(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(Exception, match="disk-full"):
        model_file.save(path, {"w": np.zeros(3)}, DOCUMENT)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_missing_file_and_folder_say_what_to_give(tmp_path: Path) -> None:
    assert refused(tmp_path / "no.safetensors").code == "model-file-missing"
    error = refused(tmp_path)
    assert error.fix is not None
    assert "model.safetensors" in error.fix


def test_text_and_objects_are_no_weights(tmp_path: Path) -> None:
    for bad in (np.array(["a"]), np.array([object()]), np.array([1j])):
        with pytest.raises(ModelFileError) as caught:
            model_file.save(tmp_path / "m.safetensors", {"w": bad}, DOCUMENT)
        assert caught.value.code == "model-file-type"


def test_model_file_does_not_import_torch() -> None:
    code = "import sys, delineate.core.model_file; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("start", [b"\xff\xd8\xff\xe0\x00\x10JFIF", b"epoch,loss\n1,0.3\n2,0.2\n"])
def test_a_file_of_another_kind_is_called_no_model_file(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "picture.safetensors"
    path.write_bytes(start * 20)
    with pytest.raises(ModelFileError, match="not a model file") as caught:
        model_file.load(path)
    assert not any(letter.isdigit() for letter in caught.value.message)
