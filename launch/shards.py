"""Make, index and describe sets of shards: webdataset tars, an index, a manifest.

Some uses:
  python launch/shards.py build photos/train shards/photos --split train
  python launch/shards.py build photos/val shards/photos --split validation
  python launch/shards.py index imagenet-22k-wds --classes imagenet-22k
  python launch/shards.py info shards/photos --page photos.html
  python launch/shards.py verify shards/photos --report findings.jsonl
  python launch/shards.py subset shards/photos shards/photos-10 --fraction 0.1
  python launch/shards.py duplicates shards/photos shards/photos --output exclude.jsonl
"""

import argparse
import sys
from pathlib import Path

# Run as a script, Python puts launch/ first on the path, where `import pretrain` would find launch/pretrain.py.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from hornet.command_line import exit_on_bad_input, print_to_pipe
from hornet.data.label_report import report_labels
from hornet.data.manifest import read_manifest
from hornet.data.prepare.build import build as build_set
from hornet.data.prepare.build_plan import BuildPlan
from hornet.data.prepare.build_report import describe_build, describe_plan
from hornet.data.prepare.duplicates import (
    DEFAULT_DISTANCE,
    DuplicatesPlan,
    describe_duplicates,
    find_duplicates,
    write_pairs_page,
)
from hornet.data.prepare.existing_tars import IndexPlan, index_folder
from hornet.data.prepare.page import write_set_page
from hornet.data.prepare.picture import PictureOptions
from hornet.data.prepare.processes import count_cores
from hornet.data.prepare.selection import Selection
from hornet.data.prepare.sources import LAYOUTS
from hornet.data.prepare.subset import SubsetPlan, describe_subset, make_subset
from hornet.data.prepare.summary import describe_set
from hornet.data.prepare.verify import VerifyPlan, describe_verification, verify_set
from hornet.data.sample_label import read_label_option

ERRORS_FOUND = 1  # bad input is 2


def main() -> None:
    """Read the command line and do what it asks for."""
    options = _make_parser().parse_args()
    exit_on_bad_input(lambda: options.run(options))


def build(options: argparse.Namespace) -> None:
    """Build a split, or say what building it would take."""
    plan = BuildPlan(
        source=options.source,
        output=options.output,
        name=options.name or options.output.resolve().name,
        split=options.split,
        layout=options.layout,
        devkit=options.devkit,
        source_split=options.source_split,
        source_labels=options.labels,
        damaged_parts=options.damaged_parts,
        classes=options.classes,
        selection=Selection(
            other_classes=options.other_classes,
            min_images_per_class=options.min_images_per_class,
            validation_per_class=options.validation_per_class,
        ),
        picture=PictureOptions(
            check=options.check,
            max_short_edge=options.max_short_edge,
            min_short_edge=options.min_short_edge,
            written_format=options.format,
            quality=options.quality,
            rewrite_all=options.rewrite_all,
            apply_orientation=options.apply_orientation,
            convert_colour=options.convert_colour,
            repair=options.repair,
        ),
        samples_per_shard=options.samples_per_shard,
        seed=options.seed,
        num_workers=options.workers,
        spool=options.spool,
    )
    print(describe_plan(plan) if options.dry_run else describe_build(build_set(plan)))


def index(options: argparse.Namespace) -> None:
    """Index tars that are there."""
    plan = IndexPlan(
        folder=options.folder,
        output=options.output,
        split=options.split,
        pattern=options.pattern,
        classes=options.classes,
        name=options.name,
        label_key=read_label_option(options.labels),
        checksums=options.checksums,
        num_workers=options.workers,
    )
    report = index_folder(plan)
    print(describe_set(report.manifest))
    for split, key in report.left_out.items():
        print(
            f"left out     {split}: its labels ({key!r} in the .json members) are of other classes; index it with "
            f"`--split {split} --output ANOTHER_FOLDER`"
        )
    if report.manifest.label_space.name == "numbered":
        print("note         class names are not known, so the classes are numbered; give them with --classes NAME|FILE")


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
    print(describe_verification(report))
    if report.num_errors:
        sys.exit(ERRORS_FOUND)


def info(options: argparse.Namespace) -> None:
    """Describe a set."""
    manifest = read_manifest(options.folder)
    print(describe_set(manifest))
    if options.page:
        write_set_page(manifest, options.page)


def subset(options: argparse.Namespace) -> None:
    """Choose samples of a set without copying them."""
    values = {key: value for key, value in vars(options).items() if key != "run"}
    report = make_subset(SubsetPlan(**values | {"name": options.name or options.output.resolve().name}))
    print(f"{describe_set(report.manifest)}\n{describe_subset(report)}")


def duplicates(options: argparse.Namespace) -> None:
    """List the samples of one split that look like one of another."""
    values = {key: value for key, value in vars(options).items() if key not in ("run", "page")}
    report = find_duplicates(DuplicatesPlan(**values | {"num_workers": options.num_workers or count_cores()}))
    print(f"{describe_duplicates(report)}\nlisted in    {options.output}")
    if options.page:
        write_pairs_page(report, options.page)


def labels(options: argparse.Namespace) -> None:
    """Print the known label spaces, the classes of one, or the map between two."""
    print_to_pipe(report_labels(options.spaces, is_plain=options.plain, map_file=options.map))


