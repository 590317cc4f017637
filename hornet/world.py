"""Who this process is among the others. The only module that reads the environment (but for `$NAME` in a path)."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
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
    has_store: bool = False
    """Whether the launcher listens there instead of rank 0, as torchrun's agent does."""
    num_restarts: int = 0
    """How often the launcher has started its ranks again."""

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.num_ranks:
            raise UserError(f"rank {self.rank} is outside a world of {self.num_ranks} ranks")
        if not 0 <= self.local_rank < self.num_local_ranks:
            raise UserError(f"local rank {self.local_rank} is outside the node's {self.num_local_ranks} ranks")
        if not 0 <= self.master_port < 2**16:
            raise UserError(f"MASTER_PORT {self.master_port} is no port; choose one of 1024 to 65535")

    @property
    def is_main(self) -> bool:
        """Whether this process writes what a run has only once."""
        return self.rank == 0


ALONE = World(rank=0, num_ranks=1, local_rank=0, num_local_ranks=1, master_address="127.0.0.1", master_port=0)


def place_rank(rank: int, num_ranks: int) -> World:
    """Return the world of a process of whom no more is known, for loops that need no process group of ours."""
    return replace(ALONE, rank=rank, num_ranks=num_ranks)


DEFAULT_PORT = 29500
"""Where torchrun, deepspeed and accelerate meet if nothing else is said."""

_MPI = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),
    ("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_LOCAL_RANK", "JSM_NAMESPACE_LOCAL_SIZE"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    ("PMI_RANK", "PMI_SIZE", "PMI_LOCAL_RANK", "PMI_LOCAL_SIZE"),
)
"""Rank, ranks, local rank, local ranks as Open MPI, MVAPICH2, LSF's jsrun, MPICH or Intel MPI, and Cray's PALS say."""

