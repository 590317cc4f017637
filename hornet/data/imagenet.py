"""The class layouts in use for ImageNet and its large relatives, by name, built from the lists that timm packages.

One label number means different classes in each of them; the fingerprint of a label space tells them apart. Counts and
relations: docs/data.md.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hornet.data.label_space import LabelSpace, read_class_list
from hornet.data.manifest import read_manifest
from hornet.errors import UserError

NUM_WINTER21 = 19_167
MIIL_WINTER21 = "_info/imagenet21k_miil_w21_synsets.txt"  # packaged by timm without a name in ImageNetInfo


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A known label space."""

    remark: str
    """Where it comes from and who uses it."""
    make: Callable[[], tuple[str, ...]]
    """Return its synsets in the order of the labels."""


def _from_timm(subset: str) -> Callable[[], tuple[str, ...]]:
    def make() -> tuple[str, ...]:
        from timm.data import ImageNetInfo  # brings torch: seconds that most commands need not wait for

        return tuple(ImageNetInfo(subset).label_names())

    return make


def _make_winter21_p() -> tuple[str, ...]:
    content = pkgutil.get_data("timm.data", MIIL_WINTER21)
    if content is None:
        raise UserError(f"timm no longer packages {MIIL_WINTER21}; install a version that does")
    return tuple(content.decode().split())


def _make_hornet() -> tuple[str, ...]:
    """Return the 10,450 of winter21 21K-P, then the nine of ImageNet-1K that it lacks, as the released head's rows."""
    known = dict.fromkeys(_make_winter21_p())
    return tuple(known | dict.fromkeys(_from_timm("imagenet-1k")()))


LAYOUTS = {
    "imagenet-1k": Layout(remark="ILSVRC-2012: 1,281,167 + 50,000 images", make=_from_timm("imagenet-1k")),
    "imagenet-22k": Layout(
        remark="fall11_whole.tar, sorted: 14,197,122 images; ConvNeXt, timm imagenet-22k-wds",
        make=_from_timm("imagenet-22k"),
    ),
    "imagenet-21k-p-fall11": Layout(
        remark="21K-P of fall11, classes of over 500 images: 11,797,632 + 561,052",
        make=_from_timm("imagenet-21k-miil"),
    ),
    "imagenet-21k-p": Layout(
        remark="21K-P of winter21, as image-net.org offers it: 11,060,223 + 522,500", make=_make_winter21_p
    ),
    "imagenet-12k": Layout(
        remark="timm's subset of fall11: 12,129,687 + 472,840; imagenet-12k-wds", make=_from_timm("imagenet-12k")
    ),
    "imagenet-21k-goog": Layout(
        remark="Google's ids (BiT, ViT), two of them without images; Swin's released map is for these",
        make=_from_timm("imagenet-21k-goog"),
    ),
    "imagenet-22k-ms": Layout(remark="Microsoft's (FocalNet): ImageNet-1K first", make=_from_timm("imagenet-22k-ms")),
    "hornet-22k": Layout(
        remark="HorNet's released 22K weights: imagenet-21k-p, then the nine ImageNet-1K classes it lacks",
        make=_make_hornet,
    ),
}
"""By name. winter21 itself (19,167 classes) is packaged nowhere: see `make_winter21`."""


@cache
def make_layout(name: str) -> LabelSpace:
    """Return a known label space; raises UserError, with the names there are."""
    if name not in LAYOUTS:
        raise UserError(f"there is no label space {name!r}; known are {', '.join(LAYOUTS)}, or give a file")
    return LabelSpace(name=name, classes=LAYOUTS[name].make())


def make_winter21(synsets: Sequence[str]) -> LabelSpace:
    """Return the label space `imagenet-w21` from the synsets of the user's own winter21 archive, sorted.

    Raises UserError if they are not 19,167 different synsets of fall11.
    """
    found = tuple(sorted(set(synsets)))
    unknown = sorted(set(found) - set(make_layout("imagenet-22k").classes))
    if unknown:
        raise UserError(
            f"{len(unknown)} names are no synsets of ImageNet fall11, which winter21 is a part of "
            f"({', '.join(unknown[:5])}); give the folders or tars of winter21_whole alone"
        )
    if len(found) != NUM_WINTER21:
        raise UserError(f"winter21 has {NUM_WINTER21} synsets, here are {len(found)}; the copy is not whole")
    return LabelSpace(name="imagenet-w21", classes=found)


def find_label_space(name_or_path: str) -> LabelSpace:
    """Return a label space by its name, or from a file: an `_info.json`, or a list with one class name a line.

    Raises UserError, with the known names, if it is neither.
    """
    if name_or_path in LAYOUTS:
        return make_layout(name_or_path)
    path = Path(name_or_path)
    if path.suffix == ".json":
        return read_manifest(path.parent).label_space
    if path.is_dir():
        return read_manifest(path).label_space
    if not path.exists():
        raise UserError(f"{name_or_path!r} is neither a file nor a known label space; known are {', '.join(LAYOUTS)}")
    return read_class_list(path)


def recognise(classes: Sequence[str]) -> str | None:
    """Return the name of the known label space that has exactly these classes in this order, if there is one."""
    listed = tuple(classes)
    for name in LAYOUTS:
        if make_layout(name).classes == listed:
            return name
    if len(listed) == NUM_WINTER21 and listed == tuple(sorted(listed)):
        known = set(make_layout("imagenet-22k").classes)
        return "imagenet-w21" if all(name in known for name in listed) else None
    return None


def name_by_size(num_classes: int) -> tuple[str, ...]:
    """Return the known label spaces of that many classes: what a head of unknown origin may mean."""
    return tuple(name for name in LAYOUTS if len(make_layout(name)) == num_classes)
