import gzip
import json
from dataclasses import replace

import pytest
import torch

from hornet.runs.directory import RunConfig, RunDirectory
from hornet.training.config import ProfileConfig
from hornet.training.profile import StepProfiler
from hornet.world import ALONE


def run_steps(tmp_path, config, steps, *, world=ALONE):
    run = RunDirectory(RunConfig(name="r", root=tmp_path), world=world)
    run.path.mkdir(exist_ok=True)
    profiler = StepProfiler(config, run, world=world, device=torch.device("cpu"))
    for step in steps:
        profiler.count(step)
        torch.ones(3) @ torch.ones(3, step + 1)  # what the next step, number step + 1, does
    profiler.close()
    return run.path / "profile"


def list_shapes(folder):
    (trace,) = folder.glob("*.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    return sum(event.get("name") == "aten::matmul" for event in events)


def test_the_window_is_profiled_and_nothing_else(tmp_path):
    folder = run_steps(tmp_path, ProfileConfig(first_step=3, num_steps=2), range(8))
    assert sorted(path.name for path in folder.iterdir()) == ["steps_00000003.json.gz", "steps_00000003.txt"]
    assert list_shapes(folder) == 2
    assert "aten::matmul" in (folder / "steps_00000003.txt").read_text()


def test_an_attempt_that_ends_within_the_window_writes_what_it_saw(tmp_path):
    assert list_shapes(run_steps(tmp_path, ProfileConfig(first_step=1, num_steps=9), range(3))) == 3


def test_nothing_is_profiled_unless_asked_for_or_on_another_rank_or_later(tmp_path):
    assert not run_steps(tmp_path, ProfileConfig(), range(8)).exists()
    later = run_steps(tmp_path, ProfileConfig(first_step=3), range(5, 8))
    assert not later.exists(), "an attempt that starts behind the window"
    other = replace(ALONE, rank=1, num_ranks=2)
    assert not run_steps(tmp_path, ProfileConfig(first_step=3), range(8), world=other).exists()


def test_the_window_is_checked():
    with pytest.raises(ValueError, match="first_step: counts from 1"):
        ProfileConfig(first_step=0)
    with pytest.raises(ValueError, match="num_steps: must be at least 1, not 0"):
        ProfileConfig(num_steps=0)