_MPI_TRACES = ("OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "PALS_RANKID", "FLUX_TASK_RANK")
"""Any of them tells of a launcher that starts several processes."""

_FIRST_RESERVED_STEP = 0xFFFFFFF0
"""SLURM numbers the steps that srun starts from 0; the batch script, the shell of salloc and others lie up here."""

_ACCELERATE_PLUGINS = {
    "ACCELERATE_USE_DEEPSPEED": "DEEPSPEED",
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "MEGATRON_LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config",
}


def read_world(environment: Mapping[str, str] = os.environ, *, is_terminal: bool | None = None) -> World:
    """Read the world from the launcher's variables (torchrun, deepspeed, accelerate), else MPI's, else SLURM's.

    Without any this process is alone. `is_terminal` says whether standard input is one; None looks. Raises UserError
    if the variables tell of several processes, but not enough to join them.
    """
    _refuse_plugins(environment)
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return _read_launcher(environment)
    world = _read_mpi(environment) or _read_slurm(environment, os.isatty(0) if is_terminal is None else is_terminal)
    if world is None:
        _refuse_traces(environment)
        return ALONE
    if _number(environment, "WORLD_SIZE", world.num_ranks) != world.num_ranks:
        raise UserError(
            f"WORLD_SIZE is {environment['WORLD_SIZE']}, but the launcher started {world.num_ranks} processes; unset it"
        )
    return world


def _read_launcher(environment: Mapping[str, str]) -> World:
    rank, num_ranks = _number(environment, "RANK"), _number(environment, "WORLD_SIZE")
    # torchrun says LOCAL_WORLD_SIZE, the deepspeed launcher LOCAL_SIZE
    num_local = _number(environment, "LOCAL_WORLD_SIZE", _number(environment, "LOCAL_SIZE", num_ranks))
    if num_ranks > 1 and "LOCAL_RANK" not in environment and "MASTER_ADDR" in environment:
        raise UserError(
            f"RANK, WORLD_SIZE={num_ranks} and MASTER_ADDR are set, but not LOCAL_RANK: set it to this process's "
            "number on its node and LOCAL_WORLD_SIZE to their count there (0 and 1 for one process a node), or start "
            "with torchrun, which sets all"
        )
    return World(
        rank=rank,
        num_ranks=num_ranks,
        local_rank=_number(environment, "LOCAL_RANK", rank),
        num_local_ranks=num_local,
        master_address=_find_master(environment, num_ranks=num_ranks, num_local=num_local),
        master_port=_number(environment, "MASTER_PORT", DEFAULT_PORT),
        has_store=environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        num_restarts=_number(environment, "TORCHELASTIC_RESTART_COUNT", 0),
    )


def _read_mpi(environment: Mapping[str, str]) -> World | None:
    for names in _MPI:
        if all(name in environment for name in names):
            rank, num_ranks, local_rank, num_local = (_number(environment, name) for name in names)
            return World(
                rank=rank,
                num_ranks=num_ranks,
                local_rank=local_rank,
                num_local_ranks=num_local,
                master_address=_find_master(environment, num_ranks=num_ranks, num_local=num_local),
                master_port=_number(environment, "MASTER_PORT", DEFAULT_PORT),
            )
    return None


def _find_master(environment: Mapping[str, str], *, num_ranks: int, num_local: int) -> str:
    if "MASTER_ADDR" not in environment and num_local != num_ranks:
        raise UserError(
            f"{num_local} of {num_ranks} ranks are on this node, and nothing says where rank 0 is: set MASTER_ADDR to "
            "its host and MASTER_PORT to a free port on every node, as by mpirun -x MASTER_ADDR=HOST -x "
            f"MASTER_PORT={DEFAULT_PORT} (a line in ~/.deepspeed_env for deepspeed --launcher openmpi)"
        )
    return environment.get("MASTER_ADDR", "127.0.0.1")


def _read_slurm(environment: Mapping[str, str], is_terminal: bool) -> World | None:
    """Return the place in a step that srun started; None in job scripts, in shells and in notebooks."""
    step = environment.get("SLURM_STEP_ID", "")
    if "SLURM_PROCID" not in environment or not step.isdigit() or int(step) >= _FIRST_RESERVED_STEP:
        return None
    # SLURM_NTASKS may be the job's.
    num_ranks = _number(
        environment, "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS"
    )
    # In a job of 8 tasks `srun --pty bash` opens 8 shells, of which one has a terminal; what is typed there is no task.
    if is_terminal and environment.get("SLURM_TASK_PID") != str(os.getpid()):
        return None
    tasks_per_node = environment.get("SLURM_STEP_TASKS_PER_NODE", environment.get("SLURM_TASKS_PER_NODE", "1"))
    address = environment.get("MASTER_ADDR", "127.0.0.1")
    if num_ranks > 1 and "MASTER_ADDR" not in environment:
        address = first_host(_text(environment, "SLURM_STEP_NODELIST"))
    return World(
        rank=_number(environment, "SLURM_PROCID"),
        num_ranks=num_ranks,
        local_rank=_number(environment, "SLURM_LOCALID"),
        num_local_ranks=tasks_on_node(tasks_per_node, node=_number(environment, "SLURM_NODEID", 0)),
        master_address=address,
        # below the ephemeral ports, which begin at 32768 on Linux
        master_port=_number(environment, "MASTER_PORT", 20000 + _number(environment, "SLURM_JOB_ID") % 12000),
    )


def _refuse_plugins(environment: Mapping[str, str]) -> None:
    for name, plugin in _ACCELERATE_PLUGINS.items():
        if environment.get(name, "").lower() in ("true", "1"):
            raise UserError(
                f"Accelerate's config asks for {plugin}, which is not used here: finetuning is plain data parallel, "
                "and pretraining takes ZeRO from its own zero.stage; launch with torchrun, or with an Accelerate "
                "config of distributed_type MULTI_GPU or NO"
            )


def _refuse_traces(environment: Mapping[str, str]) -> None:
    """Raise UserError if there are others, of whom too little is known, and this process would train as if alone."""
    # Accelerate's launcher of one process sets MASTER_PORT if it was asked for several.
    if "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_PORT" in environment:
        raise UserError(
            "accelerate launch starts one process where it finds no GPUs (--cpu, use_cpu, MULTI_CPU), though several "
            "were asked for: start them with torchrun --nproc_per_node 2 launch/finetune.py ..., or ask for "
            "--num_processes 1 (and unset MASTER_PORT)"
        )
    half = [name for name in ("RANK", "WORLD_SIZE") if name in environment]
    if half and environment.get("WORLD_SIZE") != "1":
        missing = "WORLD_SIZE" if half == ["RANK"] else "RANK"
        raise UserError(
            f"{half[0]} is set to {environment[half[0]]}, but {missing} is not: start the ranks with torchrun, which "
            f"sets both, or unset {half[0]} to run one process"
        )
    traces = [name for name in _MPI_TRACES if name in environment]
    # SLURM's own MPI plugins set some of them in shells and job scripts too.
    if traces and "SLURM_PROCID" not in environment and environment.get("PMI_SIZE") != "1":
        raise UserError(
            f"{traces[0]} is set, so an MPI launcher started this process, but how many there are on which node is not "
            "told: use torchrun, srun or Open MPI's mpirun, or set RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, "
            "MASTER_ADDR and MASTER_PORT for each process"
        )


def _text(environment: Mapping[str, str], name: str) -> str:
    if name not in environment:
        raise UserError(f"{name} is not set, which a launcher sets beside what it has set; start with srun or torchrun")
    return environment[name]


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    if default is not None and name not in environment:
        return default
    text = _text(environment, name)
    if not re.fullmatch(r"\d+", text):
        raise UserError(f"{name}: must be a whole number, not {text!r}; launchers set it, else unset it")
    return int(text)


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
    if node >= len(counts):
        raise UserError(f"SLURM's tasks per node {tasks_per_node!r} say nothing of node {node}")
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
