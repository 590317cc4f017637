"""What `build` is asked for, and what it reports."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hornet.errors import UserError
from hornet.shards.build.image import ImageOptions
from hornet.shards.build.listing import DamagedParts
from hornet.shards.build.selection import Selection
from hornet.shards.manifest import Manifest
from hornet.shards.sample_parts import Incomplete

WORK_FOLDER = ".build"


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """What a build is asked for: a source, a set, what is done to labels and images."""

    source: Path
    """Folder or archive, see `sources.LAYOUTS`."""
    output: Path
    """Folder for tars, index and manifest; made if it is not there, may hold other splits of the set."""
    name: str
    """The set's name: first part of the tars' names."""
    split: str = "train"
    """The split's name: second part."""
    layout: str = "auto"
    """How the source is laid out; auto finds out."""
    devkit: Path | None = None
    """Development kit with the ground truth of ILSVRC2012_img_val.tar."""
    source_split: str | None = None
    """Which split of the source, where it has several."""
    annotations: Path | None = None
    """File of the objects of a source of COCO's kind, if it does not lie where COCO has it."""
    image_folder: Path | None = None
    """Folder of its images, likewise."""
    source_labels: str | None = None
    """Where the labels stand in a source of tars: None for .cls, `json:KEY`."""
    incomplete: Incomplete = "refuse"
    """What becomes of samples in a source of tars that lack their label or image, of images without a mask, and of
    annotations without their image."""
    reduce_zero_label: bool = False
    """In a source of masks: 0 is no class, and class k is value k + 1."""
    classes: str | None = None
    """Label space to keep: a known name or a file; None for that of the set in `output`, else the source's classes."""
    damaged_parts: DamagedParts = "refuse"
    """What becomes of a tar within the source that is cut or damaged: refuse it, or take what stands before."""
    selection: Selection = field(default_factory=Selection)
    """Which classes and images are taken, and which go to another split."""
    image: ImageOptions = field(default_factory=ImageOptions)
    """What is done to images."""
    samples_per_shard: int = 3000
    """In each tar but the last, before drops."""
    seed: int = 0
    """Of the shuffle over all images."""
    num_workers: int | None = None
    """Processes; None for one a core."""
    spool: Path | None = None
    """Folder for the contents of a streamed source; None for the working folder."""

    def __post_init__(self) -> None:
        if self.samples_per_shard < 1:
            raise UserError(f"samples per shard: must be at least 1, not {self.samples_per_shard}")
        if self.num_workers is not None and self.num_workers < 1:
            raise UserError(f"workers: must be at least 1, not {self.num_workers}")
        for key in ("name", "split"):
            value = getattr(self, key)
            if not value or "/" in value or value.startswith((".", "_")):
                raise UserError(f"{key}: must be usable in a file name, not {value!r}")
        if self.spool is not None and self.spool.exists() and not self.spool.is_dir():
            raise UserError(f"spool: {self.spool} is a file; give a folder")
        if self.selection.has_validation and self.split == "validation":
            option = "validation-share" if self.selection.validation_share else "validation-per-class"
            raise UserError(f"{option}: makes a split `validation`, so --split must have another name")

    @property
    def work(self) -> Path:
        """The folder that keeps what a stopped build has done."""
        return self.output / WORK_FOLDER

    @property
    def spool_path(self) -> Path:
        """The file for the contents of a streamed source."""
        if self.spool is None:
            return self.work / "spool.bin"
        place = hashlib.sha256(str(self.output.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:12]
        return self.spool / f"{self.name}-{self.split}-{place}-spool.bin"

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that are made."""
        return (self.split, "validation") if self.selection.has_validation else (self.split,)

    def describe(self) -> dict[str, Any]:
        """Return what the set's bytes depend on, beside the source's: JSON."""
        kept = {"source", "name", "split", "layout", "source_split", "source_labels", "classes", "damaged_parts"}
        kept |= {"annotations", "image_folder"}
        if self.incomplete != "refuse":  # a plan from before this option had none
            kept.add("incomplete")
        if self.reduce_zero_label:
            kept.add("reduce_zero_label")
        plain = {key: str(value) for key, value in vars(self).items() if key in kept and value is not None}
        return plain | {
            "source": str(self.source.resolve()),
            "seed": self.seed,
            "samples_per_shard": self.samples_per_shard,
            "selection": self.selection.describe(),
            "picture": asdict(self.image),
        }


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """The set that a build wrote, and what it dropped on the way."""

    manifest: Manifest
    """The set's manifest, as it was written."""
    was_complete: bool = False
    """The same command had ended before; nothing was done."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Images left out, by kind."""
    mended: int = 0
    """Images that were damaged and are kept."""
    notes: tuple[Path, ...] = ()
    """JSON lines that name each dropped or mended image."""
    remarks: tuple[str, ...] = ()
    """What else is worth knowing."""
