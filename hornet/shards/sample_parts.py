"""Which members of a tar make a sample: one image and one label under one key, and what stands beside them.

The key is the name up to its first dot, folders included, as in webdataset; what a member is, its last extension says.
So `cat.v1.jpg` with `cat.v1.cls` is the sample `cat`, and `a.seg.png` beside `a.jpg` and `a.cls` is none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from hornet.shards.sample_label import JSON_EXTENSION, LabelError, label_extension

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
REWRITTEN_EXTENSIONS = ("gif", "bmp")
"""Read by `build`, which writes them anew as PNG."""
FOREIGN_EXTENSIONS = frozenset({"tif", "tiff", "avif", "heic", "jfif", "jp2", "jxl", "ppm", "svg"})
"""Images, but not read: the member's owner has to convert or rename them."""

MAX_IMAGE_BYTES = 256 << 20
MAX_NUMBERED_CLASSES = 100_000
"""Labels without class names are numbered up to the largest; beyond this they are ids, and a list must name them."""

NUM_NAMED = 5

Incomplete = Literal["refuse", "skip"]


@dataclass(frozen=True, kw_only=True)
class SampleRule:
    """What is taken for a sample."""

    label_key: str | None = None
    """Key of the .json members that holds the label, where -1 leaves the sample out; None for the .cls members."""
    label_names: Mapping[str, int] | None = None
    """Labels of the class names that may stand in the labels' members; None where they hold numbers alone."""
    num_classes: int | None = None
    """Of the label space; None if it is not known, and then labels end at MAX_NUMBERED_CLASSES."""
    incomplete: Incomplete = "refuse"
    """What becomes of samples that lack the label (or have -1 in .cls) or the image, or whose image has 0 bytes."""
    for_build: bool = False
    """Whether images that are not read in training are taken too: GIF, BMP, empty ones. `build` mends or drops them."""

    @property
    def images(self) -> tuple[str, ...]:
        """Extensions of images."""
        return IMAGE_EXTENSIONS + REWRITTEN_EXTENSIONS * self.for_build

    @property
    def label(self) -> str:
        """Extension of the labels' members."""
        return label_extension(self.label_key)


def choose_parts(key: str, images: Collection[str], labels: Collection[str]) -> tuple[str | None, str | None]:
    """Return which image and which label make the sample of a key, by their names without the last extension.

    Image and label of one such name belong together; else the one named as the key counts, or the only one. None where
    there is none. Raises LabelError if two samples would share the key, or the choice is not clear.
    """
    pairs = sorted(set(images) & set(labels))
    if len(pairs) > 1 or (pairs and pairs[0] != key and len(images) > 1):
        names = pairs if len(pairs) > 1 else sorted(images)
        raise LabelError(
            f"{names[0]!r} and {names[1]!r} are samples of one key, {key!r}: a key ends at the first dot of the name; "
            "rename them, with `_` for the dots"
        )
    if pairs:
        return pairs[0], pairs[0]
    return _choose(key, images, "images"), _choose(key, labels, "labels")


def _choose(key: str, names: Collection[str], what: str) -> str | None:
    if key in names or not names:
        return key if names else None
    if len(names) > 1:
        raise LabelError(
            f"has {len(names)} {what}, {' and '.join(map(repr, sorted(names)[:2]))}, and none is called {key!r} alone; "
            "rename the one that counts"
        )
    return next(iter(names))


def explain_missing(key: str, rule: SampleRule, others: Iterable[str], *, has_image: bool) -> str:
    """Return what a key lacks, what stands beside it (`others`, member names), and what can be done."""
    beside = sorted(others)
    found = f"; beside it: {', '.join(beside[:NUM_NAMED])}" if beside else ""
    if has_image:
        is_described = rule.label_key is None and any(name.lower().endswith(f".{JSON_EXTENSION}") for name in beside)
        ways = ["take labels from the .json members with `--labels json:KEY`"] if is_described else []
        ways.append("leave such samples out with `--incomplete skip`")
        return f"the image of {key!r} has no .{rule.label}{found}; {', or '.join(ways)}"
    endings = {name.lower().rpartition(".")[2] for name in beside}
    if endings & set(REWRITTEN_EXTENSIONS):
        way = "`python launch/shards.py build` takes .gif and .bmp and writes them anew as PNG"
    elif endings & FOREIGN_EXTENSIONS:
        way = "convert the images to JPEG or PNG (a .jfif is a JPEG and needs the name .jpg only)"
    else:
        way = "leave such samples out with `--incomplete skip`"
    return f"the .{rule.label} of {key!r} has no image .{' .'.join(rule.images)}{found}; {way}"


@dataclass
class PassedMembers:
    """How many members of each ending were passed over, and the first of each."""

    counts: dict[str, int] = field(default_factory=dict)
    firsts: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, number: int = 1) -> None:
        """Note a member by its name."""
        base = name.rpartition("/")[2]
        is_plain = "." in base and not base.startswith(".")
        ending = "." + base.rpartition(".")[2].lower() if is_plain else "hidden" if base[:1] == "." else "no extension"
        self.counts[ending] = self.counts.get(ending, 0) + number
        self.firsts.setdefault(ending, name)

    def merge(self, other: PassedMembers) -> None:
        """Add those of another tar."""
        for ending, number in other.counts.items():
            self.counts[ending] = self.counts.get(ending, 0) + number
            self.firsts.setdefault(ending, other.firsts[ending])

    def describe(self) -> str:
        """Return them in a line; empty if there are none."""
        return ", ".join(
            f"{number} {ending} ({self.firsts[ending]!r} for one)" for ending, number in sorted(self.counts.items())
        )
