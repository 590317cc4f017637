"""How long saving holds a run up: asynchronous against synchronous, alternating in one run; and loading.

  python -m benchmarks.checkpoint [--model hornet_tiny_gf] [--saves 5]

One rank under ZeRO-1. Printed are medians of paired ratios; the disk's own speed is part of both.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch

from hornet.model.build import build_model
from hornet.model.config import ModelConfig
from hornet.training.checkpoints.checkpoint import find_checkpoint, load_checkpoint
from hornet.training.checkpoints.saver import Checkpointer
from hornet.training.checkpoints.state import RunState
from hornet.training.config import OptimizerConfig, RetentionConfig
from hornet.training.engines.deepspeed import DeepSpeedEngine
from hornet.training.engines.zero_config import ZeroConfig
from hornet.training.process_group import open_process_group
from hornet.world import ALONE, World


def main() -> None:
    """Save in both ways by turns, then load."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="hornet_tiny_gf")
    parser.add_argument("--saves", type=int, default=5, help="pairs of saves (default 5)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, open_process_group(ALONE, device=torch.device("cpu")):
        measure(Path(folder), model=options.model, num_saves=options.saves)


def measure(folder: Path, *, model: str, num_saves: int) -> None:
    """Print what saves and a load of `model` with AdamW and EMA take."""
    engine = build_engine(model)
    engine.run_step([torch.randn(1, 3, 64, 64)], step=0, lr=1e-4, accept=lambda _loss, _norm: True)  # type: ignore[list-item]
    ways = {asynchronous: make_checkpointer(folder, engine, asynchronous) for asynchronous in (False, True)}
    stalls: dict[bool, list[float]] = {False: [], True: []}
    durations = []
    for step in range(1, num_saves + 2):
        for asynchronous, checkpointer in ways.items():
            started = time.perf_counter()
            checkpointer.save(RunState(step=2 * step + asynchronous))
            stalls[asynchronous].append(time.perf_counter() - started)
            checkpointer.finish()
            durations.append(time.perf_counter() - started)
    newest = find_checkpoint(folder, world=ALONE)
    assert newest is not None
    num_bytes = sum(path.stat().st_size for path in newest.folder.iterdir())
    ratios = [a / b for a, b in zip(stalls[True][1:], stalls[False][1:], strict=True)]  # the first makes the buffers
    print(f"{platform.machine()}, torch {torch.__version__}, deepspeed {version('deepspeed')}, {model}")
    print(f"a checkpoint of {num_bytes / 1e6:.0f} MB")
    print(f"synchronous   holds the run up for {statistics.median(stalls[False][1:]):.2f} s")
    print(
        f"asynchronous  {statistics.median(stalls[True][1:]):.3f} s, {statistics.median(ratios):.3f} of synchronous "
        f"({min(ratios):.3f} to {max(ratios):.3f}); the first, with fresh buffers, {stalls[True][0]:.3f} s"
    )
    actions: tuple[tuple[str, Callable[[], object]], ...] = (
        ("verifying (SHA-256 of every file)", lambda: find_checkpoint(folder, world=ALONE)),
        ("loading", lambda: load_checkpoint(newest, engine=engine, state=RunState(), identity={})),
    )
    for name, action in actions:
        started = time.perf_counter()
        action()
        print(f"{name}: {time.perf_counter() - started:.2f} s")


def build_engine(model: str) -> DeepSpeedEngine:
    """Return an engine under ZeRO-1 whose batches are images themselves."""
    return DeepSpeedEngine(
        build_model(ModelConfig(name=model, drop_path_rate=0.0), num_classes=1000, image_size=64, seed=0),
        config=ZeroConfig(stage=1, precision="fp32"),
        optimizer=OptimizerConfig(ema_decay=0.9999),
        global_batch_size=1,
        micro_batch_size=1,
        compute_loss=lambda network, batch, _seed: network(batch).square().mean(),
        derive_step_seed=lambda _step, _micro_step: 0,
        device=torch.device("cpu"),
    )


def make_checkpointer(
    folder: Path, engine: DeepSpeedEngine, asynchronous: bool, *, world: World = ALONE
) -> Checkpointer:
    """Return a writer of checkpoints that keeps two."""
    return Checkpointer(
        folder,
        engine=engine,
        identity={},
        description={},
        world=world,
        retention=RetentionConfig(newest=2, asynchronous=asynchronous),
        find_best=lambda steps: None,
        require_sole=lambda: None,
    )


if __name__ == "__main__":
    main()
