"""`subset`, `duplicates`, `labels`: choosing samples, and what their labels mean."""

import argparse
from pathlib import Path

from hornet.cli import print_to_pipe
from hornet.cli.shard_commands.parsing import Commands
from hornet.pages.set.pairs import write_pairs_page
from hornet.shards.label_report import report_labels
from hornet.shards.processes import count_cores
from hornet.shards.summary import describe_set
from hornet.shards.views.duplicates import (
    DEFAULT_DISTANCE,
    DuplicatesPlan,
    describe_duplicates,
    find_duplicates,
)
from hornet.shards.views.subset import SubsetPlan, describe_subset, make_subset


def subset(options: argparse.Namespace) -> None:
    """Choose samples of a set without copying them."""
    values = {key: value for key, value in vars(options).items() if key != "run"}
    report = make_subset(SubsetPlan(**values | {"name": options.name or options.output.resolve().name}))
    print_to_pipe(f"{describe_set(report.manifest)}\n{describe_subset(report)}")


def duplicates(options: argparse.Namespace) -> None:
    """List the samples of one split that look like one of another."""
    values = {key: value for key, value in vars(options).items() if key not in ("run", "page")}
    report = find_duplicates(DuplicatesPlan(**values | {"num_workers": options.num_workers or count_cores()}))
    print_to_pipe(f"{describe_duplicates(report)}\nlisted in    {options.output}")
    if options.page:
        write_pairs_page(report, options.page)


def labels(options: argparse.Namespace) -> None:
    """Print the known label spaces, the classes of one, or the map between two."""
    print_to_pipe(report_labels(options.spaces, is_plain=options.plain, map_file=options.map))


def add_subset(commands: Commands) -> None:
    """Add `subset` and its options to the commands."""
    command = commands.add_parser("subset", help="a smaller set of the same tars: an index and a manifest, no copies")
    command.add_argument("source", type=Path, metavar="SOURCE", help="folder of a set")
    command.add_argument("output", type=Path, metavar="OUTPUT", help="folder for the new set")
    command.add_argument("--name", help="name of the new set (default: the output folder's)")
    command.add_argument("--split", help="carry and reduce only this (default: carry all, reduce train)")
    command.add_argument("--fraction", type=float, metavar="F", help="share of each class, such as 0.1; shares nest")
    command.add_argument("--per-class", type=int, metavar="N", help="samples of each class")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of the draw (default 0)")
    command.add_argument("--allow-empty-classes", action="store_true", help="do not keep one sample of each class")
    command.add_argument("--classes", metavar="NAME|SET|FILE", help="label space of the new set, for all its splits")
    command.add_argument("--exclude", type=Path, metavar="FILE", help="JSON lines: shard and offset, or key")
    command.add_argument("--allow-unmatched", action="store_true", help="lines of --exclude may name no sample")
    command.set_defaults(run=subset)


def add_duplicates(commands: Commands) -> None:
    """Add `duplicates` and its options to the commands."""
    command = commands.add_parser("duplicates", help="training images that look like a validation image")
    command.add_argument("train", type=Path, metavar="TRAIN_SET", help="folder of the set to list samples of")
    command.add_argument("validation", type=Path, metavar="VALIDATION_SET", help="folder of the set to keep apart")
    command.add_argument("--train-split", default="train", metavar="NAME", help="default train")
    command.add_argument("--validation-split", default="validation", metavar="NAME", help="default validation")
    command.add_argument(
        "--output", type=Path, required=True, metavar="FILE.jsonl", help="for subset --exclude; hashes stay beside it"
    )
    command.add_argument(
        "--distance", type=int, default=DEFAULT_DISTANCE, metavar="BITS", help=f"of 256 (default {DEFAULT_DISTANCE})"
    )
    command.add_argument("--workers", dest="num_workers", type=int, metavar="N", help="processes (default: one a core)")
    command.add_argument("--page", type=Path, metavar="FILE.html", help="show up to 100 pairs side by side")
    command.set_defaults(run=duplicates)


def add_labels(commands: Commands) -> None:
    """Add `labels` and its options to the commands."""
    command = commands.add_parser("labels", help="known label spaces, the classes of one, or the map between two")
    command.add_argument("spaces", nargs="*", metavar="NAME|FILE", help="known, a class list, an _info.json, a set")
    command.add_argument("--plain", action="store_true", help="print nothing but the class names, in order")
    command.add_argument("--map", type=Path, metavar="FILE", help="write the first's label of each class of the second")
    command.set_defaults(run=labels)
