from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from hornet.config import (
    ConfigError,
    apply_overrides,
    build_config,
    describe_fields,
    load_config,
    resumable,
    to_yaml,
)


@dataclass(frozen=True, kw_only=True)
class Inner:
    """An inner part."""

    rate: float = 0.5
    """Share of something, 0..1."""
    kind: Literal["a", "b"] = "a"
    """Which."""

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ValueError(f"rate: must lie in 0..1, not {self.rate}")


@dataclass(frozen=True, kw_only=True)
class Outer:
    """A whole."""

    inner: Inner
    """The part."""
    extra: Inner | None = None
    """Another part, or none."""
    from_: Path = Path("x")
    """A word of Python's."""
    num_workers: int = resumable(2)
    """Does not matter."""
    name: str
    """Required."""


def write(folder: Path, text: str) -> Path:
    path = folder / "c.yaml"
    path.write_text(text)
    return path


def test_reads_yaml_and_overrides(tmp_path):
    path = write(tmp_path, "name: n\ninner: {rate: 1e-3}\nfrom: here")
    config = load_config(Outer, path=path, overrides=["inner.kind=b", "extra.rate=0.25"])
    assert config == Outer(name="n", inner=Inner(rate=1e-3, kind="b"), extra=Inner(rate=0.25), from_=Path("here"))


def test_reports_every_problem_at_once(tmp_path):
    path = write(tmp_path, "inner: {rat: 1, rate: 7}\nnum_workers: many\nnam: x")
    with pytest.raises(ConfigError) as caught:
        load_config(Outer, path=path, overrides=["inner.kind=c", "nonsense", "name.x=1"])
    text = str(caught.value)
    assert "nam: unknown key; did you mean name?" in text
    assert "inner.rat: unknown key; did you mean rate?" in text
    assert "num_workers: Input should be a valid integer" in text
    assert "'many'" in text
    assert "inner.kind: Input should be 'a' or 'b', not 'c'" in text
    assert "'nonsense': an override is written key=value" in text
    assert len(caught.value.problems) == 6, text


def test_a_broken_rule_names_its_key():
    with pytest.raises(ConfigError, match=r"inner\.rate: must lie in 0\.\.1, not 7"):
        build_config(Outer, {"name": "n", "inner": {"rate": 7}}, source="test")


def test_a_missing_key_is_named():
    with pytest.raises(ConfigError, match="inner: is missing"):
        build_config(Outer, {"name": "n"}, source="test")


@pytest.mark.parametrize(("text", "message"), [("- 1", "holds no `key: value` pairs"), ("a: [", "is not YAML")])
def test_refuses_what_is_no_mapping(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_config(Outer, path=write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml.*\n?.*No such file"):
        load_config(Outer, path=tmp_path / "absent.yaml")


def test_yaml_round_trip(tmp_path):
    config = Outer(name="n", inner=Inner(), from_=Path("a/b"))
    path = write(tmp_path, to_yaml(config))
    assert "from: a/b" in path.read_text()
    assert load_config(Outer, path=path) == config


def test_help_shows_every_key_with_its_line():
    text = describe_fields(Outer)
    assert "inner.rate  (float, default 0.5)" in text
    assert "Share of something, 0..1." in text
    assert "from  (Path" in text


def test_config_files_keep_their_text_when_read(tmp_path):
    path = write(tmp_path, "name: n\ninner: {}")
    before = path.read_text(), path.stat().st_mtime_ns
    load_config(Outer, path=path, overrides=["name=m"])
    assert (path.read_text(), path.stat().st_mtime_ns) == before


def test_plus_equals_adds_to_a_list():
    values = {"inner": {"list": [[1, 2]]}}
    assert apply_overrides(values, ["inner.list+=[[5, 9]]", "other.list+=[3]"]) == []
    assert values == {"inner": {"list": [[1, 2], [5, 9]]}, "other": {"list": [3]}}
    assert apply_overrides(values, ["inner.list+=4"]) == ["'inner.list+=4': += adds a list to a list"]
