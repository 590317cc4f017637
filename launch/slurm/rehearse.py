"""Try what can be tried of a job here, before it queues: its data and run directory, two steps, a signal, a resume.

The training is the real one, on this machine's CPUs over gloo, with the config's network and shards and small batches,
in RUN.rehearsal, which is removed at the end. Exit code 0 if all went well, 1 if not.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hornet.cli import BAD_INPUT, print_to_pipe
from hornet.cli.verify_resume import read_config
from hornet.config import ConfigError
from hornet.errors import UserError
from hornet.stages.config import StageConfig

if TYPE_CHECKING:
    from hornet.drills.rehearsal import Finding


def main() -> None:
    """Print a line for each finding, as they come."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="of a pretraining or finetuning run")
    parser.add_argument(
        "--ranks", type=read_count, required=True, help="ranks of the job, which the data is divided over"
    )
    parser.add_argument("--processes", type=read_count, default=2, help="processes that train here (default 2)")
    parser.add_argument("--seconds", type=float, default=1800, help="longest wait for each part (default 1800)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="replace a key of the config; dots nest")
    options = parser.parse_intermixed_args()
    is_good = True
    for finding in try_all(options):
        is_good &= finding.is_good
        print_to_pipe(f"{'ok' if finding.is_good else 'NO':4}{finding.name:12}{finding.text}")
    sys.exit(0 if is_good else 1)


def read_count(text: str) -> int:
    """Read a number of at least 1; raises argparse.ArgumentTypeError."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return int(text)


def try_all(options: argparse.Namespace) -> "Iterator[Finding]":
    """Yield what is found; what ends one part does not keep the next from being tried."""
    try:
        script, config = read_config(options.config, options.overrides)
        if not isinstance(config, StageConfig):
            raise ConfigError(
                str(options.config),
                ["is for launch/dense.py, which is not rehearsed; launch/verify_resume.py tries it"],
            )
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(BAD_INPUT)
    from hornet.drills.rehearsal import Finding, probe_data, rehearse  # torch takes seconds

    is_readable = True
    try:
        yield from probe_data(config, num_ranks=options.ranks)
    except UserError as error:
        is_readable = False
        yield Finding("data", False, str(error))
    start = getattr(config, "start", None)
    if start is not None and not start.from_.exists():
        yield Finding("two steps", True, f"not tried: start.from={start.from_} is not there yet")
    elif is_readable:
        try:
            yield from rehearse(
                script, config, num_ranks=options.ranks, num_processes=options.processes, seconds=options.seconds
            )
        except UserError as error:
            yield Finding("rehearsal", False, str(error))


if __name__ == "__main__":
    main()
