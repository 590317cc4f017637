"""The class layouts in use for ImageNet and its large relatives, by name, built from the lists that timm packages.

One label number means different classes in each of them; the fingerprint of a label space tells them apart. Counts and
relations: docs/data.md.
Not here: what is said of a space or of two that differ (`label_report.py`).
"""

from __future__ import annotations

import difflib
import json
import pkgutil
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from hornet.errors import UserError
from hornet.shards.label_space import LabelSpace, read_class_list, read_label_space
from hornet.shards.manifest import read_manifest

NUM_WINTER21 = 19_167
WINTER21 = "imagenet-w21"
WINTER21_REMARK = (
    "winter21_whole, 13.15 million images, fall11 without 2,674 synsets; packaged nowhere: imagenet-w21:PATH"
)
MIIL_WINTER21 = "_info/imagenet21k_miil_w21_synsets.txt"  # packaged by timm without a name in ImageNetInfo
SYNSET = re.compile(r"n\d{8}")
SYNSET_ENTRY = re.compile(r"(n\d{8})(\.tar)?")
SHORT = 16  # hex digits of a fingerprint that are compared and shown


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A label space that goes by a name, and how its classes are found."""

    num_classes: int
    """How many classes it has."""
    fingerprint: str
    """First 16 digits of its fingerprint: the name means this list, whatever a later timm packages."""
    remark: str
    """Where it comes from, how many images there are, who uses it."""
    make: Callable[[], tuple[str, ...]]
    """Return its synsets in the order of the labels."""


def _from_timm(subset: str) -> Callable[[], tuple[str, ...]]:
    def make() -> tuple[str, ...]:
        from timm.data import ImageNetInfo  # brings torch: seconds that most commands need not wait for

        return tuple(ImageNetInfo(subset).label_names())  # type: ignore[no-untyped-call]

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
    "imagenet-1k": Layout(
        num_classes=1000,
        fingerprint="385e0240499426c0",
        remark="ILSVRC-2012: 1,281,167 + 50,000 images",
        make=_from_timm("imagenet-1k"),
    ),
    "imagenet-12k": Layout(
        num_classes=11_821,
        fingerprint="009d4c9f19667ccf",
        remark="timm's subset of fall11: 12,129,687 + 472,840 images; imagenet-12k-wds",
        make=_from_timm("imagenet-12k"),
    ),
    "imagenet-21k-p": Layout(
        num_classes=10_450,
        fingerprint="68202583aa200623",
        remark="21K-P of winter21, as image-net.org offers it: 11,060,223 + 522,500 images; timm's imagenet-w21-p",
        make=_make_winter21_p,
    ),
    "imagenet-21k-p-fall11": Layout(
        num_classes=11_221,
        fingerprint="e96927e3af1cf32c",
        remark="21K-P of fall11, classes of over 500 images: 11,797,632 + 561,052 images; timm's imagenet-21k-miil",
        make=_from_timm("imagenet-21k-miil"),
    ),
    "imagenet-21k-goog": Layout(
        num_classes=21_843,
        fingerprint="c03345e3490e010d",
        remark="Google's ids (BiT, ViT): fall11 and two synsets without images, 9205 and 15027; Swin's map is for it",
        make=_from_timm("imagenet-21k-goog"),
    ),
    "imagenet-22k": Layout(
        num_classes=21_841,
        fingerprint="6320b72b72e43c09",
        remark="fall11_whole.tar, sorted: 14,197,122 images; ConvNeXt, timm's imagenet-22k-wds",
        make=_from_timm("imagenet-22k"),
    ),
    "imagenet-22k-ms": Layout(
        num_classes=21_842,
        fingerprint="57d68b4f40ef1181",
        remark="Microsoft's ids (FocalNet): ImageNet-1K first, of which 850 has no image, then the rest of fall11",
        make=_from_timm("imagenet-22k-ms"),
    ),
    "hornet-22k": Layout(
        num_classes=10_459,
        fingerprint="177452cca38acc90",
        remark="HorNet's released 22K weights: imagenet-21k-p, then the nine classes of imagenet-1k it lacks",
        make=_make_hornet,
    ),
}
"""By name. winter21 itself (19,167 classes) is packaged nowhere: see `make_winter21`."""

OTHER_NAMES = {"imagenet-21k-miil": "imagenet-21k-p-fall11", "imagenet-w21-p": "imagenet-21k-p"}
"""What timm calls them, to our name."""


@cache
def make_layout(name: str) -> LabelSpace:
    """Return a known label space; raises UserError, with the names there are."""
    if name not in LAYOUTS:
        raise UserError(f"there is no label space {name!r}; known are {', '.join(LAYOUTS)}, or give a file")
    space = LabelSpace(name=name, classes=LAYOUTS[name].make())
    if not space.fingerprint.startswith(LAYOUTS[name].fingerprint):
        raise UserError(
            f"{name}: the installed timm packages another list of {len(space)} classes, fingerprint "
            f"{space.fingerprint[:SHORT]} and not {LAYOUTS[name].fingerprint}; install the timm of requirements.lock"
        )
    return space


def make_winter21(synsets: Iterable[str]) -> LabelSpace:
    """Return the label space `imagenet-w21` from the synsets of the user's own winter21 archive, sorted.

    Raises UserError if they are not 19,167 different synsets of fall11, among them all of 21K-P.
    """
    found = tuple(sorted(set(synsets)))
    unknown = sorted(set(found) - set(make_layout("imagenet-22k").classes))
    if unknown:
        raise UserError(
            f"{len(unknown)} names are no synsets of ImageNet fall11, which winter21 is a part of "
            f"({', '.join(unknown[:5])}); give the folders or tars of winter21_whole alone"
        )
    if len(found) == LAYOUTS["imagenet-22k"].num_classes:
        raise UserError(f"winter21 has {NUM_WINTER21} synsets, these are all {len(found)} of fall11: use imagenet-22k")
    if len(found) != NUM_WINTER21:
        raise UserError(f"winter21 has {NUM_WINTER21} synsets, here are {len(found)}; the copy is not whole")
    lacking = sorted(set(make_layout("imagenet-21k-p").classes) - set(found))
    if lacking:
        raise UserError(
            f"these {NUM_WINTER21} synsets are not winter21's: they lack {len(lacking)} of imagenet-21k-p, which was "
            f"made from it ({', '.join(lacking[:5])}); give the folders or tars of winter21_whole alone"
        )
    return LabelSpace(name=WINTER21, classes=found)


def find_label_space(name_or_path: str) -> LabelSpace:
    """Return a label space by its name, or from a file: an `_info.json`, or a list with one class name a line.

    A set's folder stands for its `_info.json`; `imagenet-w21:PATH` is winter21 by its folder or list. A name goes
    before a file of that name (write `./imagenet-1k`), and a list that is a known one gets the known name.
    Raises UserError, with the known names, if it is neither.
    """
    name = OTHER_NAMES.get(name_or_path, name_or_path)
    if name in LAYOUTS:
        return make_layout(name)
    head, colon, place = name_or_path.partition(":")
    if head == WINTER21:
        return _find_winter21(place if colon else None)
    path = Path(name_or_path)
    if path.is_dir():
        return read_manifest(path).label_space
    if not path.exists():
        close = difflib.get_close_matches(name_or_path, [*LAYOUTS, *OTHER_NAMES, WINTER21], n=1)
        hint = "".join(f" (did you mean {name}?)" for name in close)
        raise UserError(
            f"{name_or_path!r} is neither a file nor a known label space{hint}; "
            f"known are {', '.join(LAYOUTS)}, imagenet-w21:PATH"
        )
    if path.suffix == ".json":
        return _read_manifest_file(path)
    space = read_class_list(path)
    return replace(space, name=recognise(space.classes) or space.name)


def recognise(classes: Sequence[str]) -> str | None:
    """Return the name of the known label space that has exactly these classes in this order, if there is one."""
    listed = tuple(classes)
    same_size = name_by_size(len(listed))
    if same_size:
        fingerprint = LabelSpace(name="listed", classes=listed).fingerprint
        return next((name for name in same_size if fingerprint.startswith(LAYOUTS[name].fingerprint)), None)
    if len(listed) == NUM_WINTER21 and listed == tuple(sorted(listed)):
        least, most = set(make_layout("imagenet-21k-p").classes), set(make_layout("imagenet-22k").classes)
        return WINTER21 if least <= set(listed) <= most else None
    return None


def name_by_size(num_classes: int) -> tuple[str, ...]:
    """Return the known label spaces of that many classes: what a head of unknown origin may mean."""
    return tuple(name for name, layout in LAYOUTS.items() if layout.num_classes == num_classes)


def _find_winter21(place: str | None) -> LabelSpace:
    """Make winter21 from a folder of class folders or class tars, or from a list of synsets."""
    if not place:
        raise UserError(
            f"{WINTER21}: its {NUM_WINTER21} synsets are packaged nowhere; write {WINTER21}:PATH, where PATH is your "
            "copy's folder, with a folder or tar for each synset, or a list of them, one a line"
        )
    path = Path(place)
    if not path.is_dir():
        names: Iterable[str] = read_class_list(path).classes
    else:
        entries = (SYNSET_ENTRY.fullmatch(entry.name) for entry in path.iterdir())
        names = [entry[1] for entry in entries if entry]
    try:
        return make_winter21(names)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _read_manifest_file(path: Path) -> LabelSpace:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is not readable as JSON ({error})") from error
    if not isinstance(value, dict) or "label_space" not in value:
        raise UserError(
            f"{path}: has no label_space; give the _info.json of an indexed set, a list of class names, one a line, or "
            f"a known name ({', '.join(LAYOUTS)})"
        )
    return read_label_space(value["label_space"], source=path)
