"""Real runs on two CPU ranks: shards made here, commands as a user gives them."""

import atexit
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.integration.nursery import ForkedProcess, Nursery
from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
NUM_TRAIN, NUM_VALIDATION, NUM_CLASSES = 52, 13, 3

PRETRAIN = {
    "run": {"name": "pretrain", "seed": 1},
    "model": {
        "name": "hornet_atto_gf",
        "arguments": {"depths": [1, 1, 2, 1]},
        "drop_path_rate": 0.2,
        "layer_scale_init": 0.5,
    },
    "data": {
        "split": "train",
        "shuffle_window_shards": 2,
        "num_workers": 0,
        "transform": {
            "image_size": 32,
            "flip_probability": 0.5,
            "rand_augment": "rand-m9-mstd0.5-inc1",
            "erase_probability": 0.25,
        },
    },
    "mixing": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "label_smoothing": 0.1},
    "evaluation": {"image_size": 32, "batch_size": 4},
    "optimizer": {"weight_decay": 0.05, "clip_grad_norm": 1.0},
    "schedule": {"num_epochs": 2, "warmup_epochs": 0.5, "peak_lr": 2e-3},
    "zero": {"stage": 2, "precision": "fp32"},  # many CPUs have no arithmetic for bf16
    "cadence": {"log_every_steps": 1, "save_every_steps": 2},
    "global_batch_size": 8,
    "micro_batch_size": 2,
}


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """A set of coloured squares; only for reading."""
    return build_shards(tmp_path_factory.mktemp("data"))


def build_shards(folder):
    """Build a set of coloured squares with a train and a validation split through the command; return its folder."""
    random = np.random.default_rng(0)
    for split, count in (("train", NUM_TRAIN), ("validation", NUM_VALIDATION)):
        for number in range(count):
            label = number % NUM_CLASSES
            pixels = random.integers(0, 80, (40, 44, 3), dtype=np.uint8)
            pixels[..., label] += 120
            target = folder / "images" / split / f"class_{label}"
            target.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(target / f"{split}_{number:03d}.{'png' if number % 2 else 'jpg'}")
        command = ["launch/shards.py", "build", folder / "images" / split, folder / "shards"]
        run_python(*command, "--split", split, "--name", "squares", "--samples-per-shard", 10)
    return folder / "shards"


@pytest.fixture
def pretraining(tmp_path, shards):
    """A config file for pretraining in this test's folder; returns a function that makes its variants."""
    return lambda **changes: write_config(tmp_path, PRETRAIN, shards=shards, **changes)


def write_config(folder, values, *, shards, **changes):
    """Write a YAML config with dotted `changes` (`zero__stage=1`) into `folder`; return its path."""
    values = json.loads(json.dumps(values))
    values["run"]["root"] = str(folder / "runs")
    for part in ("data", "evaluation"):
        if values.get(part) is not None:
            values[part]["shards"] = str(shards)
    for key, value in changes.items():
        *parents, leaf = key.split("__")
        target = values
        for parent in parents:
            target = target.setdefault(parent, {})
        target[leaf] = value
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def run_python(*arguments, check=True, cwd=ROOT):
    """Run one process of this environment's python, forked; return it, its output captured as text."""
    with tempfile.TemporaryDirectory() as folder:
        files = {"output": f"{folder}/output", "errors": f"{folder}/errors"}
        process = ForkedProcess(get_nursery(), words=arguments, environment=make_environment(), cwd=cwd, **files)
        try:
            output, errors = process.communicate(PATIENCE)
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if check and process.returncode != 0:
        pytest.fail(f"{arguments} ended with {process.returncode}\n{output}\n{errors}")
    return subprocess.CompletedProcess(arguments, process.returncode, output, errors)


@cache
def get_nursery():
    """Return the nursery of this process, which is started when it is first needed."""
    nursery = Nursery(environment=make_environment())
    atexit.register(nursery.close)
    return nursery


def make_environment(**extra):
    """The environment of a launcher: no GPUs, one thread a rank."""
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return {**kept, "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", **extra}


class Ranks:
    """Processes of one run, as a launcher starts them, but forked from one that has imported everything (10 s)."""

    def __init__(self, script, *arguments, num_ranks=2, patch=None, environments=({}, {})):
        """`patch` names a module that each rank imports first; `environments` add to what each rank's holds."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._outputs = tempfile.TemporaryDirectory()
        self.processes = [
            ForkedProcess(
                get_nursery(),
                words=[ROOT / "launch" / script, *arguments],
                output=f"{self._outputs.name}/{rank}",
                patch=patch,
                environment={
                    **make_environment(),
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(num_ranks),
                    "LOCAL_WORLD_SIZE": str(num_ranks),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                    **(environments[rank] if rank < len(environments) else {}),
                },
            )
            for rank in range(num_ranks)
        ]

    def wait(self, timeout=PATIENCE):
        """Wait for all; return exit codes and outputs by rank."""
        try:
            outputs = [process.communicate(timeout=timeout)[0] for process in self.processes]
        except TimeoutError:  # else they would go on writing into a folder that the test gives up
            for process in self.processes:
                process.send_signal(signal.SIGKILL)
            raise
        return [process.returncode for process in self.processes], outputs

    def kill(self):
        for process in self.processes:
            process.send_signal(signal.SIGKILL)
        return self.wait()


def launch(script, *arguments, num_ranks=2, check=True, patch=None, timeout=PATIENCE):
    """Run a script on ranks to its end; return exit codes and outputs."""
    codes, outputs = Ranks(script, *arguments, num_ranks=num_ranks, patch=patch).wait(timeout)
    if check and any(codes):
        pytest.fail(f"{script} {arguments} ended with {codes}\n" + "\n---\n".join(outputs))
    return codes, outputs


def wait_until(condition, ranks):
    """Return as soon as `condition()` holds; fail if a rank ends before."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline or any(process.poll() is not None for process in ranks.processes):
            pytest.fail("the run ended before the test could act\n" + "\n---\n".join(ranks.kill()[1]))
        time.sleep(0.01)


def kill_when(condition, ranks):
    """SIGKILL all ranks as soon as `condition()` holds."""
    wait_until(condition, ranks)
    ranks.kill()


def read_rows(run, name="metrics"):
    return [json.loads(line) for line in (run / f"{name}.jsonl").read_text().splitlines()]


def read_last_step(run):
    """The last step in a run's metrics, 0 before there is one."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0
