"""Plan a run before it queues: memory, time, cost, disk and jobs, from its config alone, without GPUs or data."""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from hornet.cli import print_to_pipe
from hornet.cli.command_line import exit_on_bad_input, positive
from hornet.cli.configs import find_config, find_stage, require_no_study
from hornet.config import ConfigError, build_config, read_settings
from hornet.data.division import check_division
from hornet.data.order import require_whole_batch
from hornet.errors import UserError
from hornet.hardware import GPUS, get_gpu
from hornet.planning.question import Question
from hornet.planning.samples import Samples, find_samples
from hornet.stages.config import StageConfig

CANNOT_WORK = 1

KNOWN: tuple[tuple[str, str, type, str], ...] = (
    ("--mfu", "mfu", float, "share of the GPU's dense bf16 rate, 0 to 1"),
    ("--samples", "num_samples", int, "images of the training set"),
    ("--classes", "num_classes", int, "its classes"),
    ("--bytes-per-image", "bytes_per_image", int, "in the tars"),
    ("--gpus-per-node", "gpus_per_node", int, "GPUs of a node"),
    ("--node-gbit", "node_gbit", float, "network of a node, Gbit/s"),
    ("--disk", "disk_gb_per_second", float, "rate of writing checkpoints, GB/s"),
    ("--price", "price_per_gpu_hour", float, "of a GPU-hour, in any currency"),
    ("--pue", "pue", float, "power of the building over that of the GPUs"),
    ("--signal-lead", "lead_seconds", float, "from the signal to the time limit, seconds"),
    ("--start", "start_seconds", float, "from the start of a job to its first step, seconds"),
)
"""Options that replace a field of Question: flag, field, type, help."""

EPILOG = f"""examples:
  python launch/plan.py --config configs/pretrain/hornet_large_gf_in22k.yaml --gpus 64 --gpu h100-80
  python launch/plan.py --config configs/pretrain/hornet_large_gf_in22k.yaml zero.stage=2 micro_batch_size=auto \\
      --gpus 64 --time-limit 24:00:00 --price 2.5 --what-if 8,16,32,64,128
  python launch/plan.py --config configs/finetune/hornet_large_gf_in1k_384.yaml --gpus 8 --from-run runs/NAME --json

GPUs: {", ".join(gpu.key for gpu in GPUS)}

Exits with 0 if the plan is sound, with 1 and a sentence if it cannot work (it does not fit, the batch cannot be
divided or filled, the signal before the time limit comes too late), with 2 if the config or an option is wrong, or
nobody knows the set.
What is computed, measured and assumed: docs/plan.md."""


def main() -> None:
    """Read the command line, plan, print."""
    options = read_options()
    exit_on_bad_input(lambda: answer(options))


def answer(options: argparse.Namespace) -> None:
    """Print the plan, or why there can be none, and end the process; raises UserError if too little is known."""
    question = make_question(options)
    config, zero, precision = read_config(options.config, options.overrides)
    samples = find_samples(config.data, question)
    try:
        require_batches(config, num_samples=samples.num_samples, num_gpus=question.num_gpus)
        problems = report(config, question, samples, zero=zero, precision=precision, options=options)
    except UserError as error:
        problems = [str(error)]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    sys.exit(CANNOT_WORK if problems else 0)


def require_batches(config: StageConfig, *, num_samples: int, num_gpus: int) -> None:
    """Raise UserError if the global batch cannot be divided or filled, which need not wait for torch."""
    micro_batch_size = 1 if config.micro_batch_size == "auto" else config.micro_batch_size
    check_division(config.global_batch_size, num_ranks=num_gpus, micro_batch_size=micro_batch_size)
    require_whole_batch(
        num_samples, global_batch_size=config.global_batch_size, partial_batch=config.data.partial_batch
    )


