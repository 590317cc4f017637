"""`index`, `verify`, `info`: sets that are there."""

import argparse
import sys
from pathlib import Path

from hornet.cli import print_to_pipe
from hornet.cli.shard_commands.parsing import Commands
from hornet.errors import UserError
from hornet.pages.set.page import write_set_page
from hornet.shards.check.verify import VerifyPlan, describe_verification, verify_set
from hornet.shards.indexing.folder import split_pattern
from hornet.shards.indexing.index_set import DEFAULT_PATTERN, IndexPlan, index_folder
from hornet.shards.indexing.report import describe_rest
from hornet.shards.manifest import read_manifest
from hornet.shards.sample_label import read_label_option
from hornet.shards.summary import describe_set

ERRORS_FOUND = 1  # bad input is 2


def index(options: argparse.Namespace) -> None:
    """Index tars that are there."""
    folder, pattern = split_pattern(options.folder)
    if pattern and options.pattern:
        raise UserError(f"--pattern: {options.folder} names the tars already; give one of them")
    plan = IndexPlan(
        folder=folder,
        output=options.output,
        split=options.split,
        pattern=pattern or options.pattern or DEFAULT_PATTERN,
        classes=options.classes,
        name=options.name,
        label_key=read_label_option(options.labels),
        incomplete=options.incomplete,
        checksums=options.checksums,
        num_workers=options.workers,
    )
    report = index_folder(plan)
    lines = [describe_set(report.manifest), *describe_rest(report)]
    lines += [
        f"left out     {split}: its labels ({key!r} in the .json members) are of other classes; index it with "
        f"`--split {split} --output ANOTHER_FOLDER`"
        for split, key in report.left_out.items()
    ]
    if report.manifest.label_space.name == "numbered":
        lines.append(
            "note         class names are not known, so the classes are numbered; give them with --classes NAME|FILE"
        )
    print_to_pipe("\n".join(lines))


def verify(options: argparse.Namespace) -> None:
    """Check a set; ends the process with 1 if there are errors."""
    plan = VerifyPlan(
        folder=options.folder,
        split=options.split,
        num_workers=options.workers,
        report=options.report,
        decode=not options.no_decode,
        write_checksums=options.write_checksums,
    )
    report = verify_set(plan)
    print_to_pipe(describe_verification(report))
    if report.num_errors:
        sys.exit(ERRORS_FOUND)


def info(options: argparse.Namespace) -> None:
    """Print what a set has, split by split, and write its page if one is asked for."""
    manifest = read_manifest(options.folder)
    print_to_pipe(describe_set(manifest))
    if options.page:
        write_set_page(manifest, options.page)


def add_index(commands: Commands) -> None:
    """Add `index` and its options to the commands."""
    command = commands.add_parser("index", help="tars that are there: check them, write index and manifest")
    command.add_argument(
        "folder",
        metavar="FOLDER|URL",
        help="holds the tars, and timm's _info.json if any; s3://, http://, ...; or tars in it: 's3://b/t-{000..127}.tar'",
    )
    command.add_argument(
        "--output", type=Path, metavar="FOLDER", help="for index and manifest (default: beside the tars)"
    )
    command.add_argument("--split", help="only this split (default: all in _info.json, else train)")
    command.add_argument(
        "--pattern",
        action="append",
        metavar="P",
        help="tars of a split that no _info.json lists (default '*.tar'); braces and folders too; may be given again",
    )
    command.add_argument("--classes", metavar="NAME|FILE", help="label space (see `labels`; default: numbered)")
    command.add_argument("--name", help="name of the set (default: that of _info.json, else the folder's)")
    command.add_argument("--labels", metavar="cls|json:KEY", help="where labels stand (default: as in _info.json)")
    command.add_argument(
        "--incomplete",
        choices=["refuse", "skip"],
        default="refuse",
        help="samples without label (or -1 in .cls) or image, or with an image of 0 bytes: skip leaves them out",
    )
    command.add_argument("--checksums", action="store_true", help="read every byte, so that later damage is noticed")
    command.add_argument("--workers", type=int, metavar="N", help="tars at once (default: one a core; 32 remote ones)")
    command.set_defaults(run=index)


def add_verify(commands: Commands) -> None:
    """Add `verify` and its options to the commands."""
    command = commands.add_parser(
        "verify",
        help="check every tar and sample of a set",
        description="Check every tar and sample of a set. Exit status: 0 no errors, 1 errors, 2 bad input.",
    )
    command.add_argument("folder", type=Path, metavar="FOLDER", help="holds the _info.json")
    command.add_argument("--split", help="only this split (default: all, and what two of them share)")
    command.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core)")
    command.add_argument("--report", type=Path, metavar="FILE", help="JSON lines, one for each finding")
    command.add_argument("--no-decode", action="store_true", help="leave out decoding, the slowest part")
    command.add_argument(
        "--write-checksums", action="store_true", help="fill in unknown checksums; this changes the set's fingerprint"
    )
    command.set_defaults(run=verify)


def add_info(commands: Commands) -> None:
    """Add `info` and its options to the commands."""
    command = commands.add_parser("info", help="describe a set")
    command.add_argument("folder", type=Path, metavar="FOLDER", help="holds the _info.json")
    command.add_argument("--page", type=Path, metavar="FILE.html", help="write a page with charts and images")
    command.set_defaults(run=info)
