"""Layout `masks`: images/[SPLIT/]NAME.jpg beside annotations/[SPLIT/]NAME.png, as ADE20K (ADEChallengeData2016) has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hornet.errors import UserError
from hornet.shards.build.masks import path_of_mask
from hornet.shards.build.source import Entry, PartListing, SeekableSource
from hornet.shards.build.sources.folders import ClassFolder
from hornet.shards.sample_parts import Incomplete

IMAGES, MASKS = "images", "annotations"
OBJECTS_PREFIX = "instances_"
"""Files of objects that begin so may stand beside the masks; layout coco reads them."""
UNNAMED = "masks"
"""In the place of a class: an image with a mask has many."""


@dataclass(frozen=True, kw_only=True)
class MaskedFolder:
    """Images, and the folder of their masks."""

    name: str
    path: Path
    masks: Path
    incomplete: Incomplete

    def list(self) -> PartListing:
        """See Part. Raises UserError if an image has no mask, unless those are to be skipped."""
        listing = ClassFolder(name=UNNAMED, path=self.path).list()
        masks = {str(path.relative_to(self.masks)) for path in self.masks.rglob("*.png")}
        wanted = {
            entry.name: str(path_of_mask(self.masks, entry.name).relative_to(self.masks)) for entry in listing.entries
        }
        without = [name for name, mask in wanted.items() if mask not in masks]
        remarks = list(listing.remarks)
        if without and self.incomplete == "refuse":
            raise UserError(
                f"{self.path}: {len(without)} of {len(wanted)} images have no mask in {self.masks}, the first is "
                f"{without[0]!r}, which wants {wanted[without[0]]}; add them, or leave such images out with "
                "--incomplete skip"
            )
        if without:
            remarks.append(f"{self.path}: {len(without)} images without a mask were left out, {without[0]!r} for one")
        left_over = sorted(masks - set(wanted.values()))
        if left_over:
            remarks.append(f"{self.masks}: {len(left_over)} masks have no image, {left_over[0]!r} for one")
        missing = set(without)
        entries: tuple[Entry, ...] = tuple(entry for entry in listing.entries if entry.name not in missing)
        return PartListing(entries=entries, remarks=tuple(remarks))


def is_masked(path: Path) -> bool:
    """Whether a folder is laid out so."""
    return (path / IMAGES).is_dir() and (path / MASKS).is_dir()


def open_mask_folders(path: Path, *, split: str | None, incomplete: Incomplete) -> SeekableSource:
    """Open the images of a split and their masks; without `split`, all that lie in images/ itself.

    Raises UserError if there are none, or if there are splits and none is named.
    """
    if not is_masked(path):
        raise UserError(f"{path}: has no folders {IMAGES}/ and {MASKS}/; images NAME.jpg and masks NAME.png go there")
    images, masks = path / IMAGES, path / MASKS
    splits = sorted(folder.name for folder in images.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    if split is not None:
        if split not in splits:
            raise UserError(f"{images}: has no split {split!r}; it has {', '.join(splits) or 'none'}")
        images, masks = images / split, masks / split
        if not masks.is_dir():
            raise UserError(f"{masks}: is no folder; the masks of the images in {images} go there")
    elif splits:
        raise UserError(f"{images}: has the splits {', '.join(splits)}; choose one with --source-split")
    objects = sorted(file.name for file in (path / MASKS).glob(f"{OBJECTS_PREFIX}*.json"))
    remarks = (
        [f"{path / MASKS}: holds objects too ({', '.join(objects)}), which --layout coco reads"] if objects else []
    )
    part = MaskedFolder(name=split or IMAGES, path=images, masks=masks, incomplete=incomplete)
    return SeekableSource(parts=(part,), masks=masks, remarks=tuple(remarks))
