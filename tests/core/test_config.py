"""Settings: what is refused and how, and that what is written is read back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delineate.core import config
from delineate.core.errors import ConfigError
from delineate.core.quantities import parse_bytes, parse_duration


@dataclass(frozen=True)
class Optimiser:
    name: Literal["adamw", "sgd"] = "adamw"
    rate: float = field(default=1e-3, metadata={"help": "Step size at the start."})

    note: str = ""

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise ValueError(f"expected a rate above 0, got {self.rate}")


@dataclass(frozen=True)
class Settings:
    data: Path = field(metadata={"help": "Folder of the cohort."})
    budget: str = "40m"
    seed: int = 0
    flips: bool = True
    patch: tuple[int, ...] = (96, 96)
    window: tuple[float, float] | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    optimiser: Optimiser = field(default_factory=Optimiser)
    teacher: Optimiser | None = None
    free: Any = None


def test_defaults_fill_what_is_not_named() -> None:
    settings = config.load("data: cohort", Settings)
    assert settings == Settings(data=Path("cohort"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: d\nsede: 3", "a.yaml:2: sede: expected a setting of Settings, got an unknown key"),
        ("data: d\nseed: '3'", "a.yaml:2: seed: expected a whole number, got '3'"),
        ("data: d\nseed: 3.0", "a.yaml:2: seed: expected a whole number, got 3.0"),
        ("data: d\nseed: true", "a.yaml:2: seed: expected a whole number, got true"),
        ("data: d\nflips: 1", "a.yaml:2: flips: expected true or false, got 1"),
        ("data: d\nflips: no", "a.yaml:2: flips: expected true or false, got 'no'"),
        ("data: d\nbudget: 40", "a.yaml:2: budget: expected text, got 40"),
        ("data: d\npatch: [96, x]", "a.yaml:2: patch[1]: expected a whole number, got 'x'"),
        ("data: d\npatch:\n- 96\n- x", "a.yaml:4: patch[1]: expected a whole number, got 'x'"),
        ("data: d\nwindow: [1]", "a.yaml:2: window: expected a list of 2 (a number, a number)"),
        ("data: d\nweights: {WT: a}", "a.yaml:2: weights.WT: expected a number, got 'a'"),
        (
            "data: d\noptimiser:\n  name: adam",
            "a.yaml:3: optimiser.name: expected 'adamw' or 'sgd', got 'adam'",
        ),
        ("data: d\nteacher: {rat: 1}", "a.yaml:2: teacher.rat: expected a setting of Optimiser"),
        ("data: d\nteacher: 3", "teacher: expected settings of Optimiser or null, got 3"),
        ("data: d\noptimiser:\n  rate: -1", "a.yaml:3: optimiser.rate: expected a rate above"),
        ("seed: 1", "a.yaml:1: data: expected a path, got nothing"),
        ("- 1", "a.yaml:1: expected settings of Settings, got [1]"),
        ("data: d\nseed: 1\nseed: 2", "a.yaml:3: expected settings in YAML, got a fault: the key"),
        ("data: [", "a.yaml:1: expected settings in YAML, got a fault"),
        ("data: &a d\nbudget: *a", "a.yaml:2: expected settings in YAML, got a fault: aliases"),
        ("data: !!python/name:os.system d", "a.yaml:1: expected settings in YAML, got a fault"),
        ("data: a\n---\ndata: b", "a.yaml:2: expected settings in YAML, got a fault"),
        ("data: d\nseed: " + "9" * 5000, "a.yaml: expected settings in YAML, got a fault"),
        ("data: " + "[" * 5000, "expected settings in YAML, got a fault"),
        ("data: \x00", "expected settings in YAML, got a fault"),
    ],
)
def test_a_fault_is_named_with_file_line_and_key(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(text, Settings, where="a.yaml")
    assert message in str(caught.value)


def test_a_misspelt_key_gets_the_nearest_name() -> None:
    with pytest.raises(ConfigError) as caught:
        config.load("data: d\nbugdet: 4h", Settings)
    assert caught.value.fix == "did you mean 'budget'?"
    assert caught.value.code == "config-unknown-key"


@pytest.mark.parametrize(
    ("word", "value"),
    [("1e-3", 1e-3), ("3", 3.0), ("2.5E6", 2.5e6), (".inf", math.inf), ("-.5", -0.5)],
)
def test_numbers_are_numbers_in_every_notation(word: str, value: float) -> None:
    rate = config.load(f"data: d\nweights: {{a: {word}}}", Settings).weights["a"]
    assert rate == value
    assert isinstance(rate, float)


@pytest.mark.parametrize("word", ["no", "on", "1:30", "010", "2026-01-01", "0x10", "1_000"])
def test_words_that_yaml_1_1_would_convert_stay_text(word: str) -> None:
    assert config.load(f"data: d\nbudget: {word}", Settings).budget == word


def test_a_file_that_cannot_be_read_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        config.load(tmp_path / "none.yaml", Settings)
    (tmp_path / "latin.yaml").write_bytes(b"data: \xe9t\xe9")
    with pytest.raises(ConfigError, match="not UTF-8"):
        config.load(tmp_path / "latin.yaml", Settings)


def test_dump_gives_every_setting_with_its_help() -> None:
    text = config.dump(Settings(data=Path("d")))
    assert "# Folder of the cohort.\ndata: d\n" in text
    assert "optimiser:\n  name: adamw\n  # Step size at the start.\n  rate: 0.001\n" in text
    assert "patch: [96, 96]\n" in text


@dataclass(frozen=True)
class Soup:
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "mild": {},
        "hot": {"heat": 9.0, "salt": 1.0},
    }

    heat: float = 1.0
    salt: float = 0.5
    losses: Mapping[str, Any] = field(default_factory=dict, metadata={"room": "losses"})


def test_a_preset_stands_where_nothing_is_given() -> None:
    assert config.from_dict({}, Soup) == config.from_dict({"preset": "mild"}, Soup) == Soup()
    assert config.from_dict({"preset": "hot"}, Soup) == Soup(9.0, 1.0)
    assert config.from_dict({"preset": "hot", "heat": 1}, Soup) == Soup(1.0, 1.0)


def test_no_instance_bears_the_name_of_a_preset_that_it_is_not() -> None:
    with pytest.raises(TypeError, match="preset"):
        replace(Soup(), preset="hot")  # type: ignore[call-arg]
    assert replace(config.from_dict({"preset": "hot"}, Soup), salt=0.1) == Soup(9.0, 0.1)


@pytest.mark.parametrize("wrong", ["hit", "3", "null", "[hot]"])
def test_an_unknown_preset_is_told_with_its_line(wrong: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(f"heat: 2\npreset: {wrong}", Soup, where="a.yaml")
    assert "a.yaml:2: preset: expected a preset of Soup, got" in str(caught.value)
    assert "hot" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("text", "message", "fix"),
    [
        ("losses:\n  dise: 1", "a.yaml:2: losses.dise: expected one of the losses", "'dice'"),
        ("losses:\n  focal:\n    gama: 1", "a.yaml:3: losses.focal.gama: expected a", "'gamma'"),
        ("losses:\n  focal: {gamma: x}", "a.yaml:2: losses.focal.gamma: expected a number", ""),
        ("losses:\n  dice: much", "a.yaml:2: losses.dice: expected settings of dice", ""),
        ("losses:\n  dice: true", "a.yaml:2: losses.dice: expected settings of dice", ""),
        ("losses: [dice]", "a.yaml:1: losses: expected a mapping of losses", ""),
        ("losses:\n  dice: -1", "a.yaml:2: losses.dice.weight: expected weight >= 0", ""),
    ],
)
def test_members_of_a_room_are_settings_too(text: str, message: str, fix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(text, Soup, where="a.yaml")
    assert message in str(caught.value)
    assert fix in (caught.value.fix or "")


def test_members_of_a_room_are_typed_and_written_in_full() -> None:
    soup = config.load("losses: {dice: 2, focal: {gamma: 3}}", Soup)
    assert soup.losses["dice"].weight == 2.0
    assert "gamma: 3.0, " in config.dump(soup) or "gamma: 3.0}" in config.dump(soup)
    assert "label_smoothing" not in config.dump(soup)
    assert config.load(config.dump(soup), Soup) == soup
    assert config.from_dict(config.to_dict(soup), Soup) == soup


def test_merged_settings_are_told_with_the_lines_of_those_given() -> None:
    document = config.read("data: d\nmore:\n  rate: -1", "a.yaml")
    given = {"name": "sgd", **document.get(("more",))}
    with pytest.raises(ConfigError, match=r"a\.yaml:3: more\.rate: expected a rate"):
        document.make(Optimiser, ("more",), given)


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.just("\n"), max_size=20)
numbers = st.floats(allow_nan=False)
optimisers = st.builds(
    Optimiser, note=texts, rate=st.floats(min_value=1e-300, allow_infinity=False)
)


@given(
    st.builds(
        Settings,
        data=texts.filter(lambda s: "\0" not in s).map(Path),
        budget=texts,
        seed=st.integers(),
        patch=st.lists(st.integers()).map(tuple),
        window=st.none() | st.tuples(numbers, numbers),
        weights=st.dictionaries(texts, numbers, max_size=3),
        names=st.lists(texts, max_size=3),
        optimiser=optimisers,
        teacher=st.none() | optimisers,
        free=st.none() | st.booleans() | st.lists(st.dictionaries(texts, st.integers())),
    )
)
def test_what_is_written_is_read_back(settings: Settings) -> None:
    assert config.load(config.dump(settings), Settings) == settings
    assert config.from_dict(config.to_dict(settings), Settings) == settings


@pytest.mark.parametrize(
    ("word", "kind", "value"),
    [
        ("3", int, 3),
        ("3", str, "3"),
        ("3", int | str, 3),
        ("a # b", str, "a # b"),
        ("[1, 2]", Path, Path("[1, 2]")),
        ("null", str | None, "null"),
        ("{WT: 1}", dict[str, float], {"WT": 1.0}),
        ("true", bool, True),
    ],
)
def test_words_of_the_command_line(word: str, kind: Any, value: Any) -> None:
    assert config.convert_text(word, kind, "--x") == value


def test_a_wrong_word_names_its_option() -> None:
    with pytest.raises(ConfigError, match="--seed: expected a whole number, got 'x'"):
        config.convert_text("x", int, "--seed")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("40m", 2400), ("1h30m", 5400), ("2h", 7200), ("0.5m", 30)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "40", "m", "-3m", "0s", "3d", "30m1h", "1h 30m", "٣m"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a duration such as"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("8G", 8 * 1024**3), ("512M", 512 * 1024**2), ("1.5 GiB", 3 * 1024**3 // 2), ("10", 10)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1G", "0", "8X"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a size such as"):
        parse_bytes(text)


def test_a_word_of_the_command_line_gets_its_choices_and_the_nearest():
    with pytest.raises(ConfigError) as caught:
        config.convert_text("outlines", Literal["outline", "class", "presence"] | None, "--target")
    assert caught.value.message == "--target: expected outline, class or presence, got 'outlines'"
    assert caught.value.fix == "did you mean 'outline'?"


@pytest.mark.parametrize(
    ("text", "fix"),
    [("60", "write 60s or 60m"), ("60x", "write a number with its unit: h, m or s")],
)
def test_a_duration_without_a_unit_is_told_how_to_write_it(text, fix):
    with pytest.raises(ConfigError) as caught:
        parse_duration(text)
    assert caught.value.fix == fix
