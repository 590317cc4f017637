"""The certificate: is a run that is killed and resumed the undisturbed run? Tried on your machine, with your config.

Three short runs of the same config: undisturbed; killed and resumed on as many ranks; killed and resumed on another
number of ranks. Compared are the batches, the losses and the final weights. Exit code 0 if all agree, 1 if not.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dense.config import TASKS, DenseConfig, InstancesConfig
from hornet.cli import print_to_pipe
from hornet.cli.checks import INPUTS
from hornet.cli.command_line import exit_on_bad_input
from hornet.cli.configs import find_config, find_stage
from hornet.config import Check, build_config, choose_class, read_settings, to_yaml
from hornet.data.division import check_division
from hornet.drills.launched import TORCHRUN, Script
from hornet.durable import write_json, write_text
from hornet.errors import UserError
from hornet.shards.shard_set import open_shards
from hornet.stages.config import StageConfig
from hornet.training.config import StepScheduleConfig

AnyConfig = StageConfig | DenseConfig | InstancesConfig

EPILOG = """examples:
  python launch/verify_resume.py --config configs/demo/pretrain.yaml
  python launch/verify_resume.py --config configs/pretrain/hornet_large_gf_in22k.yaml --ranks 8 --other-ranks 4
  python launch/verify_resume.py --config configs/demo/segmentation.yaml
  python launch/verify_resume.py --config my.yaml --ranks 16 --other-ranks 8 \\
      --launcher 'srun --ntasks={ranks} --kill-on-bad-exit=1 {python}'

The config's schedule is shortened to --steps (a quarter of them warm-up), evaluation is left out, and a checkpoint is
written every quarter; all else is as in a real run. The runs and the report stay in --folder.
"""


def main() -> None:
    """Read the command line, then run and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="of a run; see `hornet configs`")
    parser.add_argument("--ranks", type=int, help="ranks (default: the GPUs here, 2 on a CPU)")
    parser.add_argument("--other-ranks", type=int, help="of the third run (default: half, or 2)")
    parser.add_argument("--steps", type=read_steps, default=20, help="optimizer steps of each run (default 20)")
    parser.add_argument("--folder", type=Path, default=Path("runs/verify_resume"), help="where the runs are kept")
    parser.add_argument(
        "--launcher",
        default=TORCHRUN,
        help="what starts {ranks} ranks of a script; {python} is this interpreter (default: torchrun on this node)",
    )
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="replace a key of the config; dots nest"
    )
    options = parser.parse_intermixed_args()

    def run() -> None:
        script, config = read_config(options.config, options.overrides, checks=INPUTS)
        sys.exit(0 if certify(script, config, options) else 1)

    exit_on_bad_input(run)


def read_steps(text: str) -> int:
    """Read a number of steps that leaves room for checkpoints; raises argparse.ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 8:
        raise argparse.ArgumentTypeError(f"must be at least 8, to be killed between checkpoints, not {text}")
    return int(text)


def read_config(path: Path, overrides: list[str], *, checks: Sequence[Check] = ()) -> tuple[Script, AnyConfig]:
    """Return the script a config is for, and the config; one that leaves open what it is of is for pretraining."""
    values, problems = read_settings(find_config(path), overrides)
    stage = find_stage(values) or "pretrain"
    source = str(path)
    if stage == "dense":
        task: type[AnyConfig] = choose_class(TASKS, values, source=source)
        return Script(stage), build_config(task, values, source=source, problems=problems, checks=checks)
    if stage == "finetune":
        from finetune.config import FinetuneConfig

        return Script(stage), build_config(FinetuneConfig, values, source=source, problems=problems, checks=checks)
    from pretrain.config import PretrainConfig

    return Script(stage), build_config(PretrainConfig, values, source=source, problems=problems, checks=checks)


def shorten(config: AnyConfig, *, num_steps: int, folder: Path) -> AnyConfig:
    """Return the config of a run of `num_steps` that is checkpointed every quarter."""
    return replace(
        config,
        run=replace(config.run, root=folder, branch_from=None),
        evaluation=None,
        schedule=_shorten_schedule(config, num_steps=num_steps),
        cadence=replace(
            config.cadence, log_every_steps=1, save_every_steps=max(1, num_steps // 4), evaluate_every_steps=None
        ),
        checkpoints=replace(config.checkpoints, best=False),
    )


def _shorten_schedule(config: AnyConfig, *, num_steps: int) -> Any:
    """Return a schedule of which a quarter is warm-up; a staircase keeps the steps that still fall into it."""
    schedule = config.schedule
    if isinstance(schedule, StepScheduleConfig):
        drops = {step * num_steps // schedule.num_steps for step in schedule.drop_steps} - {0}
        return replace(schedule, num_steps=num_steps, warmup_steps=num_steps // 4, drop_steps=tuple(sorted(drops)))
    data = config.data
    num_samples = open_shards(data.shards, data.split, remote=data.remote, index=data.index).num_samples
    num_epochs = num_steps / (num_samples // config.global_batch_size)
    warmup_share = min(0.25, 1 - schedule.cooldown_share) if schedule.shape == "wsd" else 0.25
    return replace(schedule, num_epochs=num_epochs, warmup_epochs=num_epochs * warmup_share)


def certify(script: Script, config: AnyConfig, options: Any) -> bool:
    """Run the attempts, print and write the report, and return whether all agrees. Raises UserError on bad input."""
    from hornet.drills.certificate import Attempt, compare, count_devices, format_table

    num_ranks = options.ranks or count_devices()
    other_ranks = options.other_ranks or (num_ranks // 2 if num_ranks > 1 else 2)
    if isinstance(config.micro_batch_size, int):
        for tried in (num_ranks, other_ranks):
            check_division(config.global_batch_size, num_ranks=tried, micro_batch_size=config.micro_batch_size)
    folder = options.folder.absolute()
    if folder.exists() and not (folder / "certificate.yaml").exists():
        raise UserError(f"{folder}: holds something else; choose another --folder")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    path = folder / "certificate.yaml"
    write_text(path, to_yaml(shorten(config, num_steps=options.steps, folder=folder)))
    kill_after = options.steps // 4 * 2 + 1  # at least a step beyond the second checkpoint
    attempts = [
        Attempt(name="undisturbed", num_ranks=num_ranks, kill_after=None),
        Attempt(name="killed", num_ranks=num_ranks, kill_after=kill_after),
        Attempt(name="moved", num_ranks=num_ranks, kill_after=kill_after, resumed_ranks=other_ranks),
    ]
    for attempt in attempts:
        attempt.run(script, path, folder=folder, launcher=options.launcher)
    rows = [compare(folder / "undisturbed", folder / attempt.name, attempt) for attempt in attempts[1:]]
    write_json(folder / "report.json", {"steps": options.steps, "comparisons": rows})
    print_to_pipe(format_table(rows, num_steps=options.steps))
    print_to_pipe(f"\nruns and report: {folder}")
    return all(row["is_the_same_run"] for row in rows)


if __name__ == "__main__":
    main()
