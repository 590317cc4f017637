"""Write a run's report: one HTML page with its curves, times, restarts, dropped steps, images, config."""

import argparse
import sys
import time
from pathlib import Path

from hornet.cli import print_to_pipe
from hornet.cli.command_line import exit_on_bad_input
from hornet.pages.run.page import write_report

EPILOG = """examples:
  python launch/report.py runs/tiny                              writes runs/tiny/report.html
  python launch/report.py runs/tiny --output /var/www/tiny.html

The page is one file without anything from the network: open it, mail it, print it. The run may be going on, have
failed, or have lost files: the page says so. Give the same command again for a newer page."""


def main() -> None:
    """Read the command line, then write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to write the page (default RUN/report.html)")
    options = parser.parse_args()
    exit_on_bad_input(lambda: report(options.run, options.output or options.run / "report.html"))


def report(run: Path, output: Path) -> None:
    """Write the page and say where it is."""
    for problem in write_report(run, output, now=time.time()):
        print(f"warning: {problem}", file=sys.stderr)
    print_to_pipe(f"{output}: {output.stat().st_size / 1000:,.0f} kB")


if __name__ == "__main__":
    main()
