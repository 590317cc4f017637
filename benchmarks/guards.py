"""What all that watches over a run costs a step, side by side with bare steps in one process.

  python -m benchmarks.guards [--ranks 2] [--steps 2000] [--step-seconds 0.3]

A run of steps that do nothing goes once through the real session (numerical guard, agreement on stops, watchdog,
straggler report, errors shared over ranks, digests, metrics, TensorBoard) and once through a bare loop; the difference
is what the guards take. It is set against a real training step of --model on this machine, and against --step-seconds:
on a GPU the host does all this while the device computes.
"""

from __future__ import annotations

import argparse
import itertools
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn import functional

import hornet  # noqa: F401  registers the models
from hornet.batch import Batch
from hornet.runs.directory import RunConfig, RunDirectory
from hornet.stages.micro_batch import make_random_batch
from hornet.training.components import Components
from hornet.training.config import CadenceConfig, GuardConfig, ProfileConfig, RetentionConfig, TrackingConfig, Weights
from hornet.training.loop import Accept, StepResult, Writer
from hornet.training.norms import NormWatch
from hornet.training.process_group import open_process_group
from hornet.training.schedule import Schedule
from hornet.training.session import run_session
from hornet.training.step_clock import StepClock
from hornet.training.watchdog import Watchdog
from hornet.world import ALONE, World

CPU = torch.device("cpu")


class IdleEngine:
    """Steps that ask the guard and do nothing else."""

    def __init__(self) -> None:
        self.clock = StepClock(CPU)
        weight = torch.zeros(1)
        self.norms = NormWatch(torch.optim.SGD([weight]), [])

    def run_step(self, batches: Sequence[Batch], *, step: int, lr: float, accept: Accept) -> StepResult:
        """See Engine."""
        loss = torch.tensor(1.0)
        with self.clock.measure("forward"), self.clock.measure("backward"), self.clock.measure("optimizer"):
            return StepResult(loss=loss, grad_norm=1.0, was_applied=accept(loss, 1.0))

    def save(self, folder: Path, writer: Writer) -> None:
        """Nothing to save."""

    def load(self, folder: Path) -> None:
        """Nothing to load."""

    def evaluation_model(self, weights: Weights) -> AbstractContextManager[nn.Module]:
        """Nothing to evaluate."""
        return nullcontext(nn.Identity())

    def read_parameters(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Nothing to read."""
        return {}


def main() -> None:
    """Measure on all ranks; rank 0 prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2000, help="idle steps a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="hornet_tiny_gf")
    parser.add_argument("--batch", type=int, default=8, help="images of the real step")
    parser.add_argument("--step-seconds", type=float, default=0.3)
    options = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        arguments = (options, folder, port)
        spawn(measure, args=arguments, nprocs=options.ranks)


def measure(rank: int, options: argparse.Namespace, folder: str, port: int) -> None:
    """Let guarded and bare loops take turns on one rank."""
    world = replace(ALONE, rank=rank, num_ranks=options.ranks, local_rank=rank, num_local_ranks=options.ranks)
    world = replace(world, master_port=port)
    torch.set_num_threads(max(1, torch.get_num_threads() // options.ranks))
    extra = []
    with open_process_group(world, device=CPU):
        for number in range(options.rounds + 1):
            # A short run takes off what starting and ending cost.
            few, many = options.steps // 10, options.steps
            short, long = (
                time_guarded(Path(folder), f"{number}_{steps}", world=world, num_steps=steps) for steps in (few, many)
            )
            extra.append((long - short - time_bare(many - few)) / (many - few))
    if rank == 0:
        extra = extra[1:]  # the first warms up
        step_seconds = time_real_step(options.model, options.batch)
        median = statistics.median(extra)
        print(
            f"guards: {1e6 * median:.0f} us a step ({1e6 * min(extra):.0f} to {1e6 * max(extra):.0f}) on "
            f"{options.ranks} ranks\n"
            f"  of a step of {options.model}, batch {options.batch} at 224 on this CPU ({step_seconds:.2f} s): "
            f"{100 * median / step_seconds:.3f} %\n"
            f"  of a step of {options.step_seconds:g} s: {100 * median / options.step_seconds:.3f} %"
        )


def time_guarded(folder: Path, name: str, *, world: World, num_steps: int) -> float:
    """Return the seconds of idle steps through the real session."""
    run = RunDirectory(RunConfig(name=name, root=folder), world=world)
    run.tensorboard.mkdir(parents=True, exist_ok=True)
    components = make_components(num_steps)
    watchdog = Watchdog(run, world=world, stall_seconds=600)
    with watchdog, redirect_stdout(StringIO()):
        started = time.perf_counter()
        run_session(run, components, checkpoint=None, world=world, device=CPU, watchdog=watchdog)
        return time.perf_counter() - started


def make_components(num_steps: int) -> Components:
    """Describe a run of idle steps, with the shipped recipes' cadence."""
    batch = make_random_batch(2, 32)

    def iterate(_first: int, count: int) -> Iterator[Batch]:
        return itertools.repeat(batch, count)

    empty: dict[str, Any] = {"description": {}, "about": {}, "parameter_shapes": {}, "filters": ()}
    return Components(
        engine=IdleEngine(),
        flops_per_image=1e9,
        iterate=iterate,
        num_micro_steps=1,
        steps_per_epoch=1000.0,
        global_batch_size=4,
        schedule=Schedule(num_steps=num_steps, num_warmup_steps=0, peak_lr=1e-3, min_lr=0.0),
        cadence=CadenceConfig(save_every_steps=10**9),
        checkpoints=RetentionConfig(),
        weight_decay=0.05,
        max_bad_sample_rate=1e-3,
        guard=GuardConfig(),
        evaluate=None,
        keeps_image_results=False,
        evaluated_weights=("raw",),
        tracking=TrackingConfig(),
        profile=ProfileConfig(),
        render_images=lambda _batch, _step: torch.zeros(3, 8, 8),
        identity={"model": "idle"},
        **empty,
    )


def time_bare(num_steps: int) -> float:
    """Return the seconds of as many idle steps in a plain loop."""
    engine, batch = IdleEngine(), make_random_batch(2, 32)
    started = time.perf_counter()
    for step in range(num_steps):
        engine.run_step([batch], step=step, lr=1e-3, accept=lambda _loss, _norm: True)
    return time.perf_counter() - started


def time_real_step(name: str, batch: int) -> float:
    """Return the median seconds of a training step of one process."""
    model = timm.create_model(name).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    images, labels = torch.randn(batch, 3, 224, 224), torch.zeros(batch, dtype=torch.int64)
    times = []
    for _ in range(4):
        started = time.perf_counter()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


if __name__ == "__main__":
    main()
