"""Files of earlier and later releases, and the rule for whoever adds, renames or removes a setting."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import yaml

import hornet
from hornet import formats
from hornet.config import ConfigError, load_config, resumable, to_values
from hornet.errors import UserError
from hornet.field_types import Arguments
from hornet.formats import CHECKPOINT, CONFIG, REMOVED, RENAMED, SHARDS, UNWRITTEN, LaterFormatError, Removed
from hornet.runs.begun import go_on_as_begun, list_changes, read_run_config, refuse_changes, write_config
from hornet.shards.manifest import parse_info
from tests.golden.config_keys import RELEASES, STAGES, describe_keys

RULE = (
    "Say in hornet/formats.py what runs of earlier releases mean by it (docs/checkpoints.md, Settings that come and "
    "go), then run `python -m tests.golden.config_keys` and commit what it writes."
)
RELEASED = json.loads(RELEASES.read_text())
EARLIER = [release for release in RELEASED if release != hornet.__version__]
PAIRS = [(release, stage) for release in EARLIER for stage in RELEASED[release]]


@pytest.mark.parametrize("stage", STAGES)
def test_the_list_of_settings_is_todays(stage):
    """The list is what the next release is compared with: nothing comes, goes or changes without being seen."""
    listed, today = RELEASED.get(hornet.__version__, {}).get(stage, {}), describe_keys(STAGES[stage])
    changed = sorted(key for key in listed.keys() | today.keys() if listed.get(key) != today.get(key))
    assert not changed, f"settings of {stage} came, went or changed: {', '.join(changed)}. {RULE}"


@pytest.mark.parametrize(("release", "stage"), PAIRS)
def test_every_setting_of_an_earlier_release_is_known(stage, release):
    today = describe_keys(STAGES[stage])
    missing = [key for key in RELEASED[release][stage] if key not in today and RENAMED.get(key) not in today]
    missing = [key for key in missing if key not in REMOVED]
    assert not missing, f"{release} had {', '.join(missing)}: enter it in RENAMED or REMOVED. {RULE}"


@pytest.mark.parametrize(("release", "stage"), PAIRS)
def test_every_setting_since_an_earlier_release_says_what_runs_without_it_did(stage, release):
    before, today = RELEASED[release][stage], describe_keys(STAGES[stage])
    new = [key for key, setting in today.items() if key not in before and not setting["resumable"]]
    silent = [key for key in new if key not in UNWRITTEN and key not in RENAMED.values()]
    assert not silent, f"{', '.join(silent)} came after {release}: enter it in UNWRITTEN. {RULE}"
    assert all("default" in today[key] for key in new), "a run that was begun without a setting cannot be asked for it"


@pytest.mark.parametrize(("release", "stage"), PAIRS)
def test_a_default_that_changed_is_remembered(stage, release):
    before, today = RELEASED[release][stage], describe_keys(STAGES[stage])
    changed = [
        key
        for key, setting in before.items()
        if key in today and not today[key]["resumable"] and today[key].get("default") != setting.get("default")
    ]
    silent = [key for key in changed if UNWRITTEN.get(key, "nothing") != before[key].get("default")]
    assert not silent, f"{', '.join(silent)} had another default in {release}: enter that in UNWRITTEN. {RULE}"


@pytest.mark.parametrize("release", EARLIER)
def test_other_settings_are_another_format(release):
    today = {stage: list(describe_keys(STAGES[stage])) for stage in RELEASED[release]}  # a stage may have come since
    if {stage: list(keys) for stage, keys in RELEASED[release].items()} != today:
        newest = CONFIG.releases[-1]
        assert list(RELEASED).index(release) < list(RELEASED).index(newest), "add this release to CONFIG.releases"


def test_the_table_names_settings_of_today():
    today = set().union(*(describe_keys(config) for config in STAGES.values()))
    assert set(UNWRITTEN) | set(RENAMED.values()) <= today
    assert not (set(RENAMED) | set(REMOVED)) & today, "a name that comes back would mean two things"


@pytest.mark.parametrize("path", sorted((Path(hornet.__file__).parents[1] / "configs").rglob("*.yaml")), ids=str)
def test_users_do_not_write_formats(path):
    assert not {CONFIG.key, formats.MADE_BY} & yaml.safe_load(path.read_text()).keys()


@dataclass(frozen=True, kw_only=True)
class Guard:
    spike_sigmas: float | None = 6.0
    window_steps: int = 128
    max_rollbacks: int = resumable(0)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    image_size: int
    crop: float = 0.875


@dataclass(frozen=True, kw_only=True)
class Config:
    seed: int = 0
    rate: float
    newest: int = resumable(3)
    guard: Guard = Guard()
    evaluation: Evaluation | None = None
    arguments: Arguments | None = None


def begin(folder, config=None, **changes):
    """A run's config.yaml with changes to what it holds: dotted keys as `guard__window_steps`, None removes."""
    write_config(folder, config or Config(rate=0.5))
    path = folder / "config.yaml"
    values = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        *sections, name = key.split("__")
        target = values
        for section in sections:
            target = target[section]
        if value is None:
            del target[name]
        else:
            target[name] = value
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def refuse(config, folder):
    config, _ = go_on_as_begun(config, folder)
    refuse_changes(config, folder)
    return config


