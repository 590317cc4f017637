"""Weights made of finished runs: the mean of checkpoints, a greedy soup, points between start and end."""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.config import AverageConfig
from hornet.cli import print_to_pipe
from hornet.cli.checks import EVALUATION
from hornet.cli.command_line import Parser, exit_on_bad_input
from hornet.cli.evaluate_dense import require_classifier
from hornet.cli.sources import require_source
from hornet.config import Check, ConfigError, build_config, describe_fields
from hornet.durable import replace_non_finite
from hornet.overrides import apply_overrides
from hornet.runs.begun import CONFIG_NAME, find_run, read_run_config
from hornet.stages.preprocessing import take_from_run
from hornet.world import read_world

EXPECTED = "a run directory, or a checkpoint in one"

EPILOG = f"""examples:
  python launch/average.py newest runs/demo/finetune count=3
  python launch/average.py best runs/demo/finetune count=3 weights=ema
  python launch/average.py soup runs/a runs/b runs/c output=runs/soup
  python launch/average.py interpolate runs/demo/finetune alphas=[0,0.25,0.5,0.75,1]
  torchrun --nproc_per_node 8 launch/average.py soup runs/a runs/b

newest    the mean of the newest checkpoints of a run
best      the mean of those checkpoints that do best by themselves; all that the run has kept are tried
soup      from the best run to the worst, each joins the mean if the mean does at least as well with it
          (Wortsman et al. 2022, arXiv 2203.05482)
interpolate  (1 - alpha) of the weights that finetuning began with and alpha of those it ended with, as WiSE-FT
          (arXiv 2109.01903); the alpha that does best is written, of equal ones the first

All are judged on the run's own labelled set, prepared as the run does. What was chosen on a set is flattered by it:
report another set's numbers. The folder, RUN/averages/METHOD or output, is read by finetuning (start.from), evaluation
and export as a run is; average.json and average.md in it hold the table.

keys:
{describe_fields(AverageConfig)}"""


def main() -> None:
    """Read the command line, then make the weights."""
    parser = Parser(
        usage="%(prog)s [-h] [--json] {newest,best,soup,interpolate} RUN [RUN ...] [key=value ...]",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("method", choices=("newest", "best", "soup", "interpolate"), help="what to make; see below")
    parser.add_argument("sources", nargs="+", metavar="RUN", help="run directories, then key=value")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    options = parser.parse_intermixed_args()

    def run() -> None:
        config = read_config(options.method, options.sources, checks=EVALUATION)
        report(config, as_json=options.json)

    exit_on_bad_input(run)


def read_config(method: str, words: list[str], *, checks: Sequence[Check] = ()) -> AverageConfig:
    """Take the set and its preprocessing from the first run, then the overrides among the words."""
    overrides = [word for word in words if re.match(r"[a-z_.]+\+?=", word)]
    sources = [Path(word) for word in words if word not in overrides]
    if not sources:
        raise ConfigError("sources", [f"are missing; give {EXPECTED}"])
    for source in sources:
        require_source(source, expected=EXPECTED)
        require_classifier(source)
    values: dict[str, Any] = {"method": method, "sources": sources}
    run = find_run(sources[0])
    if run is None:
        raise ConfigError(str(sources[0]), [f"holds no {CONFIG_NAME}; give {EXPECTED}"])
    values |= take_from_run(read_run_config(run))
    problems = apply_overrides(values, overrides)
    return build_config(AverageConfig, values, source=str(sources[0]), problems=problems, checks=checks)


def report(config: AverageConfig, *, as_json: bool) -> None:
    """Make the weights and print the table."""
    from finetune.average import average_weights  # torch takes seconds
    from finetune.averaged import describe, format_table

    world = read_world()
    averaged = average_weights(config, world=world)
    if not world.is_main:
        return
    if as_json:
        print_to_pipe(json.dumps(replace_non_finite(describe(config, averaged)), allow_nan=False))
    else:
        print_to_pipe("\n".join([*format_table(averaged), "", f"{averaged.chosen} written to {averaged.folder}"]))


if __name__ == "__main__":
    main()
