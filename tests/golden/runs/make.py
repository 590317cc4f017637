"""Makes the run directories of a release, by that release's own code, for the test that today's code resumes them.

    git worktree add /tmp/release v0.2.0
    python tests/golden/runs/make.py /tmp/release tests/golden/runs/0.2.0.tar.xz

`pretrain` (ZeRO-2, two ranks) and `finetune` (Accelerate) were killed on their way; `finished` is the same pretraining
to its end. `expected.json` holds the numbers of the undisturbed runs: what a resumed one must give.
The images are scikit-learn's digits; the network is hornet_atto_gf, made small enough for a repository (`SMALL`).
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import yaml
from PIL import Image

SMALL = {"width": 4, "depths": (1, 1, 1, 1)}
NUM_IMAGES = {"train": 52, "validation": 12}
KILLED_AFTER = 6

PARTS = {
    "model": {"name": "hornet_atto_gf", "drop_path_rate": 0.1, "layer_scale_init": 0.5},
    "data": {"shards": "shards", "transform": {"image_size": 32, "flip_probability": 0.5, "erase_probability": 0.25}},
    "mixing": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "label_smoothing": 0.1},
    "evaluation": {"shards": "shards", "image_size": 32, "batch_size": 4},
    "optimizer": {"weight_decay": 0.05, "clip_grad_norm": 1.0, "ema_decay": 0.9},
    "schedule": {"num_epochs": 5, "warmup_epochs": 1, "peak_lr": 5e-3},
    "cadence": {"log_every_steps": 1, "save_every_steps": 4},
    "global_batch_size": 8,
    "micro_batch_size": 2,
}
PRETRAIN = {**PARTS, "zero": {"stage": 2, "precision": "fp32"}}
FINETUNE = {**PARTS, "start": {"from": "runs/finished", "weights": "ema"}, "precision": "fp32"}


RUNS = (("pretrain", PRETRAIN, "finished"), ("finetune", FINETUNE, "whole_finetune"))


def make(checkout: Path, target: Path, stages: Sequence[str]) -> None:
    os.environ.update({"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"})
    sys.path[0] = str(checkout)
    for stage in stages:
        importlib.import_module(f"{stage}.stage")
    importlib.import_module("hornet.model.variants").VARIANTS["hornet_atto_gf"].update(SMALL)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_shards(checkout, folder)
        expected = {}
        for script, config, whole in (run for run in RUNS if run[0] in stages):
            run_to_end(checkout, folder, script, config, name=whole)
            run_until_killed(checkout, folder, script, config, name=script)
            expected[script] = [
                {key: row[key] for key in ("step", "loss", "grad_norm", "batch_digest")}
                for row in read_rows(folder / "runs" / whole)
            ]
            expected[f"{script}_evaluations"] = read_rows(folder / "runs" / whole, "evaluations")
        (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
        with tarfile.open(target, "w:xz", preset=9) as tar:
            for kept in ("shards", "expected.json", "runs/finished", *(f"runs/{stage}" for stage in stages)):
                tar.add(folder / kept, arcname=kept, filter=anonymous)


def make_shards(checkout: Path, folder: Path) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits(n_class=3)
    pairs = zip(digits.images, digits.target.tolist(), strict=True)
    for split, count in NUM_IMAGES.items():
        for number in range(count):
            pixels, label = next(pairs)
            path = folder / "images" / split / str(label) / f"{split}_{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((pixels * 15).astype("uint8")).save(path)
        command = [f"images/{split}", "shards", "--split", split, "--samples-per-shard", "13"]
        script = checkout / "launch" / "shards.py"
        subprocess.run([sys.executable, script, "build", *command, "--name", "digits"], check=True, cwd=folder)


def run_to_end(checkout: Path, folder: Path, script: str, config: dict[str, object], *, name: str) -> None:
    codes = [rank.wait() for rank in start(checkout, folder, script, config, name=name)]
    assert not any(codes), codes
    tidy(folder / "runs" / name, checkout)


def run_until_killed(checkout: Path, folder: Path, script: str, config: dict[str, object], *, name: str) -> None:
    ranks = start(checkout, folder, script, config, name=name)
    run = folder / "runs" / name
    while not (run / "metrics.jsonl").exists() or len(read_rows(run)) < KILLED_AFTER:
        assert all(rank.is_running() for rank in ranks), "the run ended too soon"
        time.sleep(0.002)
    for rank in ranks:
        os.kill(rank.pid, signal.SIGKILL)
        rank.wait()
    assert not (run / "summary.json").exists(), "the run was finished before the kill"
    tidy(run, checkout)


def tidy(run: Path, checkout: Path) -> None:
    """Remove all checkpoints but the newest, since a repository is to hold them, and where the code lay."""
    environment = run / "environment.json"
    environment.write_text(environment.read_text().replace(f"{checkout}/", ""))
    newest = max((run / "checkpoints").glob("step_*[0-9]"))
    for older in (run / "checkpoints").iterdir():
        if older.is_dir() and older != newest:
            shutil.rmtree(older)


def start(checkout: Path, folder: Path, script: str, config: dict[str, object], *, name: str) -> list[Rank]:
    path = f"{name}.yaml"  # the ranks work in `folder`
    (folder / path).write_text(yaml.safe_dump({"run": {"name": name, "seed": 3}, **config}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    script = str(checkout / "launch" / f"{script}.py")
    return [
        Rank(script, ["--config", path], folder, {**world, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]


class Rank:
    """A rank, forked from this process, which has imported what it needs."""

    def __init__(self, script: str, arguments: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.pid = os.fork()
        if self.pid:
            return
        os.chdir(folder)
        os.environ.update(environment)
        sys.argv = [script, *arguments]
        code = 1
        try:
            runpy.run_path(script, run_name="__main__")
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            os._exit(code)

    def is_running(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def read_rows(run: Path, name: str = "metrics") -> list[dict[str, object]]:
    lines = (run / f"{name}.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leave out TensorBoard's files, and whose and when the others are."""
    if "tensorboard" in member.name:
        return None
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    make(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), sys.argv[3:] or ["pretrain", "finetune"])
