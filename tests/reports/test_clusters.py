"""The K-means step in the page of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.reports.conftest import Page

from delineate.reports import clusters, training
from delineate.targets import results


def kept(**changes: Any) -> dict[str, Any]:
    labels = np.arange(24).reshape(4, 6) % 3
    return {
        "image": (labels * 80).astype(np.uint8),
        "colours": np.stack([labels * 60] * 3).astype(np.uint8),
        "spacing_mm": np.array([2.0, 1.0]),
        "numbers": np.arange(2, 9),
        "inertia": 1 / np.arange(2, 9),
        "chosen": np.array(4),
        "by_elbow": np.array(True),
        "case": np.array("sub-1"),
        "channel": np.array("flair"),
        **changes,
    }


def save(run: Path, **changes: Any) -> None:
    (run / "preparation").mkdir()
    np.savez(run / "preparation" / "clusters.npz", allow_pickle=False, **kept(**changes))


def test_curve_and_slice_stand_in_the_page_itself(
    make_run: Callable[..., Path], tmp_path: Path
) -> None:
    run = make_run()
    save(run)
    page = Page(training.write(tmp_path / "page.html", run, results).read_text())
    words = page.words()
    assert "Clusters (K-means)" in words
    assert "4 clusters, chosen by the elbow of the training cases" in words
    pictures = [image for image in page.named("img") if "sub-1" in image["alt"]]
    assert len(pictures) == 1
    assert pictures[0]["src"].startswith("data:image/png;base64,")
    assert int(pictures[0]["height"]) == 340  # voxels are twice as tall as wide
    assert any("Inertia by number" in tag.get("aria-label", "") for tag in page.named("svg"))


def test_a_set_number_is_called_so() -> None:
    picture = clusters.curve(kept(by_elbow=np.array(False)))
    assert picture.title == "4 clusters, as set"
    assert "decided nothing" in picture.caption


def test_runs_without_clusters_say_nothing_of_them(
    make_run: Callable[..., Path], tmp_path: Path
) -> None:
    words = Page(training.write(tmp_path / "page.html", make_run(), results).read_text()).words()
    assert "K-means" not in words


@pytest.mark.parametrize("fault", ["bytes", "shape", "missing"])
def test_damaged_pictures_are_said_to_be_so(
    fault: str, make_run: Callable[..., Path], tmp_path: Path
) -> None:
    run = make_run()
    save(run, **({"colours": np.zeros((3, 2), np.uint8)} if fault == "shape" else {}))
    path = run / "preparation" / "clusters.npz"
    if fault == "bytes":
        path.write_bytes(path.read_bytes()[:100])
    if fault == "missing":
        np.savez(path, allow_pickle=False, image=np.zeros((2, 2), np.uint8))
    words = Page(training.write(tmp_path / "page.html", run, results).read_text()).words()
    assert "Clusters: not available" in words
    assert "clusters.npz cannot be shown" in words


def test_hostile_names_are_only_names(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run()
    save(run, case=np.array("<script>alert(1)</script>"))
    html = training.write(tmp_path / "page.html", run, results).read_text()
    assert "<script>alert(1)" not in html
