"""A study of many runs: planned, run, looked at, fitted, shown. Each command can be given again and again."""

import argparse
import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hornet.cli import print_to_pipe
from hornet.cli.command_line import INTERRUPTED, Parser, exit_on_bad_input, positive, read_seconds
from hornet.cli.configs import find_config
from hornet.signals import catch_signals, heard_signal, ignore_signals

if TYPE_CHECKING:
    from scaling.cells import Cell
    from scaling.config import Study
    from scaling.results import Result

SOME_FAILED = 1

EPILOG = """examples:
  python launch/scaling.py plan --config configs/scaling/demo.yaml --measure
  python launch/scaling.py run --config configs/scaling/demo.yaml
  python launch/scaling.py status --config configs/scaling/demo.yaml
  python launch/scaling.py report --config configs/scaling/demo.yaml

What stands in a study's config, and what is written: docs/scaling.md."""


def main() -> None:
    """Read the command line and do what it asks for."""
    parser = Parser(description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for name, function, text in COMMANDS:
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.set_defaults(run=function)
        if name == "paper":
            continue
        command.add_argument("--config", type=Path, required=True, metavar="FILE", help="of the study; docs/scaling.md")
        command.add_argument(
            "overrides", nargs="*", default=[], metavar="key=value", help="replace a key of the study's config"
        )
        if name in ("plan", "run"):
            command.add_argument("--budget", type=read_seconds, metavar="TIME", help="such as 90min, 2h, 1.5d")
        if name == "plan":
            command.add_argument("--measure", action="store_true", help="time a few steps of each network here")
            command.add_argument("--gpu", metavar="KIND", help="cost on GPUs of this kind (launch/plan.py lists them)")
            command.add_argument("--gpus", type=positive(int), metavar="N", help="of a run, with --gpu (default 8)")
        if name == "run":
            command.add_argument("--slurm", action="store_true", help="submit job arrays instead of running here")
            command.add_argument(
                "--sbatch", action="append", default=[], metavar="OPTION", help="with --slurm: --sbatch=--partition=gpu"
            )
    options = parser.parse_args()
    refuse_idle_options(parser, options)
    exit_on_bad_input(lambda: options.run(options))


def refuse_idle_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with a sentence on an option that would do nothing beside the others."""
    given = vars(options)
    if given.get("gpus") is not None and given["gpu"] is None:
        parser.error("--gpus: says how many of --gpu KIND; give that too")
    if given.get("measure") and given["gpu"] is not None:
        parser.error("--measure: times this machine, and --gpu asks for costs on another; leave one of the two out")
    if given.get("sbatch") and not given["slurm"]:
        parser.error("--sbatch: is for --slurm; give that too")


def plan(options: argparse.Namespace) -> None:
    """Print the plan, and write it into the study's folder."""
    from scaling.costs import estimate, plan_on_gpus
    from scaling.networks import describe_networks
    from scaling.plan import format_plan, make_plan, write_plan
    from scaling.state import look
    from scaling.timing import find_memory_problems, measure

    study, cells = prepare(options)
    networks = describe_networks(cells, study.folder)
    if options.measure:
        from scaling.pool import hold_study, run_together

        with hold_study(study):
            measure(study, cells, run_together=run_together)
    standings = look(study, cells)
    problems: list[str] = []
    if options.gpu:
        costs, problems = plan_on_gpus(cells, kind=options.gpu, num_gpus=options.gpus or 8)
    else:
        costs = estimate(study, cells, networks, standings)
        problems = list(find_memory_problems(study, cells))
    made = make_plan(
        study, cells, networks=networks, standings=standings, costs=costs, budget=options.budget, problems=problems,
        slots=1 if options.gpu else study.config.execution.num_slots,
    )  # fmt: skip
    write_plan(study, made)
    print_to_pipe(f"{format_plan(made)}\nwritten to {study.folder / 'plan.json'}")
    sys.exit(SOME_FAILED if problems else 0)


def run(options: argparse.Namespace) -> None:
    """Bring the study to its end on this machine, or hand it to SLURM."""
    catch_signals()
    from hornet.quantities import format_seconds
    from scaling.analysis import foretell
    from scaling.costs import estimate
    from scaling.expansion import require_sets
    from scaling.ledger import write_planned
    from scaling.networks import describe_networks
    from scaling.order import name_runs
    from scaling.plan import choose_affordable, order_runs
    from scaling.pool import Pool, hold_study
    from scaling.state import count_states, look, require_nothing_stale
    from scaling.timing import require_memory

    study, cells = prepare(options)
    require_sets(cells)
    with hold_study(study):
        standings = look(study, cells)
        require_nothing_stale(standings)
        costs = estimate(study, cells, describe_networks(cells, study.folder), standings)
        runs = [cell for cell in order_runs(cells, costs) if standings[cell.name].state != "finished"]
        if options.budget is not None:
            slots = study.config.execution.num_slots
            runs = choose_affordable(runs, costs, budget=options.budget, slots=slots, runs=name_runs(cells))
        if options.slurm:
            from scaling.slurm import submit

            print_to_pipe(submit(study, cells, runs, options=options.sbatch))
            return
        require_memory(study, cells)
        new = [cell for cell in runs if standings[cell.name].state == "missing"]
        write_planned(study, {cell.run: costs.get(cell.name) for cell in new})
        pool = Pool(
            study=study,
            cells=cells,
            seconds={name: cost.seconds for name, cost in costs.items()},
            ask_to_stop=heard_signal,
            foretell=functools.cache(lambda: foretell(study, cells)),  # nothing that it looks at changes any more
        )
        started = time.monotonic()
        asked = pool.run(runs)
        ignore_signals()  # a late one would turn the exit code into its own
        states = count_states(look(study, cells).values())
        print_to_pipe(f"{study.folder}: {states}; {format_seconds(time.monotonic() - started)}")
    sys.exit(INTERRUPTED if asked else SOME_FAILED if pool.failed else 0)


def status(options: argparse.Namespace) -> None:
    """Print how the study stands."""
    from hornet.runs.lock import Lock
    from scaling.ledger import compare, read_ledger
    from scaling.state import count_states, list_runs, look

    study, cells = read(options)
    standings = look(study, cells)
    runs = list_runs(cells)
    owner = Lock(study.folder).find_owner() if study.folder.exists() else None
    lines = [f"{study.folder}: {count_states(standings[cell.name] for cell in runs)}"]
    lines += [f"{owner} is running it" if owner else "nobody is running it"]
    ledger = read_ledger(study)
    ended = [ledger[cell.run] for cell in runs if cell.run in ledger and standings[cell.name].state == "finished"]
    known = [(entry.planned, entry.took) for entry in ended if entry.planned and entry.took]
    lines += [compare(known)] if known else []
    for state in ("started", "failed", "stale", "missing"):
        for cell in runs:
            standing = standings[cell.name]
            if standing.state == state and (standing.reason or state != "missing"):
                lines.append(f"  {state:8} {cell.name}" + (f": {standing.reason}" if standing.reason else ""))
    print_to_pipe("\n".join(lines))


def pilot(options: argparse.Namespace) -> None:
    """Print what the runs of pilots gave, and the best as words for `per`."""
    from scaling.pilot import describe_pilot
    from scaling.results import gather_results

    study, cells = read(options)
    tried = {cell.name: cell.tried for cell in cells if cell.tried is not None}
    groups = [[cell for cell in cells if cell.group == group and cell.name in tried] for group in study.groups]
    results = [result for group in groups for result in gather_results(study, group)]  # pilots may share runs
    print_to_pipe(describe_pilot(results, tried, metric=study.config.measure.metric))


def collect(options: argparse.Namespace) -> None:
    """Write cells.csv, a row for each run, and say how many have a result."""
    from scaling.results import FILE, gather_results, write_results

    study, cells = read(options)
    results = gather_results(study, cells)
    write_results(study, results)
    print_to_pipe(
        f"{len(results)} runs, {sum(each.value is not None for each in results)} with a result: {study.folder / FILE}"
    )


def fit(options: argparse.Namespace) -> None:
    """Write fits.json, and predictions.json of what is held out."""
    from scaling.analysis import fit_study, write_fits, write_predictions
    from scaling.families import compare_families, describe

    study, results = gather(options)
    fits = fit_study(study, results)
    comparisons = compare_families(study, fits, results)
    write_fits(study, fits, [found.as_json() for found in comparisons])
    problem = write_predictions(study, fits, results)
    lines = []
    for found in fits:
        name = found.family or "all runs"
        if found.fit is None:
            lines.append(f"{name}: no law")
        else:
            numbers = ", ".join(f"{key} {value:.4g}" for key, value in found.fit.parameters.items())
            lines.append(f"{name}: {found.fit.law.name}({', '.join(found.fit.law.factors)}): {numbers}")
            lines += [f"  {flag.code}: {flag.text}" for flag in found.fit.flags]
        lines += [f"  {remark}" for remark in found.remarks]
        lines += [f"  not in this fit: {text}" for text in found.without_result]
    for compared in comparisons:
        lines += ["{1} against {0}:".format(*compared.families), *(f"  {text}" for text in describe(compared))]
    lines += [f"not foretold: {problem}"] if problem else []
    print_to_pipe("\n".join([*lines, f"written to {study.folder / 'fits.json'}"]))


def report(options: argparse.Namespace) -> None:
    """Write the page, its Markdown, figures, cells.csv and fits.json."""
    from scaling.analysis import fit_study, judge_predictions, write_fits
    from scaling.budgets import find_budgets, plot_budgets
    from scaling.charts import save_charts
    from scaling.families import compare_families
    from scaling.figures import make_figures
    from scaling.page import list_parts, write_html, write_markdown
    from scaling.results import write_results

    study, results = gather(options)
    write_results(study, results)
    fits = fit_study(study, results)
    comparisons, budgets = compare_families(study, fits, results), find_budgets(results)
    write_fits(study, fits, [found.as_json() for found in comparisons])
    judged, metric = judge_predictions(study, results), study.config.measure.metric
    figures = make_figures(fits, results, metric=metric, judged=judged, study=study)
    figures += plot_budgets(budgets, metric=metric)
    remark = save_charts(figures, study.folder / "figures")
    parts = list_parts(study, fits, results, judged, comparisons=comparisons, budgets=budgets)
    page = write_html(study, parts, figures, results)
    write_markdown(study, parts, figures, results, has_files=remark is None)
    print_to_pipe("\n".join([*([remark] if remark else []), str(page)]))


def paper(options: argparse.Namespace) -> None:
    """Print the published tables: sizes and costs computed here, accuracies where a run is, what the others take."""
    from scaling.paper import format_rows, make_row, read_rows

    print_to_pipe(format_rows([make_row(row, find_config=find_config) for row in read_rows()]))


def gather(options: argparse.Namespace) -> "tuple[Study, list[Result]]":
    """Read the study and what its runs gave, but for those of pilots."""
    from scaling.results import gather_results

    study, cells = read(options)
    return study, gather_results(study, [cell for cell in cells if cell.tried is None])


def read(options: argparse.Namespace) -> "tuple[Study, list[Cell]]":
    """Read the study and expand it; raises UserError with all that is wrong."""
    from scaling.config import read_study
    from scaling.expansion import expand

    study = read_study(find_config(options.config), options.overrides)
    return study, expand(study, find_base=find_config)


def prepare(options: argparse.Namespace) -> "tuple[Study, list[Cell]]":
    """As `read`, and make the study's folder and the shares of sets that are not here yet."""
    from scaling.shares import make_shares
    from scaling.state import require_folder

    study, cells = read(options)
    require_folder(study)
    shares = [share for share in dict.fromkeys(cell.share for cell in cells) if share is not None]
    make_shares([share for share in shares if (share.source / "_info.json").exists()])
    return read(options) if any(cell.digest is None for cell in cells) else (study, cells)


COMMANDS: tuple[tuple[str, Callable[[argparse.Namespace], None], str], ...] = (
    ("plan", plan, "print each run's size, data, operations, state and cost, in the order that tells most"),
    ("run", run, "start the runs that are not finished, or go on with them"),
    ("status", status, "print how the runs stand"),
    ("pilot", pilot, "say which of the settings that pilots tried was best, in words for `per`"),
    ("collect", collect, "write what the runs gave into cells.csv"),
    ("fit", fit, "fit laws, and foretell what is held out"),
    ("report", report, "write one page, its Markdown and figures"),
    ("paper", paper, "print the published tables beside what is computed and was run here"),
)


if __name__ == "__main__":
    main()
