"""What a model file says that its network gives, and files that say it as older versions did."""

from __future__ import annotations

from delineate.core.model_output import LOGITS, PROBABILITIES, Output, output, target

SCHEMA = {"labels": [{"name": "liver", "value": 1}, {"name": "spleen", "value": 4}]}


def test_a_file_says_what_its_network_gives_and_for_which_target() -> None:
    document = {
        "schema": SCHEMA,
        "output": {"map": "image", "names": ["t1c"]},
        "target": {"name": "image", "config": {"channel": "t1c"}},
    }
    assert output(document) == Output("image", ("t1c",))
    assert target(document) == {"name": "image", "config": {"channel": "t1c"}}


def test_an_older_file_outlines_its_labels_or_names_its_classes() -> None:
    assert output({"schema": SCHEMA}) == Output(PROBABILITIES, ("background", "liver", "spleen"))
    assert target({"schema": SCHEMA, "classes": None})["name"] == "outline"
    classes = {"names": ["absent", "present"], "target": "presence", "temperature": 1.0}
    document = {"schema": SCHEMA, "classes": classes}
    assert output(document) == Output(LOGITS, ("absent", "present"))
    assert target(document) == {"name": "presence", "config": {}}
