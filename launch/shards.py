"""Make, index and describe sets of shards: webdataset tars, an index, a manifest.

Some uses:
  python launch/shards.py build photos/train shards/photos --split train
  python launch/shards.py build photos/val shards/photos --split validation
  python launch/shards.py index imagenet-22k-wds --classes imagenet22k_synsets.txt
  python launch/shards.py info shards/photos
"""

import argparse
import sys
from pathlib import Path

# Run as a script, Python puts launch/ first on the path, where `import pretrain` would find launch/pretrain.py.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from hornet.command_line import exit_on_bad_input
from hornet.data.manifest import read_manifest
from hornet.data.prepare.existing_tars import IndexPlan, index_folder
from hornet.data.prepare.image_folder import BuildPlan, build_from_folder
from hornet.data.prepare.summary import describe_set


def main() -> None:
    """Read the command line and do what it asks for."""
    options = _make_parser().parse_args()
    exit_on_bad_input(lambda: options.run(options))


def build(options: argparse.Namespace) -> None:
    """Build a split from a folder of class folders."""
    plan = BuildPlan(
        source=options.source,
        output=options.output,
        name=options.name or options.output.resolve().name,
        split=options.split,
        samples_per_shard=options.samples_per_shard,
        seed=options.seed,
    )
    report = build_from_folder(plan)
    print(describe_set(report.manifest))
    if report.dropped:
        path, reason = report.dropped[0]
        print(f"dropped      {len(report.dropped)} files, listed in {report.dropped_list}; the first: {path}: {reason}")
    else:
        print("dropped      0 files")


def index(options: argparse.Namespace) -> None:
    """Index tars that are there."""
    plan = IndexPlan(
        folder=options.folder,
        output=options.output or options.folder,
        split=options.split,
        pattern=options.pattern,
        classes=options.classes,
        name=options.name,
    )
    report = index_folder(plan)
    print(describe_set(report.manifest))
    for split in report.left_out:
        print(f"left out     {split}: its labels are not in .cls members")
    if report.manifest.label_space.name == "numbered":
        print("note         class names are not known, so the classes are numbered; give them with --classes FILE")


def info(options: argparse.Namespace) -> None:
    """Describe a set."""
    print(describe_set(read_manifest(options.folder)))


def _add_build(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("build", help="from a folder with a folder of images for each class")
    command.add_argument(
        "source", type=Path, metavar="SOURCE_FOLDER", help="holds CLASS/NAME.jpg (png, webp, gif, bmp)"
    )
    command.add_argument("output", type=Path, metavar="OUTPUT", help="folder of the set; may hold other splits of it")
    command.add_argument("--split", default="train", help="name of the split (default train)")
    command.add_argument("--samples-per-shard", type=int, default=3000, metavar="N", help="default 3000")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of the shuffle over all files (default 0)")
    command.add_argument("--name", help="name of the set (default: the output folder's)")
    command.set_defaults(run=build)


def _add_index(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("index", help="tars that are there: check every byte, write index and manifest")
    command.add_argument(
        "folder", type=Path, metavar="FOLDER", help="holds the tars, and timm's _info.json if there is one"
    )
    command.add_argument(
        "--output", type=Path, metavar="FOLDER", help="for index and manifest (default: beside the tars)"
    )
    command.add_argument("--split", help="only this split (default: all in _info.json, else train)")
    command.add_argument("--pattern", default="*.tar", help="tars of a split that no _info.json lists (default *.tar)")
    command.add_argument("--classes", type=Path, metavar="FILE", help="class names, one a line (default: numbered)")
    command.add_argument("--name", help="name of the set (default: that of _info.json, else the folder's)")
    command.set_defaults(run=index)


def _add_info(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("info", help="describe a set")
    command.add_argument("folder", type=Path, metavar="FOLDER", help="holds the _info.json")
    command.set_defaults(run=info)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for add in (_add_build, _add_index, _add_info):
        add(commands)
    return parser


if __name__ == "__main__":
    main()
