"""What is given as weights is looked at first, and what it is instead is said by every command that takes some."""

import json

import pytest

from hornet.cli import average, evaluate, export
from hornet.cli.sources import require_source
from hornet.config import ConfigError

COMMANDS = {
    "evaluate": lambda source: evaluate.read_config(source, config=None, overrides=[]),
    "export": lambda source: export.read_config(source, source / "out", overrides=[]),
    "average": lambda source: average.read_config("newest", [str(source)]),
}


@pytest.fixture
def runs(tmp_path):
    """A folder of two runs, one of which has checkpoints."""
    for name in ("finetune", "pretrain"):
        (tmp_path / "demo" / name / "checkpoints").mkdir(parents=True)
        (tmp_path / "demo" / name / "config.yaml").write_text("run: {}")
        (tmp_path / "demo" / name / "status.json").write_text("{}")
    return tmp_path / "demo"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_is_no_run_names_those_near_it(runs, command):
    no_run = "is not a run: it holds neither status.json, config.yaml nor metrics.jsonl; "
    for folder, hint in (
        (runs, f"did you mean {runs}/finetune or {runs}/pretrain?"),
        (runs / "finetune/checkpoints", f"did you mean {runs}/finetune?"),
    ):
        with pytest.raises(ConfigError) as caught:
            COMMANDS[command](folder)
        assert str(caught.value) == f"{folder}: 1 problem\n{no_run}{hint}"
    (runs.parent / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"nor metrics\.jsonl; give a run directory"):
        COMMANDS[command](runs.parent / "empty")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_holds_no_weights_is_told_before_any_key(tmp_path, command):
    (tmp_path / "notes.md").write_text("# Notes\n")
    with pytest.raises(ConfigError, match=r"notes\.md: 1 problem\nis a text file, not weights \(it begins with"):
        COMMANDS[command](tmp_path / "notes.md")
    with pytest.raises(ConfigError, match=r"absent: 1 problem\ndoes not exist; give a run directory"):
        COMMANDS[command](tmp_path / "absent")
    (tmp_path / "link").symlink_to("gone")
    with pytest.raises(ConfigError, match="does not exist: it is a link to gone, which is not there"):
        COMMANDS[command](tmp_path / "link")


def test_what_may_hold_weights_is_left_to_those_who_read_them(runs, tmp_path):
    for name, content in (
        ("a.pth", b"PK\x03\x04..."),
        ("b.pth", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19..."),
        ("c.safetensors", (2).to_bytes(8, "little") + b"{}"),
        ("model.safetensors.index.json", b"{}"),
    ):
        (tmp_path / name).write_bytes(content)
        require_source(tmp_path / name)
    require_source(tmp_path)  # for its index.json
    require_source(runs / "pretrain")
    (runs / "pretrain/config.yaml").unlink()
    require_source(runs / "pretrain")
    step = runs / "pretrain/checkpoints/step_00000001"
    step.mkdir()
    (step / "manifest.json").write_text(json.dumps({}))
    require_source(step)


def test_a_key_that_is_missing_says_how_it_is_given(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"PK\x03\x04")
    with pytest.raises(ConfigError) as caught:
        evaluate.read_config(tmp_path / "w.pth", config=None, overrides=["model=hornet_tiny_gf"])
    assert "evaluation.shards: is missing; give evaluation.shards=VALUE, a path or a URL" in str(caught.value)


def test_the_usage_asks_for_no_keys(capsys, monkeypatch):
    for module, words in ((evaluate, "source"), (export, "source, output")):
        monkeypatch.setattr("sys.argv", ["x"])
        with pytest.raises(SystemExit, match="2"):
            module.main()
        assert capsys.readouterr().err.endswith(f"the following arguments are required: {words}\n")


def test_a_method_that_is_none_names_the_nearest(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["average.py", "bset", "runs/x"])
    with pytest.raises(SystemExit, match="2"):
        average.main()
    assert capsys.readouterr().err.endswith("; did you mean best?\n")
