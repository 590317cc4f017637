"""What every entry script's command line shares: --config, key=value overrides, --local_rank, errors that exit 2."""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from hornet.cli import BAD_INPUT
from hornet.cli.configs import find_config, require_stage
from hornet.config import TASK, Check, ConfigError, describe_fields, load_config, read_settings
from hornet.errors import UserError
from hornet.world import read_world, report_to_launcher

Config = TypeVar("Config")

INTERRUPTED = 130  # 128 and the number of SIGINT, as shells have it

NUM_ROLLBACK_BATCHES = 200  # PaLM (arXiv 2204.02311, 5.1) left out 200 to 500 around a spike


def read_command_line(
    config_class: type[Config] | Mapping[str, type[Config]],
    *,
    stage: str,
    description: str,
    example: str,
    checks: Sequence[Check] = (),
    arguments: Sequence[str] | None = None,
) -> Config:
    """Parse `--config FILE key=value ...` into a config; on bad input print every problem, and exit 2.

    So it is where `checks` (hornet/cli/checks.py) find that what the config asks for is not there. `stage` is the
    script in launch/ that asks. Of several classes, by name, the config's `task` names one; a config without it is of
    the first.
    `--local_rank` is accepted and ignored: the DeepSpeed launcher inserts it, and World reads the environment.
    """
    parser = _Parser(
        description=description,
        epilog=f"example:\n  {example}\n\n{_describe_keys(config_class)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config",
        type=Path,
        required=True,
        metavar="FILE",
        help="YAML file; see `hornet configs`",
    )
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument(
        "--rollback",
        type=read_window,
        action="append",
        default=[],
        metavar="STEP[:NUM_BATCHES]",
        help="go on from a checkpoint before STEP without NUM_BATCHES batches from there on (default "
        f"{NUM_ROLLBACK_BATCHES}); may be given again and again, and stays true without it: adds to guard.skip_batches",
    )
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="replace a key of the config; dots nest"
    )
    # Intermixed: the DeepSpeed launcher puts --local_rank before our arguments, users put key=value anywhere.
    options = parser.parse_intermixed_args(arguments)
    try:
        overrides = [*options.overrides, *(f"guard.skip_batches+=[{list(window)}]" for window in options.rollback)]
        path = find_config(options.config)
        require_stage(read_settings(path, overrides)[0], stage, source=str(path))
        return load_config(config_class, path=path, overrides=overrides, checks=checks)
    except ConfigError as error:
        _refuse(str(error))


def _describe_keys(config_class: type[Any] | Mapping[str, type[Any]]) -> str:
    if not isinstance(config_class, Mapping):
        return f"keys of the config:\n{describe_fields(config_class)}"
    parts = (f"keys of a config with {TASK}={task}:\n{describe_fields(cls)}" for task, cls in config_class.items())
    return "\n\n".join(parts)


class Parser(argparse.ArgumentParser):
    """Names, for a word that is none of the choices, the nearest one."""

    def error(self, message: str) -> NoReturn:
        """End with 2, as argparse does."""
        super().error(propose(message))


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with the command line on one rank."""

    def error(self, message: str) -> NoReturn:
        _refuse(f"{self.format_usage()}{self.prog}: error: {propose(message)}")


def propose(message: str) -> str:
    """Add the nearest choice to argparse's sentence about an invalid one, where one is near."""
    match = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
    near = get_close_matches(match[1], re.findall(r"[\w-]+", match[2]), n=1) if match else []
    return f"{message}; did you mean {near[0]}?" if near else message


def _refuse(text: str) -> NoReturn:
    """End every rank, which has found the same: rank 0 says it, the others give it to their launcher alone."""
    report_to_launcher(text)
    if _is_main():
        print(text, file=sys.stderr, flush=True)
    sys.exit(BAD_INPUT)


def _is_main() -> bool:
    try:
        return read_world().is_main
    except UserError:  # hornet/cli/checks.py tells it
        return True


def read_window(text: str) -> tuple[int, int]:
    """Read `STEP[:NUM_BATCHES]` as a window [first, stop) of batches; raises argparse.ArgumentTypeError."""
    match = re.fullmatch(r"(\d+)(?::(\d+))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not STEP or STEP:NUM_BATCHES, as 12000:300")
    first = int(match.group(1))
    return first, first + int(match.group(2) or NUM_ROLLBACK_BATCHES)


def exit_on_bad_input(run: Callable[[], None]) -> None:
    """Call `run`; a UserError is shown without a traceback, and ends the process with 2, Ctrl-C with 130.

    A ConfigError is the same on every rank, and rank 0 says it; any other may be one rank's own. What is printed may
    name files, whose names are bytes: what the terminal has no letter for is escaped.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        run()
    except ConfigError as error:
        _refuse(str(error))
    except UserError as error:
        report_to_launcher(f"error: {error}")
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


def positive(kind: type[Any]) -> Any:
    """Return a reader of numbers above 0."""

    def read(text: str) -> Any:
        number = kind(text)
        if not number > 0:
            raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
        return number

    read.__name__ = kind.__name__  # argparse names it where the text is no number
    return read


def read_seconds(text: str) -> float:
    """Read a length of time with its unit: 45s, 90min, 2h, 1.5d."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|min|h|d)", text)
    if match is None or float(match.group(1)) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a length of time such as 90min, 2h or 1.5d")
    return float(match.group(1)) * {"s": 1, "min": 60, "h": 3600, "d": 86400}[match.group(2)]
