"""One attempt of a run, whatever is learned: its directory, device, ranks and lock, and where it goes on from."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from hornet.config import flatten_values, list_settings, to_values
from hornet.errors import UserError
from hornet.runs.begun import list_changes
from hornet.runs.directory import RunConfig, RunDirectory
from hornet.training.branch import Branch
from hornet.training.checkpoints.checkpoint import Checkpoint
from hornet.training.components import Components
from hornet.training.config import GuardConfig
from hornet.training.process_group import choose_device, errors_shared, open_process_group, tell_all
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

SECTIONS_IN_STEP = ("cadence", "checkpoints", "guard", "zero")
NAMES_IN_STEP = (
    "activation_checkpointing",
    "batch_size",
    "branch_from",
    "max_bad_sample_rate",
    "micro_batch_size",
    "per_image",
)
"""Settings that may change on a resume, but say what the ranks do together, or who evaluates what."""


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

    identity: Mapping[str, Any]
    """What a checkpoint must have been written with to fit this run, and what the ranks must have found alike."""
    evaluated_set: str | None
    """Fingerprint of the set to evaluate on, None without one; the ranks must have found the same."""
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
        require_alike(config, {**opened.identity, "evaluated set": opened.evaluated_set}, world=world)
        held.enter_context(hold_lock(run, world=world))  # not before: a wrong config leaves no folder behind
        checkpoint = find_start(run, config, require=opened.require, find_branch=opened.find_branch, world=world)
        with run.failures_marked():
            attempt = Attempt(run=run, checkpoint=checkpoint, device=device, beat=watchdog.beat)
            components = opened.build(attempt)
            run_session(run, components, checkpoint=checkpoint, world=world, device=device, watchdog=watchdog)


def require_alike(config: Any, found: Mapping[str, Any], *, world: World) -> None:
    """Raise UserError, on all ranks, if one has other settings than rank 0, or has `found` other data. Collective.

    Nothing else would notice: nodes with copies of their own of the set, one of them of yesterday, or with commands
    typed by hand, would train on what none of them means, or wait for each other for ever. What may change on a resume
    and is of each node alone, as paths, may differ.
    """
    known = list_settings(type(config))
    mine = dict(flatten_values(to_values(config), settings=known))
    node, settings, first_found = tell_all((platform.node(), mine, dict(found)))
    with errors_shared():
        differing = list_changes(config, settings)
        differing += [
            f"{key}: {settings[key]!r} -> {mine[key]!r}"
            for key in sorted(mine.keys() & settings.keys())
            if mine[key] != settings[key] and known[key].is_resumable and _is_in_step(key)
        ]
        differing += [
            f"{name}: {first_found.get(name)!r} -> {value!r}"
            for name, value in found.items()
            if value != first_found.get(name)
        ]
        if differing:
            raise UserError(
                f"rank {world.rank} on {platform.node()} would not train what rank 0 on {node} does:\n  "
                + "\n  ".join(differing)
                + "\ngive all ranks the same command, and copies of the same set"
            )


def _is_in_step(key: str) -> bool:
    return key.partition(".")[0] in SECTIONS_IN_STEP or key.rpartition(".")[2] in NAMES_IN_STEP
