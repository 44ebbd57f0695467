"""Pictures that store the same thing in one channel or in three are one cohort."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from delineate.core.case import Reading
from delineate.core.errors import ReadError
from delineate.data import colour, readers
from delineate.data.cohort import Cohort
from delineate.findings.examine import examine

RNG = np.random.default_rng(0)


def pictures(root: Path, **kinds: str) -> Path:
    """Pictures in two class folders, each stored in a mode of Pillow; ``colour`` has colours."""
    for number, (name, kind) in enumerate(kinds.items()):
        folder = root / ("sick" if number % 2 else "well")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = RNG.integers(0, 256, (12, 14)).astype(np.uint8)
        if kind == "colour":
            picture = PIL.Image.fromarray(RNG.integers(0, 256, (12, 14, 3)).astype(np.uint8))
        elif kind == "I;16":
            picture = PIL.Image.fromarray(pixels.astype(np.uint16) * 256)
        else:
            picture = PIL.Image.fromarray(pixels).convert(kind)
        picture.save(folder / f"{name}.png")
    return root


def read_all(cohort: Cohort) -> dict[str, tuple[int, ...]]:
    return {
        case.id: readers.read(case.images["image"], case.reading).array.shape for case in cohort
    }


def blocking(cohort: Cohort) -> set[str]:
    return {f["code"] for f in examine(cohort)["findings"] if f["severity"] == "blocking"}


@pytest.mark.parametrize("stored", ["RGB", "RGBA", "LA", "P", "I;16"])
def test_grey_pictures_are_grey_however_they_are_stored(tmp_path: Path, stored: str) -> None:
    kinds = {f"p{n}": "L" for n in range(6)} | {"q6": stored, "q7": stored}
    opened = Cohort.open(pictures(tmp_path, **kinds))
    assert ("channels-differ" in blocking(opened)) == (stored in ("RGB", "RGBA", "P"))
    cohort = colour.harmonise(opened)
    assert set(read_all(cohort).values()) == {(1, 12, 14)}
    for case in cohort:
        assert readers.probe(case.images["image"], case.reading)[1] == 1
    assert not blocking(cohort)
    if stored in ("RGB", "RGBA", "P"):
        assert "2 of 8 pictures store grey as three equal channels: one is read" in cohort.notes
        found = next(f for f in examine(cohort)["findings"] if f["code"] == "image-read")
        assert (found["places"], found["severity"]) == (2, "note")


def test_a_cohort_of_equal_channels_is_grey_and_one_of_colours_stays_colour(
    tmp_path: Path,
) -> None:
    grey = colour.harmonise(
        Cohort.open(pictures(tmp_path / "grey", **dict.fromkeys("abcd", "RGB")))
    )
    assert set(read_all(grey).values()) == {(1, 12, 14)}
    assert grey.modalities == {"image": "unknown"}
    kinds = dict.fromkeys("abc", "colour") | {"d": "RGB"}
    coloured = Cohort.open(pictures(tmp_path / "colour", **kinds))
    assert colour.harmonise(coloured) == coloured
    assert set(read_all(coloured).values()) == {(3, 12, 14)}


def test_a_few_grey_pictures_among_colours_get_three_channels_and_a_few_colours_block(
    tmp_path: Path,
) -> None:
    kinds = dict.fromkeys("abcdef", "colour") | {"g": "L"}
    cohort = colour.harmonise(Cohort.open(pictures(tmp_path / "colours", **kinds)))
    assert set(read_all(cohort).values()) == {(3, 12, 14)}
    assert "1 of 7 pictures are grey among colours" in cohort.notes[-1]
    assert cohort.modalities == {"image": "RGB"}
    assert not blocking(cohort)
    kinds = dict.fromkeys("abcdef", "L") | {"g": "colour"}
    mixed = Cohort.open(pictures(tmp_path / "greys", **kinds))
    assert colour.harmonise(mixed) == mixed
    assert "channels-differ" in blocking(mixed)


def test_scans_that_share_a_file_are_never_taken_for_colours(tmp_path: Path) -> None:
    from dataclasses import replace

    opened = Cohort.open(pictures(tmp_path, **dict.fromkeys("abcd", "RGB")))
    scans = replace(opened, modalities={"image": "MR"})
    assert colour.harmonise(scans) == scans


def test_what_a_model_was_trained_on_decides_how_new_pictures_are_read(tmp_path: Path) -> None:
    cohort = Cohort.open(pictures(tmp_path, a="L", b="RGB", c="colour"))
    grey = colour.as_trained(cohort, ["unknown"])
    coloured = next(case for case in grey if case.id.endswith("c"))
    with pytest.raises(ReadError, match="expected a grey picture"):
        readers.read(coloured.images["image"], coloured.reading)
    rest = grey.with_cases(case for case in grey if case is not coloured)
    assert set(read_all(rest).values()) == {(1, 12, 14)}
    assert set(read_all(colour.as_trained(cohort, ["RGB"] * 3)).values()) == {(3, 12, 14)}
    assert colour.as_trained(cohort, ["MR", "MR", "MR"]) == cohort


def test_stacks_of_slices_are_grey_as_their_slices_are(tmp_path: Path) -> None:
    paths = []
    for number, kind in enumerate(("L", "RGB", "L")):
        pixels = PIL.Image.fromarray(RNG.integers(0, 256, (12, 14)).astype(np.uint8))
        pixels.convert(kind).save(tmp_path / f"{number}.png")
        paths.append(tmp_path / f"{number}.png")
    image = readers.read(tuple(paths), Reading(colour="grey"))
    assert image.array.shape == (1, 12, 14, 3)
    assert readers.probe(tuple(paths), Reading(colour="grey"))[1] == 1
