"""What can be tried of a run before it queues: its data and folder, two steps, a stop and a resume, on CPUs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from hornet.config import to_yaml
from hornet.data.division import check_division
from hornet.data.loader import open_train_stream
from hornet.drills.launched import TORCHRUN, LaunchedRun, Script
from hornet.durable import read_json_lines, write_text
from hornet.errors import UserError
from hornet.shards.shard_set import open_shards
from hornet.stages.config import StageConfig
from hornet.stages.recipe import RecipeConfig
from hornet.training.config import ProfileConfig, TrackingConfig
from hornet.world import World

MICRO_BATCH_SIZE = 2  # the fewest that can be mixed with each other
NUM_PROBED = 8  # samples read for each of the two ranks
NUM_STEPS = 2
MORE_EPOCHS = 100_000  # a short run would come to its end before it can be stopped


@dataclass(frozen=True)
class Finding:
    """One thing that was tried."""

    name: str
    is_good: bool
    text: str
    """What was seen, in a line."""


def probe_data(config: StageConfig, *, num_ranks: int) -> Iterator[Finding]:
    """Check both sets, divide the batch over `num_ranks`, and read what the first and the last of them will train on.

    Raises UserError for what cannot be.
    """
    share = config.global_batch_size // num_ranks
    micro_batch_size = max(1, share) if config.micro_batch_size == "auto" else config.micro_batch_size
    check_division(config.global_batch_size, num_ranks=num_ranks, micro_batch_size=micro_batch_size)
    sizes = f"{num_ranks} ranks x {share // micro_batch_size} micro steps x {micro_batch_size} images"
    yield Finding("batch", True, f"{sizes} = {config.global_batch_size}")
    started, num_read = time.perf_counter(), 0
    for rank in sorted({0, num_ranks - 1}):
        world = World(
            rank=rank, num_ranks=num_ranks, local_rank=0, num_local_ranks=1, master_address="127.0.0.1", master_port=0
        )
        stream = open_train_stream(
            replace(config.data, num_workers=0),
            world=world,
            seed=config.run.seed,
            global_batch_size=config.global_batch_size,
            micro_batch_size=1,
        )
        with closing(stream):
            for batch in islice(stream.iterate(0, NUM_PROBED), NUM_PROBED):
                num_read += 1
                for bad in batch.bad_samples:
                    yield Finding("shards", config.data.max_bad_sample_rate > 0, f"{bad.key} is unusable: {bad.reason}")
    seconds = time.perf_counter() - started
    read = f"{num_read} of {stream.num_samples:,} samples read, for ranks 0 and {num_ranks - 1}, in {seconds:.1f} s"
    yield Finding("shards", True, f"{config.data.shards}: {read}")
    if config.evaluation is not None:
        data = config.evaluation
        labelled = open_shards(data.shards, data.split, remote=data.remote, index=data.index)
        yield Finding("evaluation", True, f"{data.shards}: {labelled.num_samples:,} samples")


def probe_space(config: StageConfig, *, checkpoint_bytes: int) -> Finding:
    """Say whether the disk of the run directory has room for the checkpoints that are kept, and one being written."""
    kept = config.checkpoints.newest + config.checkpoints.best
    needed, free = (kept + 1) * checkpoint_bytes, shutil.disk_usage(config.run.root).free
    text = f"{free / 1e9:,.1f} GB free; {needed / 1e9:,.2f} GB for {kept} checkpoints and one being written"
    if config.checkpoints.every_steps is not None:
        text += f", and {checkpoint_bytes / 1e9:.2f} GB every {config.checkpoints.every_steps} steps for good"
    return Finding("space", free > needed, text)


def shorten(config: StageConfig, *, folder: Path, num_processes: int, num_micro_steps: int) -> StageConfig:
    """Return the run's config with small batches, in another folder, without what would only take time."""
    return replace(
        config,
        run=replace(config.run, root=folder.parent, name=folder.name, stop_at=None, branch_from=None),
        model=replace(config.model, compile=False),
        data=replace(config.data, num_workers=min(config.data.num_workers, 1)),
        evaluation=None,
        schedule=replace(config.schedule, num_epochs=config.schedule.num_epochs + MORE_EPOCHS),
        cadence=replace(config.cadence, log_every_steps=1, save_every_steps=10**6, evaluate_every_steps=None),
        recipe=RecipeConfig(clipping=config.recipe.clipping),
        checkpoints=replace(config.checkpoints, best=False),
        tracking=TrackingConfig(),
        profile=ProfileConfig(),
        global_batch_size=num_processes * MICRO_BATCH_SIZE * num_micro_steps,
        micro_batch_size=MICRO_BATCH_SIZE,
    )


