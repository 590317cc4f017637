"""Who this process is among the others. The only module that reads the environment (but for `$NAME` in a path)."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hornet.errors import UserError


@dataclass(frozen=True, kw_only=True)
class World:
    """One process's place in a run, the same under every launcher; read once, then passed by hand."""

    rank: int
    """Global rank, 0-based."""
    num_ranks: int
    """Processes in the run, over all nodes."""
    local_rank: int
    """Rank on this node: the index of this process's GPU."""
    num_local_ranks: int
    """Processes of the run on this node."""
    master_address: str
    """Where rank 0 listens for the rendezvous."""
    master_port: int
    """The port of the same."""

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.num_ranks:
            raise UserError(f"rank {self.rank} is outside a world of {self.num_ranks} ranks")
        if not 0 <= self.local_rank < self.num_local_ranks:
            raise UserError(f"local rank {self.local_rank} is outside the node's {self.num_local_ranks} ranks")

    @property
    def is_main(self) -> bool:
        """Whether this process writes what a run has only once."""
        return self.rank == 0


ALONE = World(rank=0, num_ranks=1, local_rank=0, num_local_ranks=1, master_address="127.0.0.1", master_port=0)


def read_world(environment: Mapping[str, str] = os.environ) -> World:
    """Read the world from the launcher's variables (torchrun, deepspeed, accelerate), else SLURM's, else be alone."""
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return _read_launcher(environment)
    # An sbatch script's own shell has SLURM_PROCID too; only a step started by srun has SLURM_STEP_ID as well,
    # and an interactive `salloc` shell step is named "interactive" or "extern", not a number.
    if "SLURM_PROCID" in environment and environment.get("SLURM_STEP_ID", "").isdigit():
        return _read_slurm(environment)
    return ALONE


def _read_launcher(environment: Mapping[str, str]) -> World:
    num_ranks = int(environment["WORLD_SIZE"])
    local_rank = int(environment.get("LOCAL_RANK", "0"))
    # torchrun says LOCAL_WORLD_SIZE, the deepspeed launcher LOCAL_SIZE
    num_local = environment.get("LOCAL_WORLD_SIZE", environment.get("LOCAL_SIZE", str(num_ranks)))
    return World(
        rank=int(environment["RANK"]),
        num_ranks=num_ranks,
        local_rank=local_rank,
        num_local_ranks=int(num_local),
        master_address=environment.get("MASTER_ADDR", "127.0.0.1"),
        master_port=int(environment.get("MASTER_PORT", "29500")),
    )


def _read_slurm(environment: Mapping[str, str]) -> World:
    num_ranks = int(environment["SLURM_NTASKS"])
    tasks_per_node = environment.get("SLURM_STEP_TASKS_PER_NODE", environment.get("SLURM_TASKS_PER_NODE", "1"))
    address = environment.get("MASTER_ADDR", "127.0.0.1")
    if num_ranks > 1 and "MASTER_ADDR" not in environment:
        address = first_host(environment["SLURM_STEP_NODELIST"])
    return World(
        rank=int(environment["SLURM_PROCID"]),
        num_ranks=num_ranks,
        local_rank=int(environment["SLURM_LOCALID"]),
        num_local_ranks=tasks_on_node(tasks_per_node, node=int(environment.get("SLURM_NODEID", "0"))),
        master_address=address,
        # below the ephemeral ports, which begin at 32768 on Linux
        master_port=int(environment.get("MASTER_PORT", 20000 + int(environment["SLURM_JOB_ID"]) % 12000)),
    )


def first_host(nodes: str) -> str:
    """Return the first host of a SLURM node list: `gpu[03-05,7],x1` -> `gpu03`, `r[1-2]n[3-4]` -> `r1n3`."""
    match = re.match(r"(?:[^\[\],]|\[[^\]]*\])+", nodes)
    if match is None:
        raise UserError(f"cannot read a host from the SLURM node list {nodes!r}; set MASTER_ADDR")
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", match.group())


def tasks_on_node(tasks_per_node: str, *, node: int) -> int:
    """Read SLURM's compressed list: `2(x3),1` says three nodes of 2 tasks, then one of 1."""
    counts: list[int] = []
    for part in tasks_per_node.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match is None:
            raise UserError(f"cannot read SLURM's tasks per node {tasks_per_node!r}")
        counts += [int(match.group(1))] * int(match.group(2) or 1)
    return counts[node]


def publish_world(world: World) -> None:
    """Set the launcher's variables from `world`, for the libraries that read them (torch, DeepSpeed, Accelerate)."""
    os.environ.update(
        RANK=str(world.rank),
        WORLD_SIZE=str(world.num_ranks),
        LOCAL_RANK=str(world.local_rank),
        LOCAL_WORLD_SIZE=str(world.num_local_ranks),
        LOCAL_SIZE=str(world.num_local_ranks),
        MASTER_ADDR=world.master_address,
        MASTER_PORT=str(world.master_port),
    )


def report_to_launcher(sentence: str) -> None:
    """Give torchrun (and accelerate launch, which is built on it) what to print at the end of its own report.

    Without it, it says that a rank ended, in a page of its own stack, and where one may read about tracebacks.
    """
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path is None:
        return
    extra = {"py_callstack": sentence, "timestamp": str(int(time.time()))}
    with suppress(OSError):  # the sentence was printed, too
        Path(path).write_text(json.dumps({"message": {"message": sentence, "extraInfo": extra}}))


def publish_accelerator(kind: str) -> None:
    """Tell DeepSpeed which kind of device there is, before it is imported; else it guesses, and prints that it did."""
    os.environ.setdefault("DS_ACCELERATOR", kind)
