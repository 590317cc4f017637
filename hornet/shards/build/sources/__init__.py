"""Raw images in all the layouts in which ImageNet and its relatives come, opened as a Source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from pathlib import Path

from hornet.errors import UserError
from hornet.shards.build.source import SeekableSource, Source
from hornet.shards.build.sources.archives import (
    open_folder_of_tars,
    open_tar_of_folders,
    open_tar_of_tars,
    walk_members,
)
from hornet.shards.build.sources.coco import is_coco, open_coco
from hornet.shards.build.sources.folders import open_image_folder
from hornet.shards.build.sources.gzipped import GzippedTar
from hornet.shards.build.sources.ilsvrc import NAME, open_ilsvrc_val
from hornet.shards.build.sources.mask_folders import is_masked, open_mask_folders
from hornet.shards.build.sources.names import explain_unasked, get_extension, is_class_name, is_image
from hornet.shards.build.sources.parquet import open_parquet
from hornet.shards.build.sources.webdataset_tars import INFO_NAMES, open_webdataset
from hornet.shards.label_space import LabelSpace
from hornet.shards.sample_parts import Incomplete, PassedMembers
from hornet.shards.tar import LocalTar, TarError, TarStream

LAYOUTS = {
    "image-folder": "CLASS/NAME.jpg, as torchvision reads it",
    "masks": "images/[SPLIT/]NAME.jpg and annotations/[SPLIT/]NAME.png, as ADE20K: a class for each pixel",
    "coco": "annotations/instances_SPLIT.json and images in SPLIT/ or images/SPLIT/, as COCO: objects",
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
    annotations: Path | None = None,
    images: Path | None = None,
    labels: str | None = None,
    label_space: LabelSpace | None = None,
    incomplete: Incomplete = "refuse",
) -> Source:
    """Open raw images.

    `devkit` is for ilsvrc-val; `split` for masks, coco, webdataset and parquet; `annotations` and `images` for coco;
    `labels` (`json:KEY`) for webdataset; `incomplete` for masks, coco and webdataset; `label_space` names the labels
    where the source only has numbers, and is not for coco, whose file has names. The name of a tar is taken for a class
    only if it is a synset, one of `label_space`, or the layout was given. Raises UserError, saying what was found, if
    the source is not of the layout or an option has no meaning for it.
    """
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder")
    is_asked = layout != "auto"
    layout = layout if is_asked else "coco" if annotations else detect_layout(path, has_labels=bool(labels))
    skip = incomplete if incomplete != "refuse" else None
    given = {"--devkit": devkit, "--source-split": split, "--labels": labels, "--incomplete": skip}
    given |= {"--annotations": annotations, "--images": images}
    if label_space is not None and layout == "coco":
        given["--classes"] = label_space.name
    _refuse_meaningless(path, layout, given)
    _check_kind(path, layout)
    if layout == "masks":
        return open_mask_folders(path, split=split, incomplete=incomplete)
    if layout == "coco":
        return open_coco(path, split=split, annotations=annotations, images=images, incomplete=incomplete)
    if layout == "ilsvrc-val":
        return open_ilsvrc_val(path, devkit)
    if layout == "webdataset":
        return open_webdataset(path, split=split, labels=labels, label_space=label_space, incomplete=incomplete)
    if layout == "parquet":
        return open_parquet(path, split=split, label_space=label_space)
    if layout == "tar-gz":
        known = frozenset() if label_space is None else frozenset(label_space.classes)
        return GzippedTar(path=path, known_classes=None if is_asked else known)
    openers: dict[str, Callable[[Path], SeekableSource]] = {
        "image-folder": open_image_folder,
        "tar-of-tars": open_tar_of_tars,
        "folder-of-tars": open_folder_of_tars,
        "tar-of-folders": partial(open_tar_of_folders, is_asked=is_asked),
    }
    source = openers[layout](path)
    if not is_asked and layout in ("tar-of-tars", "folder-of-tars"):
        _refuse_names_of_shards(path, source, layout, label_space)
    return source


MEANT = {
    "ilsvrc-val": {"--devkit"},
    "masks": {"--source-split", "--incomplete"},
    "coco": {"--source-split", "--annotations", "--images", "--incomplete"},
    "webdataset": {"--source-split", "--labels", "--incomplete"},
    "parquet": {"--source-split"},
}
"""Options that say something of a source of a layout."""


def _refuse_meaningless(path: Path, layout: str, given: Mapping[str, object]) -> None:
    for option, value in given.items():
        if value is not None and option not in MEANT.get(layout, set()):
            raise UserError(f"{path}: {option} has no meaning for a source of layout {layout}; leave it out")


def _refuse_names_of_shards(path: Path, source: SeekableSource, layout: str, label_space: LabelSpace | None) -> None:
    """Refuse to make classes of tars' names that may be those of shards."""
    known = () if label_space is None else label_space.classes
    strange = [part for part in source.parts if not is_class_name(part.name, known)]
    if strange:
        members = PassedMembers()
        for name in _peek(strange[0].path):
            members.add(name)
        raise UserError(
            f"{path}: {explain_unasked(strange[0].name, layout)}; {strange[0].path.name} begins with "
            f"{members.describe() or 'nothing'}"
        )


def detect_layout(path: Path, *, has_labels: bool = False) -> str:
    """Find out a source's layout by what lies in it; raises UserError if it is none that is known.

    `has_labels` says that the labels stand in members of its tars.
    """
    if has_labels and (path.suffix == ".tar" or (path.is_dir() and any(path.glob("*.tar")))):
        return "webdataset"
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
    if is_coco(path):
        return "coco"
    if is_masked(path):
        return "masks"
    tars = sorted(file for file in path.glob("*.tar") if not file.name.startswith("."))
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
        if is_image(name) and "/" in name.removeprefix("./"):
            return "tar-of-folders"
    raise _unknown(
        path,
        f"a tar that begins with {names[:3]}, without labels in .cls or .json members"
        if names
        else "a tar without files",
    )


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
    wants_folder = layout in ("image-folder", "masks", "coco", "folder-of-tars")
    wants_file = layout in ("tar-of-tars", "tar-of-folders", "tar-gz", "ilsvrc-val")
    if wants_folder and not path.is_dir():
        raise UserError(f"{path}: is not a folder; layout {layout} is {LAYOUTS[layout]}")
    if wants_file and not path.is_file():
        raise UserError(f"{path}: is not a file; layout {layout} is {LAYOUTS[layout]}")


def _unknown(path: Path, found: str) -> UserError:
    known = "; ".join(f"{name} ({text})" for name, text in LAYOUTS.items())
    return UserError(f"{path}: is {found}; the layouts known are: {known}")
