"""What each rank writes and reads of a checkpoint: counted with the real engine on a few CPU ranks.

Reading is counted where the loader opens a file and where it takes elements of one: files are mapped, so what is not
taken is not read, but for the pages beside and each file's table of contents.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.checkpoint import make_checkpointer
from hornet.drills.forked_ranks import run_world
from hornet.model.build import build_model
from hornet.model.config import ModelConfig
from hornet.training.checkpoints.checkpoint import find_checkpoint, load_checkpoint
from hornet.training.checkpoints.state import RunState
from hornet.training.config import OptimizerConfig
from hornet.training.engines import deepspeed_files
from hornet.training.engines.deepspeed import DeepSpeedEngine
from hornet.training.engines.deepspeed_files import ZeroCheckpoint
from hornet.training.engines.zero_config import ZeroConfig
from hornet.training.process_group import gather_from_all
from hornet.world import World

NUM_WRITERS, READERS = 4, (1, 2, 4)
MODEL = "hornet_tiny_gf"
_READ = ZeroCheckpoint.read


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one rank took from a checkpoint's files."""

    num_files: int
    num_bytes: int


def measure_checkpoints(folder: Path) -> None:
    """Print what is written and read under each stage."""
    print(f"\nCheckpoints: {MODEL} with EMA, written by {NUM_WRITERS} ranks, read by {READERS}")
    print("  stage  reading ranks   files  MB on disk  rank 0 wrote, MB    files a rank   MB a rank")
    run_world(NUM_WRITERS, lambda world: _write_all(folder, world))
    for num_ranks in READERS:
        run_world(num_ranks, lambda world: _read_all(folder, world))


def _build(stage: int, world: World) -> DeepSpeedEngine:
    return DeepSpeedEngine(
        build_model(ModelConfig(name=MODEL), num_classes=1000, image_size=64, seed=0),
        config=ZeroConfig(stage=stage, precision="fp32"),  # type: ignore[arg-type]
        optimizer=OptimizerConfig(ema_decay=0.9999),
        global_batch_size=world.num_ranks,
        micro_batch_size=1,
        compute_loss=lambda network, batch, _seed: network(batch).square().mean(),
        derive_step_seed=lambda _step, _micro_step: 0,
        device=torch.device("cpu"),
    )


def _write_all(folder: Path, world: World) -> None:
    for stage in range(4):
        engine = _build(stage, world)
        engine.run_step([torch.randn(1, 3, 64, 64)], step=0, lr=1e-4, accept=lambda _loss, _norm: True)  # type: ignore[list-item]
        checkpointer = make_checkpointer(folder / str(stage), engine, False, world=world)
        checkpointer.save(RunState(step=1))
        engine._engine.destroy()


def _read_all(folder: Path, world: World) -> None:
    for stage in range(4):
        engine = _build(stage, world)
        checkpoint = find_checkpoint(folder / str(stage), world=world)
        assert checkpoint is not None
        taken: list[int] = []

        def read(*arguments: Any, _taken: list[int] = taken) -> torch.Tensor:
            tensor = _READ(*arguments)
            _taken.append(tensor.nbytes)
            return tensor

        opening = mock.patch.object(deepspeed_files, "load_shard", side_effect=deepspeed_files.load_shard)
        with opening as opened, mock.patch.object(ZeroCheckpoint, "read", read):
            load_checkpoint(checkpoint, engine=engine, state=RunState(), identity={})
        mine = Reading(num_files=opened.call_count, num_bytes=sum(taken))
        ranks = [Reading(**row) for row in gather_from_all(asdict(mine))]
        if world.is_main:
            _show(checkpoint.folder, stage, ranks)
        engine._engine.destroy()


def _show(folder: Path, stage: int, ranks: list[Reading]) -> None:
    files = json.loads((folder / "manifest.json").read_text())["files"]
    sizes = {name: row["bytes"] for name, row in files.items()}
    by_main = sum(size for name, size in sizes.items() if name.startswith(("mp_rank", "zero_pp_rank_0_")))
    print(
        f"{stage:>7}{len(ranks):>15}{len(sizes):>8}{sum(sizes.values()) / 1e6:>12.1f}{by_main / 1e6:>18.1f}"
        f"{max(rank.num_files for rank in ranks):>16}{max(rank.num_bytes for rank in ranks) / 1e6:>12.1f}",
        flush=True,
    )
