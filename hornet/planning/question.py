"""What is asked of a plan besides the config, with everything that is assumed where nothing is known."""

from __future__ import annotations

from dataclasses import dataclass

from hornet.errors import UserError
from hornet.hardware import Gpu

LIMIT_LEAD_SECONDS = 300
"""How long before the time limit the job scripts have SLURM send its signal (launch/slurm/*.sbatch)."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """The machine, and assumptions; each of the latter can be replaced on the command line."""

    gpu: Gpu
    """Kind of GPU, with its memory, rate and power."""
    num_gpus: int
    """GPUs of the run, one rank on each."""
    gpus_per_node: int = 8
    """GPUs of one node, which share its network and host memory."""
    node_gbit: float = 3200
    """Network of a node, Gbit/s: eight cards of 400."""
    mfu: float | None = None
    """Share of the GPU's dense bf16 rate that training reaches; None assumes one."""
    num_samples: int | None = None
    """Images of the training set; None asks the set, or what is known of one of its name."""
    num_classes: int | None = None
    """Classes of the training set; None asks the set, or what is known of one of its name."""
    bytes_per_image: int = 100_000
    """In the tars, where there is no set to ask: ImageNet's are 92 kB (22K) to 110 kB (1K) in the mean."""
    price_per_gpu_hour: float | None = None
    """In any currency; None leaves the cost out."""
    pue: float = 1.3
    """Power of the whole building over that of the GPUs' boards."""
    disk_gb_per_second: float = 1.0
    """What the disk of the run directory takes from all ranks together, 1e9 bytes a second."""
    time_limit_hours: float | None = None
    """Longest job of the cluster; None for no limit."""
    lead_seconds: float = LIMIT_LEAD_SECONDS
    """How long before the time limit the run is told to stop."""
    start_seconds: float = 180
    """From the start of a job to its first step: imports, connections, reading the checkpoint."""
    what_if: tuple[int, ...] = ()
    """Other numbers of GPUs to look at."""

    def __post_init__(self) -> None:
        if self.mfu is not None and not 0 < self.mfu <= 1:
            raise UserError(f"mfu: is a share, above 0 and at most 1, not {self.mfu:g}")
        if self.pue < 1:
            raise UserError(f"pue: the building takes the GPUs' power too, so it is 1 or more, not {self.pue:g}")