def read_options() -> argparse.Namespace:
    """Parse the command line; what is not given of Question's fields is absent."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="of a run; see `hornet configs`")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="replace a key of the config; dots nest"
    )
    parser.add_argument("--gpus", type=positive(int), default=8, metavar="N", help="GPUs of the run (default 8)")
    parser.add_argument("--gpu", default="h100-80", metavar="KIND", help="as listed below (default %(default)s)")
    parser.add_argument("--what-if", type=read_counts, default=(), metavar="N,N", help="other numbers of GPUs")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--from-run", type=Path, metavar="RUN", help="take the speed that this run measured")
    parser.add_argument(
        "--time-limit",
        type=read_hours,
        metavar="TIME",
        help="of one job, as SLURM has it: 90 (minutes), 12:00:00, 2-00:00:00; without it there is one job",
    )
    group = parser.add_argument_group("known, in place of what is assumed")
    for flag, field, kind, text in KNOWN:
        default = getattr(Question, field, None)
        shown = text if default is None else f"{text} (default {default:g})"
        group.add_argument(flag, dest=field, type=positive(kind), default=argparse.SUPPRESS, metavar="X", help=shown)
    return parser.parse_intermixed_args()


def read_counts(text: str) -> tuple[int, ...]:
    """Read counts, 1 or more, with commas between: `8,16,32`."""
    return tuple(positive(int)(part) for part in text.split(","))


def read_hours(text: str) -> float | None:
    """Read a time as sbatch takes it: [DAYS-]HOURS:MINUTES:SECONDS and its shorter forms; None for no limit."""
    if text.upper() in ("0", "INFINITE", "UNLIMITED"):
        return None
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time as SLURM has it: 90 (minutes), 12:00:00, 2-00:00:00")
    days, *fields = match.groups()
    numbers = [int(field) for field in fields if field is not None]
    # Two fields are minutes and seconds, but after days hours and minutes; one is minutes, but after days hours.
    if days is None and len(numbers) < 3:
        numbers.insert(0, 0)
    hours, minutes, seconds = [*numbers, 0, 0][:3]
    return 24 * int(days or 0) + hours + minutes / 60 + seconds / 3600


def make_question(options: argparse.Namespace) -> Question:
    """Put what is known in the place of what is assumed; raises UserError if nobody knows the GPU."""
    known = {field: value for field, value in vars(options).items() if field in {row[1] for row in KNOWN}}
    return Question(
        gpu=get_gpu(options.gpu),
        num_gpus=options.gpus,
        what_if=options.what_if,
        time_limit_hours=options.time_limit,
        **known,
    )


def read_config(path: Path, overrides: list[str]) -> tuple[Any, Any, Any]:
    """Return the config, what it says of ZeRO (None for a finetuning run) and its precision.

    Raises ConfigError with all that is wrong.
    """
    from finetune.config import FinetuneConfig
    from pretrain.config import PretrainConfig

    values, problems = read_settings(find_config(path), overrides)
    require_no_study(values, source=str(path))
    if find_stage(values) == "dense":
        raise ConfigError(str(path), ["is for launch/dense.py; plan one of pretraining (zero) or finetuning (start)"])
    if "zero" not in values and "start" not in values:
        problems.append("is neither a pretraining config (zero) nor a finetuning config (start)")
        raise ConfigError(str(path), problems)
    if "start" in values:
        finetuning = build_config(FinetuneConfig, values, source=str(path), problems=problems)
        return finetuning, None, finetuning.precision
    pretraining = build_config(PretrainConfig, values, source=str(path), problems=problems)
    return pretraining, pretraining.zero, pretraining.zero.precision


def report(
    config: Any, question: Question, samples: Samples, *, zero: Any, precision: Any, options: argparse.Namespace
) -> list[str]:
    """Print the plan; return why it cannot work."""
    from hornet.planning.basis import find_basis
    from hornet.planning.plan import make_plan
    from hornet.planning.report import format_plan, to_json
    from hornet.training.clipping import require_halves
    from pretrain.config import require_clipping

    basis = find_basis(config, question, samples, zero=zero, precision=precision, run=options.from_run)
    plan = make_plan(basis)
    print_to_pipe(json.dumps(to_json(plan), indent=2, default=str) if options.json else format_plan(plan))
    problems = list(plan.problems)
    try:
        if zero is not None:
            require_clipping(config, num_micro_steps=plan.fleet.num_micro_steps)
        else:
            require_halves(config.recipe.clipping, num_micro_steps=plan.fleet.num_micro_steps)
    except UserError as error:
        problems.append(str(error))
    return problems


if __name__ == "__main__":
    main()
