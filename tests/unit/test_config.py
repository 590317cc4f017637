from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from hornet.config import (
    ConfigError,
    Settings,
    build_config,
    describe_fields,
    load_config,
    resumable,
    to_yaml,
)
from hornet.overrides import apply_overrides
from pretrain.config import PretrainConfig

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Inner(Settings):
    """An inner part."""

    rate: float = 0.5
    """Share of something, 0..1."""
    kind: Literal["a", "b"] = "a"
    """Which."""

    def _find_problems(self):
        if not 0 <= self.rate <= 1:
            yield f"rate: must lie in 0..1, not {self.rate}"
        if self.kind == "b" and self.rate == 0.5:
            yield "kind: b needs another rate"


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
    assert "inner.rat: unknown key; did you mean inner.rate?" in text
    assert "num_workers: must be a whole number" in text
    assert "'many'" in text
    assert "inner.kind: must be a or b, not 'c'" in text
    assert "'nonsense': an override is written key=value" in text
    assert "inner.rate: must lie in 0..1, not 7.0" in text
    assert "name: must be text, not keys" in text
    assert len(caught.value.problems) == 7, text


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
    assert values == {"inner": {"list": [[1, 2], ["5", "9"]]}, "other": {"list": ["3"]}}, (
        "as written, for the field to read"
    )
    assert apply_overrides(values, ["inner.list+=4"]) == ["'inner.list+=4': += adds a list to a list"]


@dataclass(frozen=True, kw_only=True)
class Whole(Settings):
    """Two sections and a rule between them."""

    left: Inner
    """One."""
    right: Inner | None = None
    """The other, or none."""

    def _find_problems(self):
        if self.right is None:
            yield "right: is needed"
        elif self.left.kind == self.right.kind:
            yield "right.kind: must differ from left.kind"


def test_every_broken_rule_of_every_section_has_its_line():
    values = {"left": {"rate": 7}, "right": {"rate": -1}, "middle": 3}
    with pytest.raises(ConfigError) as caught:
        build_config(Whole, values, source="test")
    assert caught.value.problems == [
        "middle: unknown key; known here: left, right",
        "left.rate: must lie in 0..1, not 7.0",
        "right.rate: must lie in 0..1, not -1.0",
        "right.kind: must differ from left.kind",
    ]


def test_rules_are_tried_where_other_fields_could_not_be_read():
    with pytest.raises(ConfigError) as caught:
        build_config(Whole, {"left": {"kind": "c", "rate": 7}, "right": 5}, source="test")
    assert caught.value.problems == [
        "left.kind: must be a or b, not 'c'",
        "left.rate: must lie in 0..1, not 7.0",
        "right: must hold keys, not 5",
        "right.kind: must differ from left.kind",  # both are taken at their defaults
    ]


def test_a_config_made_in_python_keeps_its_rules():
    with pytest.raises(ConfigError, match=r"Inner: 1 problem\nrate: must lie in 0\.\.1, not 2"):
        Inner(rate=2)


def test_a_key_that_stands_twice_is_refused_with_both_lines(tmp_path):
    path = write(tmp_path, "name: n\ninner:\n  rate: 0.1\n  kind: a\n  rate: 0.2\nname: m\n")
    with pytest.raises(ConfigError) as caught:
        load_config(Outer, path=path)
    assert caught.value.problems == [
        "inner.rate: stands twice, on lines 3 and 5; keep one of them",
        "name: stands twice, on lines 1 and 6; keep one of them",
    ]


def test_a_key_that_stands_twice_in_an_override_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"rate: stands twice, on line 1; keep one"):
        load_config(Outer, path=write(tmp_path, "name: n"), overrides=["inner={rate: 0.1, rate: 0.2}"])


def test_broken_rules_of_a_real_config_in_one_report():
    """Two in each of two sections, a rule of the whole, one that both sections share, an unknown key, a wrong type."""
    overrides = [
        "cadence.log_every_steps=0",
        "cadence.norms_every_steps=0",
        "mixing.probability=2",
        "mixing.mixup_alpha=-1",
        "model.compile=true",
        "zero.stage=3",
        "recipe.clipping=paper",
        "optimizer.clip_grad_norm=null",
        "zero.stag=3",
        "run.seed=x",
    ]
    with pytest.raises(ConfigError) as caught:
        load_config(PretrainConfig, path=ROOT / "configs/demo/pretrain.yaml", overrides=overrides)
    keys = [problem.partition(":")[0] for problem in caught.value.problems]
    assert sorted(keys) == [
        "cadence.log_every_steps",
        "cadence.norms_every_steps",
        "mixing.mixup_alpha",
        "mixing.probability",
        "model.compile",
        "recipe.clipping",
        "run.seed",
        "zero.stag",
    ]
