"""A small realistic data set without ImageNet: 6,692 public-domain images in 106 classes, as shards.

The images are those of Debian's package openclipart-png: PNGs of every mode and size, in a tree of folders. This
fetches the package (nothing is installed, no root is needed), makes a class of each folder that has enough images,
and builds splits `train` and `validation`:

  python launch/openclipart.py                      on Debian or Ubuntu: fetch, unpack, build data/openclipart/shards
  python launch/openclipart.py --package FILE.deb   the package is there already
  python launch/openclipart.py --tree FOLDER        it is unpacked already
"""

import argparse
import shutil
import subprocess
from pathlib import Path

from hornet.cli import print_to_pipe
from hornet.cli.command_line import exit_on_bad_input
from hornet.errors import UserError
from hornet.shards.build.build import build
from hornet.shards.build.image import ImageOptions
from hornet.shards.build.plan import BuildPlan
from hornet.shards.build.report import describe_build
from hornet.shards.build.selection import Selection

PACKAGE = "openclipart-png"
INSTALLED = Path("/usr/share/openclipart/png")
MIN_IMAGES = 9
VALIDATION_IMAGES = 3
SHORT_EDGE = 320  # some images have thousands of pixels; nothing here looks at more


def main() -> None:
    """Fetch, unpack, link and build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("data/openclipart"), help="default data/openclipart")
    parser.add_argument("--package", type=Path, metavar="FILE.deb", help="of openclipart-png")
    parser.add_argument("--tree", type=Path, metavar="FOLDER", help="an unpacked usr/share/openclipart/png")
    options = parser.parse_args()
    exit_on_bad_input(lambda: make_set(options.folder, package=options.package, tree=options.tree))


def make_set(folder: Path, *, package: Path | None, tree: Path | None) -> None:
    """Build `folder`/shards; raises UserError."""
    classes = link_classes(tree or find_tree(folder, package), folder / "classes")
    plan = BuildPlan(
        source=classes,
        output=folder / "shards",
        name="openclipart",
        samples_per_shard=250,
        selection=Selection(min_images_per_class=MIN_IMAGES, validation_per_class=VALIDATION_IMAGES),
        image=ImageOptions(max_short_edge=SHORT_EDGE, written_format="png"),
    )
    print_to_pipe(describe_build(build(plan)))


def find_tree(folder: Path, package: Path | None) -> Path:
    """Return the unpacked tree of images, fetching and unpacking what is not there."""
    unpacked = folder / "package" / INSTALLED.relative_to("/")
    if package is None and INSTALLED.is_dir():
        return INSTALLED
    if not unpacked.is_dir():
        package = package or _fetch(folder)
        partial = folder / "package.partial"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        _run(["dpkg", "-x", str(package), str(partial)], cwd=Path.cwd())
        partial.rename(folder / "package")
    return unpacked


def link_classes(tree: Path, classes: Path) -> Path:
    """Make a class folder of links for each folder of images: `animals/birds` becomes `animals-birds`."""
    if not tree.is_dir():
        raise UserError(f"{tree}: is not a folder; give usr/share/openclipart/png of the unpacked package")
    shutil.rmtree(classes, ignore_errors=True)
    for path in sorted(tree.rglob("*.png")):
        if path.is_symlink():  # a second name of an image
            continue
        link = classes / "-".join(path.parent.relative_to(tree).parts or ("other",)) / path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
    return classes


def _fetch(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    _run(["apt-get", "download", PACKAGE], cwd=folder)
    return max(folder.glob(f"{PACKAGE}_*.deb")).resolve()


def _run(command: list[str], *, cwd: Path) -> None:
    try:
        subprocess.run(command, cwd=cwd, check=True, stdin=subprocess.DEVNULL, timeout=600)
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(
            f"`{' '.join(command)}` failed ({error}); get {PACKAGE} by other means and give --package FILE.deb or "
            "--tree FOLDER"
        ) from error


if __name__ == "__main__":
    main()
