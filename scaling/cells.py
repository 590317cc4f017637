"""A run that a study asks for: an ordinary config, its place in the grid, the digest of what it learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hornet.stages.config import StageConfig
from scaling.shares import SetFacts, Share

Stage = Literal["pretrain", "finetune"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A run that the study asks for."""

    group: str
    key: str
    """Its name within the group, such as gf-atto_f0.25_s0."""
    stage: Stage
    family: str
    size: str
    fraction: float
    seed: int
    config: StageConfig
    train: SetFacts
    evaluation: SetFacts | None
    digest: str | None
    """Of what it learns; None while its set is not here."""
    parent: str | None
    """For a finetuning: the name of the cell that it starts from."""
    is_held_out: bool
    tried: str | None
    """For a run of a pilot: the `key=value` that it tries."""
    run: str
    """The cell whose run directory holds the run: its own name, or that of another group's cell with its digest."""
    share: Share | None
    """The share of the set that must be made first."""
    trunk: str | None = None
    """The name of the cell that it is a branch of."""
    branch_step: int = 0
    """Steps that it takes over from its trunk."""

    @property
    def name(self) -> str:
        """GROUP/KEY."""
        return f"{self.group}/{self.key}"

    @property
    def place(self) -> str:
        """What of the grid it is, whatever the family and seed: cells of one place are compared."""
        kind = name_kind(self.family, self.size)
        return f"{self.size}{self.key.removeprefix(kind).rpartition('_s')[0]}".strip("_")

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps of a pass over the training split."""
        return count_steps(self.train.num_samples, self.config)

    @property
    def num_steps(self) -> int:
        """Optimizer steps, as the schedule has them."""
        return max(1, round(self.config.schedule.num_epochs * self.steps_per_epoch))

    @property
    def images_seen(self) -> int:
        """Images that the run trains on, with repetitions."""
        return self.num_steps * self.config.global_batch_size

    @property
    def num_own_steps(self) -> int:
        """Steps that the run makes itself, without those of its trunk."""
        return self.num_steps - self.branch_step

    @property
    def waits_for(self) -> dict[str, str]:
        """Names of the cells that must be finished first, by what they are to it: parent, trunk."""
        needed = {"parent": self.parent, "trunk": self.trunk}
        return {kind: name for kind, name in needed.items() if name is not None}


def name_kind(family: str, size: str) -> str:
    """Return what a key begins with, and `per` may name: FAMILY-SIZE, or what there is of it."""
    return "-".join(part for part in (family, size) if part) or "run"


def count_steps(num_samples: int, config: StageConfig) -> float:
    """Return the optimizer steps of an epoch, as hornet/data/order.py has them."""
    batch = config.global_batch_size
    return num_samples // batch if config.data.partial_batch == "drop" else num_samples / batch
