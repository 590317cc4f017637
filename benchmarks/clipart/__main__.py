"""Paired experiments on openclipart: is pretraining worth its compute, in classification and under a segmenter?

  python -m benchmarks.clipart sets --tree FOLDER   fine classes, coarse classes, scenes: minutes on two cores
  python -m benchmarks.clipart plan                 FLOPs and the commands, without running them
  python -m benchmarks.clipart run                  all runs; stopped, the same command goes on
  python -m benchmarks.clipart report               tables, results.json and figure of what has finished

docs/results.md says what is compared with what.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

from benchmarks.clipart.pool import Pool
from benchmarks.clipart.report import read_results, write_report
from benchmarks.clipart.runs import Place, Plan, compute_flops, hold_plan, list_runs, read_plan
from benchmarks.clipart.sets import make_sets
from hornet.cli.command_line import exit_on_bad_input
from hornet.cli.openclipart import find_tree
from hornet.signals import catch_signals, heard_signal


def main() -> None:
    """Read the command line and do one of the four."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/results"), help="of the sets (data/results)")
    parser.add_argument("--runs", type=Path, default=Path("runs/results"), help="of the runs (runs/results)")
    commands = parser.add_subparsers(dest="command", required=True)
    sets = commands.add_parser("sets", help="write the three sets")
    sets.add_argument("--tree", type=Path, metavar="FOLDER", help="unpacked usr/share/openclipart/png (fetched)")
    for name, help_text in (("plan", "show FLOPs and commands"), ("run", "bring all runs to their end")):
        command = commands.add_parser(name, help=help_text)
        for field in ("pretrain", "finetune", "dense"):
            default = getattr(Plan, f"{field}_steps")
            command.add_argument(f"--{field}-steps", type=int, default=default, metavar="N", help=f"({default})")
        command.add_argument("--model", default=Plan.model, metavar="NAME", help=f"network and backbone ({Plan.model})")
        command.add_argument("--seeds", type=int, nargs="+", default=Plan.seeds, metavar="N", help="(0 1 2)")
        command.add_argument("--batch-size", type=int, default=Plan.batch_size, metavar="N", help="of classification")
        command.add_argument("--dense-batch-size", type=int, default=Plan.dense_batch_size, metavar="N")
        command.add_argument("--workers", type=int, default=1, metavar="N", help="data workers of each run (1)")
    command.add_argument("--slots", type=int, default=2, metavar="N", help="runs at a time (2)")
    command.add_argument("--cpu", action="store_true", help="hide GPUs from the runs")
    for reporting in (command, commands.add_parser("report", help="write the tables of what has finished")):
        reporting.add_argument("--output", type=Path, default=Path("docs/results"), help="(docs/results)")
    options = parser.parse_args()
    catch_signals()
    exit_on_bad_input(lambda: _obey(options))


def _obey(options: argparse.Namespace) -> None:
    place = Place(data=options.data, runs=options.runs)
    if options.command == "sets":
        print(make_sets(options.tree or find_tree(place.data, None), place.data))
    elif options.command == "report":
        _report(place, options.output)
    elif options.command == "plan":
        plan = _read_plan(options)
        compute = compute_flops(plan, place)
        print(json.dumps({"scratch_steps": compute.scratch_steps, "flops": compute.count(plan)}, indent=1))
        for run in list_runs(plan, compute, place, num_workers=options.workers):
            print("python", *run.words)
    else:
        _run(options, place)


def _read_plan(options: argparse.Namespace) -> Plan:
    return Plan(
        model=options.model,
        seeds=tuple(options.seeds),
        pretrain_steps=options.pretrain_steps,
        finetune_steps=options.finetune_steps,
        dense_steps=options.dense_steps,
        batch_size=options.batch_size,
        dense_batch_size=options.dense_batch_size,
    )


def _run(options: argparse.Namespace, place: Place) -> None:
    started = time.monotonic()
    plan = _read_plan(options)
    compute = hold_plan(plan, place)
    print(f"from scratch: {compute.scratch_steps} steps; FLOPs {compute.count(plan)}", flush=True)
    settings = {"OMP_NUM_THREADS": "1"}
    settings |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"} if options.cpu else {}
    pool = Pool(logs=place.runs / "logs", num_slots=options.slots, settings=settings, ask_to_stop=heard_signal)
    asked = pool.run(list_runs(plan, compute, place, num_workers=options.workers))
    for name, reason in pool.failed.items():
        print(f"failed {name}: {reason}")
    print(f"{time.monotonic() - started:.0f} s", flush=True)
    _report(place, options.output)
    sys.exit(1 if asked or pool.failed else 0)


def _report(place: Place, output: Path) -> None:
    plan, compute = read_plan(place.runs)
    results = read_results(plan, compute, place.runs)
    summary = place.data / "sets.json"
    write_report(results, output, sets=json.loads(summary.read_text()) if summary.exists() else {})
    try:
        from benchmarks.clipart.figure import render_figure

        render_figure(results, output / "figure.png")
    except ImportError as error:
        print(f"no figure: {error}; `report` makes it where matplotlib is")
    for seed in plan.seeds[:1]:
        for path in sorted(place.runs.glob(f"dense-*-{seed}/images/predictions_raw_*.png")):
            shutil.copy(path, output / f"{path.parents[1].name}.png")
    print((output / "tables.md").read_text())


if __name__ == "__main__":
    main()
