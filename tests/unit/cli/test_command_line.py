from pathlib import Path

import pytest

from hornet.cli.command_line import read_command_line
from pretrain.config import PretrainConfig

DEMO = Path(__file__).resolve().parents[3] / "configs/demo/pretrain.yaml"


def read(*arguments):
    return read_command_line(
        PretrainConfig, description="", example="", arguments=["--config", str(DEMO), *map(str, arguments)]
    )


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
