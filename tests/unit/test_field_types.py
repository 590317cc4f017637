"""What a written value means, field by field; hypothesis writes configs and reads them again."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hornet.config import ConfigError, build_config, load_config, read_yaml, to_values, to_yaml
from hornet.field_types import Arguments, Location, NameOrPath


@dataclass(frozen=True, kw_only=True)
class Every:
    """A field of each kind."""

    text: str = "t"
    """."""
    maybe_text: str | None = None
    """."""
    count: int = 1
    """."""
    maybe_count: int | None = None
    """."""
    rate: float = 0.5
    """."""
    flag: bool = False
    """."""
    level: Literal[0, 1, 2] = 0
    """."""
    word: Literal["raw", "ema"] = "raw"
    """."""
    size: int | Literal["auto"] = 1
    """."""
    pair: tuple[float, float] = (0.0, 1.0)
    """."""
    windows: tuple[tuple[int, int], ...] = ()
    """."""
    folder: Path = Path("x")
    """."""
    maybe_folder: Path | None = None
    """."""
    place: Location = "y"
    """."""
    known: NameOrPath | None = None
    """."""
    when: datetime | None = None
    """."""
    arguments: Arguments | None = None
    """."""


LOOKS = "null ~ Null true off yes 001 016 0o7 0x10 1_000 1e5 1:30 2026-11-25 .inf .nan - = << & * ! @ # {} [] '' \""
TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(LOOKS.split(" "))
FINITE = st.floats(allow_nan=False, allow_infinity=False)
PATHS = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1).filter(
    lambda text: "//" not in text
)


@pytest.mark.slow
@given(
    st.builds(
        Every,
        text=TEXTS,
        maybe_text=st.none() | TEXTS,
        count=st.integers(-(10**18) + 1, 10**18 - 1),
        maybe_count=st.none() | st.integers(0, 99),
        rate=FINITE,
        flag=st.booleans(),
        level=st.sampled_from([0, 1, 2]),
        word=st.sampled_from(["raw", "ema"]),
        size=st.integers(1, 99) | st.just("auto"),
        pair=st.tuples(FINITE, FINITE),
        windows=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9))).map(tuple),
        folder=PATHS.map(Path),
        maybe_folder=st.none() | PATHS.map(Path),
        place=PATHS.filter(lambda text: not text.startswith("~")),
        known=st.none() | PATHS.filter(lambda text: not text.startswith("~")),
        when=st.none() | st.datetimes(timezones=st.just(UTC)),
        arguments=st.none() | st.dictionaries(st.sampled_from("abc"), st.integers() | FINITE | TEXTS | st.booleans()),
    )
)
def test_what_is_written_reads_back(config):
    text = to_yaml(config)
    as_yaml_1_1 = yaml.safe_load(text)  # a reader with its own idea of every scalar
    assert build_config(Every, as_yaml_1_1, source="test") == config
    assert build_config(Every, to_values(config), source="values") == config


@pytest.mark.slow
@given(st.builds(Every, text=TEXTS, rate=FINITE, folder=PATHS.map(Path), windows=st.just(((1, 2), (3, 4)))))
def test_what_is_written_reads_back_from_a_file(tmp_path_factory, config):
    path = tmp_path_factory.mktemp("c") / "config.yaml"
    path.write_text(to_yaml(config))
    assert load_config(Every, path=path) == config
    assert read_yaml(path) == to_values(config)


def read(tmp_path, key, text):
    """The value of one key, the same from a file and from the command line."""
    path = tmp_path / "c.yaml"
    path.write_text(f"{key}: {text}\n")
    from_file = getattr(load_config(Every, path=path), key)
    path.write_text("{}")
    assert getattr(load_config(Every, path=path, overrides=[f"{key}={text}"]), key) == from_file
    return from_file


@pytest.mark.parametrize(
    "text", ["001", "4711", "2026-11-25", "1e5", "on", "no", "true", "1:30", "0x10", ".inf", "5.0"]
)
def test_text_is_taken_as_it_is_written(tmp_path, text):
    assert read(tmp_path, "text", text) == read(tmp_path, "maybe_text", text) == text


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("maybe_text", "null", None),
        ("maybe_text", "~", None),
        ("maybe_text", '"null"', "null"),
        ("text", '"null"', "null"),
        ("text", '""', ""),
        ("rate", "1e-3", 1e-3),
        ("rate", "4", 4.0),
        ("rate", "-.5", -0.5),
        ("count", "-3", -3),
        ("count", '"3"', 3),
        ("flag", "True", True),
        ("size", "auto", "auto"),
        ("size", "12", 12),
        ("pair", "[0, 1e-2]", (0.0, 0.01)),
        ("maybe_folder", "null", None),
        ("when", "1795366800", datetime.fromtimestamp(1795366800, tz=UTC)),
    ],
)
def test_values_go_by_the_type_of_their_field(tmp_path, key, text, value):
    found = read(tmp_path, key, text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["016", "1:30", "1_000", "0x10", "0o17", "1.0", "1e3", "true", "many", "9" * 5000])
def test_whole_numbers_are_plain_decimal_digits(tmp_path, text):
    with pytest.raises(ConfigError, match="count: must be a whole number in plain decimal digits, not "):
        read(tmp_path, "count", text)


@pytest.mark.parametrize("text", ["1" + "0" * 18, "-" + "9" * 19, "9" * 5000])
def test_a_whole_number_of_a_key_has_18_digits_at_most(tmp_path, text):
    with pytest.raises(ConfigError, match=r"count: must be a whole number .*, not .* \(it has more than 18 digits\)"):
        read(tmp_path, "count", text)


def test_a_whole_number_of_pythons_has_18_digits_at_most():
    with pytest.raises(ConfigError, match=r"count: must be a whole number .* \(it has more than 18 digits\)"):
        build_config(Every, {"count": -(10**18)}, source="test")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1234567890123456789", 1234567890123456789),
        ("-9223372036854775809", -(2**63) - 1),
        ("9" * 400, 10**400 - 1),
        ("0x1ffffffffffffffff", 2**65 - 1),
        ("0o1000000000000000000000000", 2**72),
    ],
)
def test_whole_numbers_among_arguments_stay_whole(tmp_path, text, value):
    assert read(tmp_path, "arguments", f"{{a: {text}, b: [{text}]}}") == {"a": value, "b": [value]}


@pytest.mark.parametrize("text", ["9" * 5000, "1e999", ".nan"])
def test_numbers_among_arguments_are_finite(tmp_path, text):
    with pytest.raises(ConfigError, match=r"arguments: must be values by name, .* \(numbers must be finite\)"):
        read(tmp_path, "arguments", f"{{a: {text}}}")


@pytest.mark.parametrize("text", [".inf", "-.inf", ".nan", "inf", "1e999", "016", "1:30", "1_0.5", "0x1p3", "yes"])
def test_numbers_are_finite_and_decimal(tmp_path, text):
    with pytest.raises(ConfigError, match="rate: must be a finite number in plain decimal digits, not "):
        read(tmp_path, "rate", text)
    with pytest.raises(ConfigError, match="pair: must be a list of 2, each of it a finite number"):
        read(tmp_path, "pair", f"[0, {text}]")


@pytest.mark.parametrize(
    ("key", "text", "sentence"),
    [
        ("flag", "yes", "flag: must be true or false, not 'yes'"),
        ("flag", "off", "flag: must be true or false, not 'off'"),
        ("flag", "1", "flag: must be true or false, not 1"),
        ("level", "true", "level: must be 0, 1 or 2, not 'true'"),
        ("level", "3", "level: must be 0, 1 or 2, not 3"),
        ("word", "Raw", "word: must be raw or ema, not 'Raw'"),
        ("size", "all", "size: must be a whole number in plain decimal digits or auto, not 'all'"),
        ("text", "null", "text: must be text, not null"),
        ("text", "[a]", "text: must be text, not \\['a'\\]"),
        ("count", "", "count: must be a whole number in plain decimal digits, not null"),
        ("pair", "[1]", "pair: must be a list of 2"),
        ("windows", "[[1, 2], 3]", "windows: must be a list, each of it a list of 2, each of it a whole number"),
        ("maybe_folder", "~", "maybe_folder: .* \\(~ is null to YAML and home to a shell; write null or ~/\\)"),
        ("text", "!!python/name:os.system", "tag .* is not known here"),
        ("pair", "&a [*a, 1]", "alias"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, key, text, sentence):
    with pytest.raises(ConfigError, match=sentence):
        read(tmp_path, key, text)


@pytest.mark.parametrize("value", [True, 1.0, math.nan, None, [1]])
def test_values_of_pythons_go_by_the_same_rules(value):
    with pytest.raises(ConfigError, match="count: must be a whole number"):
        build_config(Every, {"count": value}, source="test")


@pytest.mark.parametrize("key", ["folder", "maybe_folder", "place", "known"])
def test_home_and_variables_are_expanded_in_paths(tmp_path, monkeypatch, key):
    monkeypatch.setenv("HOME", "/home/of $me")
    monkeypatch.setenv("SET", "flowers")
    assert str(read(tmp_path, key, "~/x")) == "/home/of $me/x"
    assert str(read(tmp_path, key, "$HOME/${SET}_1")) == "/home/of $me/flowers_1"
    assert str(read(tmp_path, key, "a~b/$$SET")) == "a~b/$SET"
    monkeypatch.delenv("SET")
    with pytest.raises(
        ConfigError, match=rf"{key}: must be .*, not '\$SET/x' \(the variable SET is not set; write \$\$"
    ):
        read(tmp_path, key, "$SET/x")
    with pytest.raises(ConfigError, match="there is no such home folder"):
        read(tmp_path, key, "~nobody_at_all/x")


def test_a_lone_tilde_is_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert read(tmp_path, "folder", "~") == Path("/home/me")
    assert read(tmp_path, "place", "~") == "/home/me"


def test_a_url_keeps_its_slashes(tmp_path, monkeypatch):
    monkeypatch.setenv("BUCKET", "b")
    assert read(tmp_path, "place", "s3://$BUCKET/x") == "s3://b/x"


def test_text_is_never_expanded(tmp_path):
    assert read(tmp_path, "text", "$HOME and ~") == "$HOME and ~"
