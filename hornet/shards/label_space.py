"""Label spaces: the ordered class names behind label numbers, their fingerprints, and maps between two of them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hornet.errors import UserError

NUM_NAMED = 5  # how many offenders a message lists
NUMBERED = "numbered"


@dataclass(frozen=True, kw_only=True)
class LabelSpace:
    """What the numbers in a set's labels mean: label `i` is `classes[i]`."""

    name: str
    """For people: `imagenet-22k`, a folder's name."""
    classes: tuple[str, ...]
    """Class names (synsets, folder names), in the order of their labels, all distinct."""

    def __post_init__(self) -> None:
        if not self.classes:
            raise UserError(f"label space {self.name!r} has no classes")
        repeated = [name for name, count in Counter(self.classes).items() if count > 1]
        if repeated:
            raise UserError(
                f"label space {self.name!r}: {len(repeated)} class names stand more than once ({_list(repeated)}); "
                "each must be listed once"
            )
        broken = [name for name in self.classes if "\n" in name or not name.strip()]
        if broken:
            raise UserError(
                f"label space {self.name!r}: class names may not be blank or hold a newline ({_list(broken)})"
            )

    def __len__(self) -> int:
        return len(self.classes)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the ordered class names joined by newlines: equal exactly if labels mean the same."""
        return hashlib.sha256("\n".join(self.classes).encode("utf-8", "surrogateescape")).hexdigest()

    @property
    def is_numbered(self) -> bool:
        """Whether the meaning of its labels is not known: names as `class_00000` say nothing of another set's."""
        return self.name == NUMBERED

    def to_json(self) -> dict[str, Any]:
        """Return the form a manifest holds."""
        return {"name": self.name, "fingerprint": self.fingerprint, "classes": list(self.classes)}


def read_label_space(value: Any, *, source: Path) -> LabelSpace:
    """Read what `LabelSpace.to_json` wrote; `source` is the file it came from.

    Raises UserError if a part is missing or the fingerprint is not that of the classes.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("classes"), list):
        raise UserError(f"{source}: label_space must hold name, fingerprint and classes")
    space = LabelSpace(name=str(value.get("name", "")), classes=tuple(str(name) for name in value["classes"]))
    recorded = value.get("fingerprint", space.fingerprint)
    if recorded != space.fingerprint:
        raise UserError(
            f"{source}: label_space.fingerprint is {recorded}, but its {len(space)} classes have {space.fingerprint}; "
            "the list was changed by hand, restore it or index the shards again"
        )
    return space


def number_classes(num_classes: int) -> LabelSpace:
    """Make a label space for labels whose meaning is not known: `class_00000`, `class_00001`, ..."""
    return LabelSpace(name=NUMBERED, classes=tuple(f"class_{label:05d}" for label in range(num_classes)))


def read_class_list(path: Path) -> LabelSpace:
    """Read a text file with one class name a line, in the order of the labels; the space is named after the file."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the list of classes cannot be read ({error})") from error
    return LabelSpace(name=path.stem, classes=tuple(line.strip() for line in lines if line.strip()))


@dataclass(frozen=True, kw_only=True)
class ClassMap:
    """Where each class of one label space stands in another."""

    source_indices: tuple[int, ...]
    """For each class of the target, in order: its label in the source, or -1."""
    missing: tuple[str, ...]
    """The target's classes that the source lacks."""
    left_over: tuple[str, ...]
    """The source's classes that the target lacks."""

    @property
    def num_shared(self) -> int:
        """Classes that both have."""
        return len(self.source_indices) - len(self.missing)


def map_classes(source: LabelSpace, target: LabelSpace) -> ClassMap:
    """Find each of `target`'s classes in `source`, by name."""
    wanted = set(target.classes)
    labels = {name: label for label, name in enumerate(source.classes)}
    return ClassMap(
        source_indices=tuple(labels.get(name, -1) for name in target.classes),
        missing=tuple(name for name in target.classes if name not in labels),
        left_over=tuple(name for name in source.classes if name not in wanted),
    )


def _list(names: list[str]) -> str:
    return ", ".join(names[:NUM_NAMED]) + (", ..." if len(names) > NUM_NAMED else "")
