"""The plan of a run: everything that follows from its config, the machine and what is assumed."""

from __future__ import annotations

from dataclasses import dataclass

from hornet.errors import UserError
from hornet.planning.attempts import AttemptPlan, CheckpointPlan, explain_limit, plan_attempts, plan_checkpoints
from hornet.planning.basis import Basis
from hornet.planning.fleet import FleetPlan, plan_fleet
from hornet.stages.recipe import Departure, list_departures

NUM_EVALUATED = 50_000
"""Images of a set to evaluate on, as many as ImageNet-1K's validation split has."""


@dataclass(frozen=True, kw_only=True)
class WhatIf:
    """The same run on another number of GPUs."""

    num_gpus: int
    fleet: FleetPlan | None
    """None if the global batch cannot be divided."""
    problem: str | None
    """Why not, or why it does not fit."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run that has not begun."""

    basis: Basis
    num_images: int
    """Images seen, over all epochs."""
    fleet: FleetPlan
    images_per_second: float
    """Images trained on per second, over all GPUs."""
    node_bytes_per_second: float
    """That each node reads from the tars."""
    checkpoints: CheckpointPlan
    longest_step_seconds: float
    """A step, and an evaluation if there is one."""
    attempts: AttemptPlan | None
    what_if: tuple[WhatIf, ...]
    departures: tuple[Departure, ...]
    """From the published recipe that the config names."""
    problems: tuple[str, ...]
    """Why it cannot work; empty for a sound plan."""


def make_plan(basis: Basis) -> Plan:
    """Plan the run; raises UserError, saying what would do, if the global batch cannot be divided."""
    config, question, samples = basis.config, basis.question, basis.samples
    fleet = plan_fleet(basis, num_gpus=question.num_gpus)
    images_per_second = basis.speed.images_per_second * question.num_gpus
    checkpoints = plan_checkpoints(
        basis.network.num_parameters,
        stage=basis.stage,
        has_ema=basis.has_ema,
        retention=config.checkpoints,
        num_steps=basis.num_steps,
        save_every_steps=config.cadence.save_every_steps,
        question=question,
    )
    longest = fleet.duration.step_seconds + _count_evaluated(basis) / (3 * images_per_second)
    attempts = plan_attempts(
        train_hours=fleet.duration.hours,
        longest_step_seconds=longest,
        save_seconds=checkpoints.save_seconds,
        question=question,
    )
    problems = (
        fleet.problem,
        _explain_precision(basis),
        None if attempts is None else explain_limit(attempts, question),
    )
    return Plan(
        basis=basis,
        num_images=basis.num_steps * config.global_batch_size,
        fleet=fleet,
        images_per_second=images_per_second,
        node_bytes_per_second=images_per_second / fleet.num_nodes * samples.num_bytes / samples.num_samples,
        checkpoints=checkpoints,
        longest_step_seconds=longest,
        attempts=attempts,
        what_if=tuple(_ask(basis, num_gpus) for num_gpus in question.what_if),
        departures=tuple(list_departures(config)),
        problems=tuple(problem for problem in problems if problem is not None),
    )


def _ask(basis: Basis, num_gpus: int) -> WhatIf:
    try:
        fleet = plan_fleet(basis, num_gpus=num_gpus, may_shrink=True)
    except UserError as error:
        return WhatIf(num_gpus=num_gpus, fleet=None, problem=str(error))
    return WhatIf(num_gpus=num_gpus, fleet=fleet, problem=fleet.problem)


def _count_evaluated(basis: Basis) -> int:
    """Return the images of one evaluation, of raw and of averaged weights; a third of training's work each."""
    return 0 if basis.config.evaluation is None else NUM_EVALUATED * (1 + basis.has_ema)


def _explain_precision(basis: Basis) -> str | None:
    gpu = basis.question.gpu
    if basis.precision == "fp32" or gpu.peak_tflops is not None:
        return None
    return (
        f"precision: bf16 needs a GPU that computes it, which {gpu.key} does not; set it to fp32, or choose another GPU"
    )
