"""Raw pictures in all the layouts in which ImageNet and its relatives come, opened as a Source."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from hornet.errors import UserError
from hornet.shards.build.source import Source
from hornet.shards.build.sources.archives import (
    open_folder_of_tars,
    open_tar_of_folders,
    open_tar_of_tars,
    walk_members,
)
from hornet.shards.build.sources.folders import open_image_folder
from hornet.shards.build.sources.gzipped import GzippedTar
from hornet.shards.build.sources.ilsvrc import NAME, open_ilsvrc_val
from hornet.shards.build.sources.names import get_extension, is_picture
from hornet.shards.build.sources.parquet import open_parquet
from hornet.shards.build.sources.webdataset_tars import INFO_NAMES, open_webdataset
from hornet.shards.label_space import LabelSpace
from hornet.shards.tar import TarError
from hornet.shards.tar_source import LocalTar, TarStream

LAYOUTS = {
    "image-folder": "CLASS/NAME.jpg, as torchvision reads it",
    "tar-of-tars": "fall11_whole.tar, ILSVRC2012_img_train.tar: a plain tar of SYNSET.tar",
    "folder-of-tars": "a folder of SYNSET.tar",
    "tar-of-folders": "a plain tar of CLASS/NAME.jpg",
    "tar-gz": "winter21_whole.tar.gz, or a gzip of class folders: read once into a spool",
    "ilsvrc-val": "ILSVRC2012_img_val.tar with --devkit ILSVRC2012_devkit_t12.tar.gz",
    "webdataset": "a folder of tars of NAME.jpg + NAME.cls or .json, with timm's _info.json or without",
    "parquet": "a Hugging Face image set: a file or folder of .parquet: read once into a spool",
}

NUM_PEEKED = 8


def open_source(
    path: Path,
    *,
    layout: str = "auto",
    devkit: Path | None = None,
    split: str | None = None,
    labels: str | None = None,
    label_space: LabelSpace | None = None,
) -> Source:
    """Open raw pictures.

    `devkit` is for ilsvrc-val; `split` for webdataset and parquet; `labels` (`json:KEY`) for webdataset; `label_space`
    names the labels where the source only has numbers. Raises UserError, saying what was found, if the source is not of
    the layout or an option has no meaning for it.
    """
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder")
    layout = detect_layout(path) if layout == "auto" else layout
    given = {"--devkit": devkit, "--source-split": split, "--labels": labels}
    meant = {"ilsvrc-val": {"--devkit"}, "webdataset": {"--source-split", "--labels"}, "parquet": {"--source-split"}}
    for option, value in given.items():
        if value is not None and option not in meant.get(layout, set()):
            raise UserError(f"{path}: {option} has no meaning for a source of layout {layout}; leave it out")
    _check_kind(path, layout)
    if layout == "ilsvrc-val":
        return open_ilsvrc_val(path, devkit)
    if layout == "webdataset":
        return open_webdataset(path, split=split, labels=labels, label_space=label_space)
    if layout == "parquet":
        return open_parquet(path, split=split, label_space=label_space)
    if layout == "tar-gz":
        return GzippedTar(path=path)
    openers = {
        "image-folder": open_image_folder,
        "tar-of-tars": open_tar_of_tars,
        "folder-of-tars": open_folder_of_tars,
        "tar-of-folders": open_tar_of_folders,
    }
    return openers[layout](path)


def detect_layout(path: Path) -> str:
    """Find out a source's layout by what lies in it; raises UserError if it is none that is known."""
    if path.is_dir():
        return _detect_folder(path)
    if path.name.endswith((".tar.gz", ".tgz")):
        return "tar-gz"
    if path.suffix == ".parquet":
        return "parquet"
    if path.suffix == ".tar":
        return _detect_tar(path)
    raise _unknown(path, "a file that is no .tar, .tar.gz or .parquet")


def _detect_folder(path: Path) -> str:
    tars = sorted(path.glob("*.tar"))
    if any((path / name).exists() for name in INFO_NAMES):
        return "webdataset"
    if tars:
        return "webdataset" if _holds_labels(_peek(tars[0])) else "folder-of-tars"
    if any(path.glob("*.parquet")) or any(path.glob("*/*.parquet")):
        return "parquet"
    return "image-folder"  # which says what is wrong if it is none


def _detect_tar(path: Path) -> str:
    names = _peek(path)
    if _holds_labels(names):
        return "webdataset"
    for name in names:
        if name.endswith(".tar"):
            return "tar-of-tars"
        if NAME.fullmatch(name.removeprefix("./")):  # sorted into folders, they have their classes
            return "ilsvrc-val"
        if is_picture(name) and "/" in name.removeprefix("./"):
            return "tar-of-folders"
    raise _unknown(path, f"a tar that begins with {names[:3]}" if names else "a tar without files")


def _holds_labels(names: list[str]) -> bool:
    return any(get_extension(name) in ("cls", "json") for name in names)


def _peek(path: Path) -> list[str]:
    try:
        with LocalTar(path, sparsely=True) as tar:
            return [member.name for member in islice(walk_members(TarStream(tar, hashed=False)), NUM_PEEKED)]
    except TarError as error:
        raise UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _check_kind(path: Path, layout: str) -> None:
    wants_folder = layout in ("image-folder", "folder-of-tars")
    wants_file = layout in ("tar-of-tars", "tar-of-folders", "tar-gz", "ilsvrc-val")
    if wants_folder and not path.is_dir():
        raise UserError(f"{path}: is not a folder; layout {layout} is {LAYOUTS[layout]}")
    if wants_file and not path.is_file():
        raise UserError(f"{path}: is not a file; layout {layout} is {LAYOUTS[layout]}")


def _unknown(path: Path, found: str) -> UserError:
    known = "; ".join(f"{name} ({text})" for name, text in LAYOUTS.items())
    return UserError(f"{path}: is {found}; the layouts known are: {known}")
