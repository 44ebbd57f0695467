"""A task that nobody watches works the same."""

from __future__ import annotations

from delineate.core.progress import QUIET, silent


def test_quiet_gives_every_item_and_takes_every_number() -> None:
    assert list(QUIET.track(iter("abc"), "letters")) == ["a", "b", "c"]
    with QUIET.task(10, "training") as bar:
        bar.advance(3, loss=0.2)
    silent("nothing")