def _add_build(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    layouts = "\n".join(f"  {name:15} {text}" for name, text in LAYOUTS.items())
    command = commands.add_parser(
        "build",
        help="raw pictures, in folders or archives, to a new set",
        description="Make a split of a set from raw pictures. Stopped or killed, the same command goes on.",
        epilog=f"layouts of SOURCE:\n{layouts}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("source", type=Path, metavar="SOURCE", help="folder or archive, only read")
    command.add_argument("output", type=Path, metavar="OUTPUT", help="folder of the set; may hold other splits of it")
    command.add_argument("--dry-run", action="store_true", help="list the source and say images, bytes, shards, hours")
    command.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core)")
    command.add_argument("--spool", type=Path, metavar="FOLDER", help="for the contents of gzip and parquet sources")

    group = command.add_argument_group("the source")
    group.add_argument("--layout", choices=["auto", *LAYOUTS], default="auto", help="default: found out")
    group.add_argument("--devkit", type=Path, metavar="PATH", help="ILSVRC2012_devkit_t12(.tar.gz), for the val tar")
    group.add_argument("--source-split", metavar="NAME", help="which split of a webdataset or parquet source")
    group.add_argument("--damaged-parts", choices=["refuse", "salvage"], default="refuse", help="cut tars within")
    group.add_argument("--labels", metavar="json:KEY", help="labels of a webdataset source (default: .cls members)")

    group = command.add_argument_group("the set")
    group.add_argument("--name", help="name of the set (default: the output folder's)")
    group.add_argument("--split", default="train", help="name of the split (default train)")
    group.add_argument("--samples-per-shard", type=int, default=3000, metavar="N", help="default 3000")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of the shuffle over all pictures (default 0)")

    group = command.add_argument_group("classes")
    group.add_argument("--classes", metavar="NAME|FILE", help="label space (see `labels`; default: the source's names)")
    group.add_argument("--other-classes", choices=["refuse", "drop"], default="refuse", help="not in --classes")
    group.add_argument("--min-images-per-class", type=int, default=1, metavar="N", help="drop smaller classes")
    group.add_argument(
        "--validation-per-class", type=int, default=0, metavar="N", help="first N by name to split `validation`"
    )

    group = command.add_argument_group("pictures (default: JPEG, PNG, WebP byte for byte, GIF and BMP as PNG)")
    group.add_argument("--check", choices=["decode", "header"], default="decode", help="what is looked at (decode)")
    group.add_argument("--min-short-edge", type=int, default=1, metavar="PX", help="drop smaller pictures")
    group.add_argument("--max-short-edge", type=int, metavar="PX", help="shrink larger pictures; none is enlarged")
    group.add_argument("--format", choices=["jpeg", "png", "webp"], help="of pictures written anew")
    group.add_argument("--quality", type=int, default=90, metavar="Q", help="of JPEG and WebP written anew (90)")
    group.add_argument("--rewrite-all", action="store_true", help="write every picture anew")
    group.add_argument("--apply-orientation", action="store_true", help="turn pictures as their EXIF says")
    group.add_argument("--convert-colour", action="store_true", help="pictures with an ICC profile to sRGB")
    group.add_argument("--repair", action="store_true", help="keep what can be decoded of cut JPEGs")
    command.set_defaults(run=build)


def _add_index(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("index", help="tars that are there: check them, write index and manifest")
    command.add_argument(
        "folder", metavar="FOLDER|URL", help="holds the tars, and timm's _info.json if any; http://, s3://, ..."
    )
    command.add_argument(
        "--output", type=Path, metavar="FOLDER", help="for index and manifest (default: beside the tars)"
    )
    command.add_argument("--split", help="only this split (default: all in _info.json, else train)")
    command.add_argument("--pattern", default="*.tar", help="tars of a split that no _info.json lists (default *.tar)")
    command.add_argument("--classes", metavar="NAME|FILE", help="label space (see `labels`; default: numbered)")
    command.add_argument("--name", help="name of the set (default: that of _info.json, else the folder's)")
    command.add_argument("--labels", metavar="cls|json:KEY", help="where labels stand (default: as in _info.json)")
    command.add_argument("--checksums", action="store_true", help="read every byte, so that later damage is noticed")
    command.add_argument("--workers", type=int, metavar="N", help="tars at once (default: one a core; 32 remote ones)")
    command.set_defaults(run=index)


def _add_verify(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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


def _add_info(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("info", help="describe a set")
    command.add_argument("folder", type=Path, metavar="FOLDER", help="holds the _info.json")
    command.add_argument("--page", type=Path, metavar="FILE.html", help="write a page with charts and pictures")
    command.set_defaults(run=info)


def _add_subset(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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


def _add_duplicates(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("duplicates", help="training pictures that look like a validation picture")
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


def _add_labels(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("labels", help="known label spaces, the classes of one, or the map between two")
    command.add_argument("spaces", nargs="*", metavar="NAME|FILE", help="known, a class list, an _info.json, a set")
    command.add_argument("--plain", action="store_true", help="print nothing but the class names, in order")
    command.add_argument("--map", type=Path, metavar="FILE", help="write the first's label of each class of the second")
    command.set_defaults(run=labels)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for add in (_add_build, _add_index, _add_verify, _add_info, _add_subset, _add_duplicates, _add_labels):
        add(commands)
    return parser


if __name__ == "__main__":
    main()
