"""What every entry script's command line shares: --config, key=value overrides, --local_rank, errors that exit 2."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from hornet.config import ConfigError, describe_fields, load_config
from hornet.errors import UserError
from hornet.world import read_world

Config = TypeVar("Config")

BAD_INPUT = 2
INTERRUPTED = 130  # 128 and the number of SIGINT, as shells have it


def read_command_line(
    config_class: type[Config], *, description: str, example: str, arguments: Sequence[str] | None = None
) -> Config:
    """Parse `--config FILE key=value ...` into a config; on bad input print every problem and exit 2.

    `--local_rank` is accepted and ignored: the DeepSpeed launcher inserts it, and World reads the environment.
    """
    parser = argparse.ArgumentParser(
        description=description,
        epilog=f"example:\n  {example}\n\nkeys of the config:\n{describe_fields(config_class)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML file; see configs/")
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="replace a key of the config; dots nest")
    # Intermixed: the DeepSpeed launcher puts --local_rank before our arguments, users put key=value anywhere.
    options = parser.parse_intermixed_args(arguments)
    try:
        return load_config(config_class, path=options.config, overrides=options.overrides)
    except ConfigError as error:
        if read_world().is_main:  # every rank finds the same problems: say them once
            print(error, file=sys.stderr)
        sys.exit(BAD_INPUT)


def exit_on_bad_input(run: Callable[[], None]) -> None:
    """Call `run`; a UserError is shown without a traceback, and ends the process with 2, Ctrl-C with 130."""
    try:
        run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


def print_to_pipe(text: str) -> None:
    """Print text that may go to a program such as `head`, which leaves before the end."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