def test_config_yaml_begins_with_its_format(tmp_path):
    lines = begin(tmp_path).read_text().splitlines()
    assert lines[:2] == [f"format: {CONFIG.number}", f"made_by: hornet {hornet.__version__}"]
    assert read_run_config(tmp_path) == to_values(Config(rate=0.5))


def test_values_by_name_are_one_setting(tmp_path):
    config = Config(rate=0.5, arguments={"depths": [1, 2], "names": {"a": True}})
    begin(tmp_path, config)
    assert refuse(config, tmp_path) == config
    assert load_config(Config, path=tmp_path / "config.yaml") == config
    with pytest.raises(UserError, match=r"arguments: \{.*\} -> \{'depths': \[1, 3\]\}"):
        refuse(Config(rate=0.5, arguments={"depths": [1, 3]}), tmp_path)
    with pytest.raises(UserError, match=r"arguments: \{.*\} -> None"):
        refuse(Config(rate=0.5), tmp_path)


def test_a_runs_own_config_is_a_config(tmp_path):
    assert load_config(Config, path=begin(tmp_path), overrides=["rate=2"]) == Config(rate=2.0)


def test_the_same_config_resumes(tmp_path):
    begin(tmp_path)
    assert refuse(Config(rate=0.5), tmp_path) == Config(rate=0.5)


@pytest.mark.parametrize("gone", ["guard__window_steps", "guard__max_rollbacks", "evaluation", "seed", "newest"])
def test_a_setting_that_older_code_had_not_does_not_strand_its_run(tmp_path, gone):
    begin(tmp_path, format=None, made_by=None, **{gone: None})
    refuse(Config(rate=0.5), tmp_path)


def test_a_section_that_older_code_had_not_does_not_strand_its_run(tmp_path):
    begin(tmp_path, format=None, made_by=None, guard=None)
    assert refuse(Config(rate=0.5), tmp_path).guard == Guard(spike_sigmas=None)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    clipping: str = "standard"


@dataclass(frozen=True, kw_only=True)
class Recipes:
    recipe: Recipe = Recipe()


@pytest.mark.parametrize(
    ("number", "asked", "goes_on"),
    [(None, "paper", "every_micro_step"), (None, "every_micro_step", "every_micro_step"), (2, "paper", "paper")],
)
def test_a_value_that_meant_something_else_goes_on_as_it_was_meant(tmp_path, number, asked, goes_on):
    begin(tmp_path, Recipes(recipe=Recipe(clipping="paper")), format=number)
    assert refuse(Recipes(recipe=Recipe(clipping=asked)), tmp_path).recipe.clipping == goes_on


def test_a_value_that_means_something_else_today_is_refused_where_it_is_new(tmp_path):
    begin(tmp_path, Recipes(recipe=Recipe(clipping="standard")), format=None)
    with pytest.raises(UserError, match=r"recipe\.clipping: 'standard' -> 'paper'"):
        refuse(Recipes(recipe=Recipe(clipping="paper")), tmp_path)


def test_what_is_not_written_goes_on_as_the_run_was_begun_and_is_told(tmp_path):
    """Also when the first resume has written today's config.yaml."""
    begin(tmp_path, format=None, made_by=None, guard__spike_sigmas=None)
    for _ in range(2):
        config, lines = go_on_as_begun(Config(rate=0.5), tmp_path)
        assert config == Config(rate=0.5, guard=Guard(spike_sigmas=None))
        assert lines == ["guard.spike_sigmas: goes on as None, with which the run was begun; a new run has 6.0"]
        refuse_changes(config, tmp_path)
        write_config(tmp_path, config)


