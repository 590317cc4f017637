"""A plan as tables for people, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from hornet.planning.plan import Plan
from hornet.planning.speed import describe_gpu
from hornet.quantities import align
from hornet.stages.recipe import format_audit

GIB = 2**30


def to_json(plan: Plan) -> dict[str, Any]:
    """Return all of a plan but the config as JSON values."""
    values = asdict(plan)
    values["run"] = plan.basis.config.run.name
    del values["basis"]["config"], values["basis"]["network"]["num_elements"]
    return values


def format_plan(plan: Plan) -> str:
    """Return the plan for people."""
    parts = [
        _format_pairs(_describe_run(plan)),
        "memory of one GPU at the peak, GiB (* as the config says)\n" + _format_memory(plan),
        _format_pairs(_describe_cost(plan)),
        _format_pairs(_describe_disk(plan)),
    ]
    if plan.what_if:
        parts.append("what if\n" + _format_what_if(plan))
    recipe = plan.basis.config.recipe.published
    if recipe is not None:
        parts.append(format_audit(recipe, list(plan.departures)))
    return "\n\n".join(parts)


def _describe_run(plan: Plan) -> Iterator[tuple[str, str]]:
    basis, fleet, network = plan.basis, plan.fleet, plan.basis.network
    config = basis.config
    yield "run", config.run.name
    yield "GPUs", f"{fleet.num_gpus} x {describe_gpu(basis.question.gpu)}, {_count(fleet.num_nodes, 'node')}"
    yield (
        "network",
        f"{network.name} at {network.image_size} pixels, {basis.samples.num_classes:,} classes: "
        f"{network.num_parameters / 1e6:.1f} M parameters, "
        f"{_digits(network.published_gflops)} GFLOPs an image (counted as the paper does), "
        f"{_digits(network.training_flops_per_image / 1e9)} GFLOP to train on one",
    )
    yield (
        "set",
        f"{basis.samples.num_samples:,} images, {basis.samples.num_bytes / 1e9:,.0f} GB ({basis.samples.source})",
    )
    yield (
        "length",
        f"{config.schedule.num_epochs:g} epochs, {basis.num_steps:,} steps of {config.global_batch_size:,}, "
        f"{_digits(plan.num_images / 1e6)} M images{_describe_cooldown(plan)}",
    )
    yield (
        "a step",
        f"{_count(fleet.num_micro_steps, 'micro step')} of {_count(fleet.micro_batch_size, 'image')} on each GPU, "
        f"{basis.precision}",
    )


def _describe_cooldown(plan: Plan) -> str:
    schedule = plan.basis.config.schedule
    return f", the last {100 * schedule.cooldown_share:g} % of them cooling down" if schedule.shape == "wsd" else ""


def _format_memory(plan: Plan) -> str:
    head = ["", "parameters", "gradients", "optimizer", "gathered", "buckets", "activations", "reserve", "total", "fit"]
    rows = []
    for row in plan.fleet.memory:
        state = row.state
        sizes = [state.parameters, state.gradients, state.optimizer, state.gathered, state.buckets]
        sizes += [row.activation_bytes, row.reserve_bytes, row.total_bytes]
        fit = (
            "nothing" if row.largest_micro_batch_size is None else f"micro batches up to {row.largest_micro_batch_size}"
        )
        rows.append([("* " if row.is_planned else "  ") + row.name, *(f"{size / GIB:.2f}" for size in sizes), fit])
    return "\n".join(align(head, rows))


def _describe_cost(plan: Plan) -> Iterator[tuple[str, str]]:
    speed, duration, question = plan.basis.speed, plan.fleet.duration, plan.basis.question
    share = "" if speed.mfu is None else f"MFU {100 * speed.mfu:.0f} %, "
    yield "speed", f"{share}{speed.images_per_second:,.0f} images/s a GPU ({speed.source})"
    yield (
        "time",
        f"{duration.hours:,.1f} h, {duration.gpu_hours:,.0f} GPU-hours, {duration.step_seconds:.3f} s a step; "
        f"{plan.fleet.hours_at_most:,.1f} h if the network is in the way",
    )
    yield (
        "traffic",
        f"{plan.fleet.sent_bytes / 1e6:,.0f} MB sent a GPU and step, {plan.fleet.talk_seconds:.3f} s if nothing else "
        f"happens meanwhile (assumed: {question.node_gbit:g} Gbit/s a node)",
    )
    yield (
        "energy",
        f"{duration.kilowatt_hours:,.0f} kWh ({question.gpu.watts} W a board x {question.pue:g} for the building, "
        "assumed)",
    )
    if duration.cost is not None:
        yield "cost", f"{duration.cost:,.0f} at {question.price_per_gpu_hour:g} a GPU-hour"


def _describe_disk(plan: Plan) -> Iterator[tuple[str, str]]:
    question, checkpoints, attempts = plan.basis.question, plan.checkpoints, plan.attempts
    yield (
        "reading",
        f"{plan.images_per_second:,.0f} images/s, {plan.node_bytes_per_second / 1e6:,.0f} MB/s a node "
        "(do the CPUs keep up? launch/shards.py bench)",
    )
    yield (
        "checkpoint",
        f"{checkpoints.num_bytes / 1e9:.2f} GB, {checkpoints.save_seconds:.0f} s to write "
        f"(at {question.disk_gb_per_second:g} GB/s), {checkpoints.num_kept} kept, "
        f"{checkpoints.disk_bytes / 1e9:.1f} GB on disk at most",
    )
    if attempts is not None:
        jobs = _count(attempts.num_attempts, "job")
        yield (
            "jobs",
            f"{jobs} of {question.time_limit_hours:g} h; signal {question.lead_seconds:g} s before the limit, needed "
            f"are {attempts.needed_lead_seconds:.0f} s",
        )


def _format_what_if(plan: Plan) -> str:
    head = ["GPUs", "a step", "hours", "at most", "GPU-hours", "GiB", "MB sent", "s computing", "s talking", ""]
    rows = []
    for asked in plan.what_if:
        fleet = asked.fleet
        if fleet is None:
            rows.append([str(asked.num_gpus), *[""] * 8, asked.problem or ""])
            continue
        rows.append(
            [
                str(fleet.num_gpus),
                f"{fleet.num_micro_steps} x {fleet.micro_batch_size}",
                f"{fleet.duration.hours:,.1f}",
                f"{fleet.hours_at_most:,.1f}",
                f"{fleet.duration.gpu_hours:,.0f}",
                f"{fleet.planned_memory.total_bytes / GIB:.1f}",
                f"{fleet.sent_bytes / 1e6:,.0f}",
                f"{fleet.duration.step_seconds:.3f}",
                f"{fleet.talk_seconds:.3f}",
                "" if asked.problem is None else "does not fit",
            ]
        )
    return "\n".join(align(head, rows))


def _digits(number: float) -> str:
    """Return `1,278`, `34.7`, `0.0253`: a small network's numbers are not nothing."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _count(number: int, noun: str) -> str:
    """Return `1 node`, `8 nodes`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _format_pairs(pairs: Iterator[tuple[str, str]]) -> str:
    return "\n".join(f"{name:<12}{text}" for name, text in pairs)
