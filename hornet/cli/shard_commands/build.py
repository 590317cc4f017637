"""`build`: raw images to a new set."""

import argparse
from pathlib import Path

from hornet.cli import print_to_pipe
from hornet.cli.shard_commands.parsing import Commands
from hornet.shards.build.build import build as build_set
from hornet.shards.build.image import ImageOptions
from hornet.shards.build.plan import BuildPlan
from hornet.shards.build.report import describe_build, describe_plan
from hornet.shards.build.selection import Selection
from hornet.shards.build.sources import LAYOUTS


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
        annotations=options.annotations,
        image_folder=options.images,
        source_labels=options.labels,
        incomplete=options.incomplete,
        reduce_zero_label=options.reduce_zero_label,
        damaged_parts=options.damaged_parts,
        classes=options.classes,
        selection=Selection(
            other_classes=options.other_classes,
            min_images_per_class=options.min_images_per_class,
            validation_per_class=options.validation_per_class,
            validation_share=options.validation_share,
            validation_seed=options.validation_seed,
            validation_at_least=options.validation_at_least,
        ),
        image=ImageOptions(
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
    print_to_pipe(describe_plan(plan) if options.dry_run else describe_build(build_set(plan)))


def add_build(commands: Commands) -> None:
    """Add `build` and its options to the commands."""
    layouts = "\n".join(f"  {name:15} {text}" for name, text in LAYOUTS.items())
    command = commands.add_parser(
        "build",
        help="raw images, in folders or archives, to a new set",
        description="Make a split of a set from raw images. Stopped or killed, the same command goes on.",
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
    group.add_argument("--source-split", metavar="NAME", help="which split of masks, coco, webdataset or parquet")
    group.add_argument("--annotations", type=Path, metavar="FILE", help="coco: the objects' JSON, if it lies elsewhere")
    group.add_argument("--images", type=Path, metavar="FOLDER", help="coco: the images' folder, if it lies elsewhere")
    group.add_argument("--damaged-parts", choices=["refuse", "salvage"], default="refuse", help="cut tars within")
    group.add_argument("--labels", metavar="json:KEY", help="labels of a webdataset source (default: .cls members)")
    group.add_argument("--incomplete", choices=["refuse", "skip"], default="refuse", help="no label, image or mask")
    group.add_argument(
        "--reduce-zero-label", action="store_true", help="masks: 0 is no class, the first class is 1, as in ADE20K"
    )

    group = command.add_argument_group("the set")
    group.add_argument("--name", help="name of the set (default: the output folder's)")
    group.add_argument("--split", default="train", help="name of the split (default train)")
    group.add_argument("--samples-per-shard", type=int, default=3000, metavar="N", help="default 3000")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of the shuffle over all images (default 0)")

    group = command.add_argument_group("classes")
    group.add_argument("--classes", metavar="NAME|FILE", help="label space (see `labels`; default: the source's names)")
    group.add_argument("--other-classes", choices=["refuse", "drop"], default="refuse", help="not in --classes")
    group.add_argument("--min-images-per-class", type=int, default=1, metavar="N", help="drop smaller classes")
    group.add_argument(
        "--validation-per-class", type=int, default=0, metavar="N", help="first N by name to split `validation`"
    )
    group.add_argument("--validation-share", type=float, default=0.0, metavar="S", help="that of each class at random")
    group.add_argument("--validation-seed", type=int, default=0, metavar="N", help="of the share (default 0)")
    group.add_argument("--validation-at-least", type=int, default=1, metavar="N", help="of each class (default 1)")

    _add_images(command)
    command.set_defaults(run=build)


def _add_images(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("images (default: JPEG, PNG, WebP byte for byte, GIF and BMP as PNG)")
    group.add_argument("--check", choices=["decode", "header"], default="decode", help="what is looked at (decode)")
    group.add_argument("--min-short-edge", type=int, default=1, metavar="PX", help="drop smaller images")
    group.add_argument("--max-short-edge", type=int, metavar="PX", help="shrink larger images; none is enlarged")
    group.add_argument(
        "--format",
        choices=["jpeg", "png", "webp"],
        help="of images written anew (default: jpeg with --max-short-edge, else png, which loses nothing)",
    )
    group.add_argument("--quality", type=int, default=90, metavar="Q", help="of JPEG and WebP written anew (90)")
    group.add_argument("--rewrite-all", action="store_true", help="write every image anew, in --format")
    group.add_argument("--apply-orientation", action="store_true", help="turn images as their EXIF says")
    group.add_argument("--convert-colour", action="store_true", help="images with an ICC profile to sRGB")
    group.add_argument("--repair", action="store_true", help="keep what can be decoded of cut JPEGs")