def test_a_value_that_the_user_changed_is_refused(tmp_path):
    begin(tmp_path, format=None, made_by=None, guard=None)
    changed = Config(rate=0.25, seed=1, newest=9, guard=Guard(spike_sigmas=5.0, window_steps=64))
    with pytest.raises(UserError) as caught:
        refuse(changed, tmp_path)
    assert str(caught.value).splitlines()[1:] == [
        "  guard.spike_sigmas: None -> 5.0",
        "  guard.window_steps: 128 -> 64",
        "  rate: 0.5 -> 0.25",
        "  seed: 0 -> 1",
        "undo the change to resume it, or choose another run.name to start a new run",
    ]


def test_a_section_that_was_null_was_not_missing():
    """An evaluation set that the user adds is a change; so is one taken away."""
    without, with_it = Config(rate=0.5), Config(rate=0.5, evaluation=Evaluation(image_size=32))
    begun = {"rate": 0.5, "guard.spike_sigmas": 6.0}
    flat = {**begun, "evaluation": None}
    assert list_changes(with_it, flat) == [
        "evaluation.crop: 'absent' -> 0.875",
        "evaluation.image_size: 'absent' -> 32",
    ]
    flat = {**begun, "evaluation.crop": 0.875, "evaluation.image_size": 32}
    assert list_changes(with_it, flat) == []
    assert len(list_changes(without, flat)) == 2


def test_a_renamed_setting_is_compared_by_its_new_name(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "RENAMED", {"lr": "rate", "old.sigmas": "guard.spike_sigmas"})
    begin(tmp_path, format=None, rate=None, guard=None, lr=0.5, old={"sigmas": 4.0})
    refuse(Config(rate=0.5, guard=Guard(spike_sigmas=4.0)), tmp_path)
    with pytest.raises(UserError, match=r"\n  rate: 0\.5 -> 0\.25\n"):
        refuse(Config(rate=0.25, guard=Guard(spike_sigmas=4.0)), tmp_path)


def test_a_removed_setting_resumes_at_the_value_that_today_s_code_has(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "REMOVED", {"guard.mode": Removed(release="0.3.0", does_as="mean")})
    begin(tmp_path, guard__mode="mean")
    refuse(Config(rate=0.5), tmp_path)
    begin(tmp_path, guard__mode="median", made_by="hornet 0.2.7")
    message = r"yaml: guard\.mode='median' was removed in 0\.3\.0, which does as with 'mean'; go on with hornet 0\.2\.7"
    with pytest.raises(UserError, match=message):
        refuse(Config(rate=0.5), tmp_path)


def test_a_setting_that_no_release_is_known_to_have_had_is_refused(tmp_path):
    begin(tmp_path, guard__mode="median", made_by="hornet 0.2.7")
    message = r"config\.yaml: holds guard\.mode='median', which hornet \S+ does not know; go on with hornet 0\.2\.7, or"
    with pytest.raises(UserError, match=message):
        refuse(Config(rate=0.5), tmp_path)


def test_a_later_format_is_refused_with_the_release_it_needs(tmp_path):
    path = begin(tmp_path, format=9, made_by="hornet 4.1.0")
    message = (
        rf"was written by hornet 4\.1\.0 in format 9, but this is hornet {hornet.__version__}, which reads formats "
        r"up to \d; go on with hornet 4\.1\.0 or later"
    )
    for read in (lambda: refuse(Config(rate=0.5), tmp_path), lambda: read_run_config(tmp_path)):
        with pytest.raises(LaterFormatError, match=r"config\.yaml: " + message):
            read()
    with pytest.raises(ConfigError, match=rf"config\.yaml: 1 problem\nthis file: {message}"):
        load_config(Config, path=path)


@pytest.mark.parametrize("number", ["two", 0, 1.5, True])
def test_a_number_that_is_none_is_named(tmp_path, number):
    begin(tmp_path, format=number)
    with pytest.raises(UserError, match=r"config\.yaml: format must be a whole number from 1, not "):
        read_run_config(tmp_path)


def test_every_format_has_a_number_for_each_release_that_changed_it():
    assert [kind.number for kind in (CONFIG, CHECKPOINT, SHARDS)] == [2, 2, 1]
    assert asdict(SHARDS)["key"] not in ("name", "splits", "label_space", "title", "license"), "timm reads those"


def test_a_set_says_its_format_and_one_of_a_later_is_refused():
    content = {"splits": {}, **SHARDS.header}
    assert parse_info(json.dumps(content).encode(), source="_info.json") == content
    later = json.dumps({**content, "hornet_format": 9, "made_by": "hornet 4.1.0"}).encode()
    with pytest.raises(LaterFormatError, match=r"_info\.json: was written by hornet 4\.1\.0 in format 9, "):
        parse_info(later, source="_info.json")
    assert parse_info(b'{"splits": {}, "format": "webdataset"}', source="_info.json"), "a stranger's word is not ours"