def rehearse(
    script: Script, config: StageConfig, *, num_ranks: int, num_processes: int, seconds: float
) -> Iterator[Finding]:
    """Train two steps, stop by SIGUSR1, go on for one, stop by a STOP file, all in a folder beside the run's own.

    The folder is removed if all went well. Ranks are processes on this machine's CPUs, over gloo; every wait ends after
    `seconds`. Raises UserError, naming the log, if an attempt ends otherwise than it should.
    """
    folder = config.run.root.absolute() / f"{config.run.name}.rehearsal"
    path = folder / "rehearsal.yaml"
    if folder.exists() and not path.exists():
        raise UserError(
            f"{folder}: holds something else than a rehearsal; move it away, or rehearse under another run.name"
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    one_step = num_ranks * (1 if config.micro_batch_size == "auto" else config.micro_batch_size)
    num_micro_steps = max(1, config.global_batch_size // one_step)
    num_micro_steps = min(
        num_micro_steps, 2 + num_micro_steps % 2
    )  # as odd as the run's: not every clipping takes both
    short = shorten(config, folder=folder, num_processes=num_processes, num_micro_steps=num_micro_steps)
    write_text(path, to_yaml(short))
    arguments = [*script.words, "--config", str(path)]
    num_threads = max(1, len(os.sched_getaffinity(0)) // num_processes)
    launcher = f"env CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS={num_threads} {TORCHRUN}"

    def live(first_step: int) -> LaunchedRun:
        run = LaunchedRun.start(launcher, num_processes, arguments, path=folder, log=folder / "rehearsal.log")
        try:
            run.wait_for_steps(first_step, seconds=seconds)
        except BaseException:
            run.kill()
            raise
        return run

    started = time.perf_counter()
    run = live(NUM_STEPS)
    metrics = folder / "metrics.jsonl"
    found = [row["loss"] for row in read_json_lines(metrics)]
    losses = ", ".join("not finite" if loss is None else f"{loss:.3f}" for loss in found)
    took = time.perf_counter() - started
    yield Finding(
        "two steps", True, f"{num_processes} processes over gloo, {took:.0f} s with the start, losses {losses}"
    )
    stopping = time.perf_counter()
    run.signal_ranks(signal.SIGUSR1, script)
    _require_stop(run, seconds=seconds, reason="SIGUSR1")
    checkpoint = folder / "checkpoints" / (folder / "checkpoints/latest").read_text().strip()
    size = sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file())
    took = time.perf_counter() - stopping
    yield Finding(
        "signal", True, f"SIGUSR1: {checkpoint.name} of {size / 1e9:.2f} GB written, all ended well in {took:.0f} s"
    )
    yield probe_space(config, checkpoint_bytes=size)
    last_step = read_json_lines(metrics)[-1]["step"]
    run = live(run.num_steps + 1)
    (folder / "STOP").touch()
    _require_stop(run, seconds=seconds, reason="STOP")
    next_step = read_json_lines(metrics)[last_step]["step"]
    yield Finding(
        "resume", next_step == last_step + 1, f"the next attempt went on with step {next_step} after {last_step}"
    )
    shutil.rmtree(folder)


def _require_stop(run: LaunchedRun, *, seconds: float, reason: str) -> None:
    with suppress(subprocess.TimeoutExpired):
        run.process.wait(seconds)
    code = run.process.poll()
    if code is None:
        run.kill()
        raise UserError(f"{run.path.name}: did not stop within {seconds:.0f} s of {reason}; see {run.log}")
    status = json.loads((run.path / "status.json").read_text())
    if code != 0 or status["state"] != "stopped":
        raise UserError(
            f"{run.path.name}: ended with {code} and state {status['state']!r} after {reason}; see {run.log}"
        )
