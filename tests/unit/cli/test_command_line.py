from pathlib import Path

import pytest

from dense.config import TASKS
from finetune.config import FinetuneConfig
from hornet.cli.command_line import propose, read_command_line
from hornet.cli.configs import find_stage
from pretrain.config import PretrainConfig

DEMO = Path(__file__).resolve().parents[3] / "configs/demo/pretrain.yaml"


def read(*arguments):
    return read_command_line(
        PretrainConfig,
        stage="pretrain",
        description="",
        example="",
        arguments=["--config", str(DEMO), *map(str, arguments)],
    )


@pytest.mark.parametrize("name", ["pretrain", "finetune", "segmentation", "instances"])
def test_a_config_of_another_stage_is_told_in_one_sentence_and_not_key_by_key(name, capsys):
    stage = "dense" if name in ("segmentation", "instances") else name
    for asked, config_class in (("pretrain", PretrainConfig), ("finetune", FinetuneConfig), ("dense", TASKS)):
        arguments = ["--config", str(DEMO.with_stem(name)), *(["start.from=x"] if stage == "dense" else [])]
        if asked == stage:
            read_command_line(config_class, stage=asked, description="", example="", arguments=arguments)
            continue
        with pytest.raises(SystemExit, match="2"):
            read_command_line(config_class, stage=asked, description="", example="", arguments=arguments)
        told = capsys.readouterr().err
        assert told.endswith(f"1 problem\nis for launch/{stage}.py and not for launch/{asked}.py; start it with that\n")


def test_a_config_that_leaves_its_stage_open_is_told_key_by_key():
    assert find_stage({"run": {}, "schedule": {"num_epochs": 3}}) is None
    assert find_stage({"zero": {}, "start": {}}) is None, "of which of the two it is nobody knows"


@pytest.mark.parametrize(
    ("message", "more"),
    [
        ("argument COMMAND: invalid choice: 'biuld' (choose from 'build', 'index')", "; did you mean build?"),
        ("argument method: invalid choice: 'bset' (choose from newest, best)", "; did you mean best?"),
        ("argument method: invalid choice: 'x' (choose from newest, best)", ""),
        ("the following arguments are required: --config", ""),
    ],
)
def test_a_choice_that_is_none_names_the_nearest(message, more):
    assert propose(message) == f"{message}{more}"


def test_rollback_adds_windows_to_those_of_the_config():
    config = read("guard.skip_batches=[[1,2]]", "--rollback", "12000:300", "--rollback", 500)
    assert config.guard.skip_batches == ((1, 2), (12000, 12300), (500, 700))
    assert read().guard.skip_batches == ()


@pytest.mark.parametrize("text", ["12000:", "x", "-5", "5:6:7"])
def test_a_rollback_that_is_no_step_is_refused(text, capsys):
    with pytest.raises(SystemExit, match="2"):
        read(f"--rollback={text}")
    assert f"{text!r} is not STEP or STEP:NUM_BATCHES" in capsys.readouterr().err


def test_a_rollback_of_no_batches_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        read("--rollback", "5:0")
    assert "guard.skip_batches: a pair is [first, stop)" in capsys.readouterr().err
