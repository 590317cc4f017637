"""What a user of two ranks sees of bad input: our sentence once, and not buried under the launcher's own trace."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.conftest import ROOT
from tests.patience import PATIENCE

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
WRONG = ["zero.stag=1", "global_batch_size=016", "evaluation=null", "data.shards=absent"]
DEMO = ["launch/pretrain.py", "--config", "configs/demo/pretrain.yaml", *WRONG]
PROBLEMS = (
    "configs/demo/pretrain.yaml: 3 problems\n"
    "global_batch_size: must be a whole number in plain decimal digits, not '016'\n"
    "zero.stag: unknown key; did you mean zero.stage?\n"
    "data.shards: absent/_info.json is missing: absent is not a folder of shards; make them with "
    "`python launch/shards.py build`, or describe existing tars with `python launch/shards.py index`\n"
)


def start(*command):
    environment = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "CUDA_VISIBLE_DEVICES": "",
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return done.returncode, done.stdout + done.stderr


def test_torchrun_ends_with_what_is_wrong():
    code, output = start("torchrun", "--standalone", "--nproc_per_node", "2", *DEMO)
    assert code != 0
    assert output.count(PROBLEMS) == 1, "rank 0 says it once"
    report = output[output.index("Root Cause") :]
    assert PROBLEMS.replace("\n", "\n  ").rstrip() in report, "the launcher's own report says it last"
    assert len(report.splitlines()) < 15
    assert "To enable traceback" not in output


def test_deepspeed_ends_with_2_and_without_a_trace():
    code, output = start("deepspeed", "--num_gpus", "2", "--master_port", "29641", *DEMO)
    assert code == 2
    assert output.count(PROBLEMS) == 1
    assert "Traceback" not in output
    assert len(output[output.index(PROBLEMS) :].splitlines()) < 10


def test_accelerate_launch_says_what_is_wrong_and_little_behind():
    options = [
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "-q",
    ]
    finetune = ["launch/finetune.py", "--config", "configs/demo/finetune.yaml", "star.from=x", *WRONG[2:]]
    code, output = start("accelerate", "launch", *options, *finetune)
    assert code != 0
    assert "problems\nstar: unknown key; did you mean start?\n" in output
    assert output.rindex("star: unknown key") > len(output) - 3000, "legible at the end"
