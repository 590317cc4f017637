"""One attempt of a run, whatever is learned: its directory, device, ranks and lock, and where it goes on from."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

from hornet.runs.directory import RunConfig, RunDirectory
from hornet.training.branch import Branch
from hornet.training.checkpoints.checkpoint import Checkpoint
from hornet.training.components import Components
from hornet.training.config import GuardConfig
from hornet.training.process_group import choose_device, errors_shared, open_process_group
from hornet.training.session import find_start, hold_lock, run_session
from hornet.training.summary import report_finished
from hornet.training.watchdog import Watchdog
from hornet.world import World


class RunSettings(Protocol):
    """What any run's config has."""

    @property
    def run(self) -> RunConfig:
        """Name, place and seed."""
        ...

    @property
    def guard(self) -> GuardConfig:
        """Steps that are dropped, batches that are left out, going back."""
        ...


Config = TypeVar("Config", bound=RunSettings)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What is known of an attempt before its network is built."""

    run: RunDirectory
    """Where it writes."""
    checkpoint: Checkpoint | None
    """What it goes on from; None if the run starts."""
    device: torch.device
    """Device that this rank computes on."""
    beat: Callable[[], None]
    """To be called before each forward pass."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A run whose data were found."""

    require: Callable[[Checkpoint], None]
    """Raises UserError if the run cannot go on from a checkpoint."""
    find_branch: Callable[[], Branch | None]
    """Returns where the run leaves its trunk; None if it has none. Collective."""
    build: Callable[[Attempt], Components]
    """Builds network and engine. Collective."""


def run_attempt(config: Config, *, world: World, open_data: Callable[[Config], Opened]) -> None:
    """Run, or resume, a run to its end. Every rank calls it.

    Raises UserError for bad input and for a run that must not go on.
    """
    run = RunDirectory(config.run, world=world)
    config = run.go_on_as_begun(config)
    if report_finished(run, config, world=world):
        return
    device = choose_device(world)
    watchdog = Watchdog(run, world=world, stall_seconds=config.run.stall_seconds)
    with watchdog, open_process_group(world, device=device, purpose=f"run {config.run.name}"), ExitStack() as held:
        with errors_shared():  # a node may lack the shards, or the module, that the others see
            opened = open_data(config)
        held.enter_context(hold_lock(run, world=world))  # not before: a wrong config leaves no folder behind
        checkpoint = find_start(run, config, require=opened.require, find_branch=opened.find_branch, world=world)
        with run.failures_marked():
            attempt = Attempt(run=run, checkpoint=checkpoint, device=device, beat=watchdog.beat)
            components = opened.build(attempt)
            run_session(run, components, checkpoint=checkpoint, world=world, device=device, watchdog=watchdog)
