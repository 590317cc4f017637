"""Label spaces: the ordered class names behind label numbers, their fingerprints, and maps between two of them."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hornet.errors import UserError

NUM_NAMED = 5  # how many offenders a message lists
NUMBERED = "numbered"

MORE_THAN_NAMES = {
    re.compile(r"\t"): "a tab, as a table does",
    re.compile(r"^n\d{8}[\s,;:]"): "more than a synset",
    re.compile(r"^\d+\s*[,;:]\s*n\d{8}\b|^\d+\s+n\d{8}\b"): "a number beside the synset",
    re.compile(r"^[\[{]"): "a bracket, as JSON does",
    re.compile(r"^#(\s|$)"): "a comment",
}
"""What no class name is, and how it is called."""

NUMBERED_NAMES = (
    re.compile(r"(?P<number>\d{1,9})\s*[\s,;:=]\s*(?P<name>\S.*)"),
    re.compile(r"(?P<name>.*\S)\s*[,;:=]\s*(?P<number>\d{1,9})"),
)
"""Lines of a table of names and numbers, if the numbers count the lines."""


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
                f"label space {self.name!r}: {len(repeated)} class names stand more than once ({name_some(repeated)}); "
                "each must be listed once"
            )
        broken = [name for name in self.classes if "\n" in name or not name.strip()]
        if broken:
            raise UserError(
                f"label space {self.name!r}: class names may not be blank or hold a newline ({name_some(broken)})"
            )

    def __len__(self) -> int:
        return len(self.classes)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the ordered class names joined by newlines: equal exactly if labels mean the same."""
        return hashlib.sha256("\n".join(self.classes).encode("utf-8", "surrogateescape")).hexdigest()

    @cached_property
    def labels(self) -> Mapping[str, int]:
        """The label of each class name."""
        return {name: label for label, name in enumerate(self.classes)}

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
    """Read a text file with one class name a line, in the order of the labels; the space is named after the file.

    A byte order mark, CRLF and blank lines do not count. Raises UserError if the lines hold more than names: a number,
    a synset's words, a table, a comment.
    """
    try:
        lines = [line.strip() for line in path.read_text("utf-8-sig").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: the list of classes cannot be read ({error}); it must be text in UTF-8, one class name a line"
        ) from error
    _refuse_more_than_names(path, lines)
    return LabelSpace(name=path.stem, classes=tuple(line for line in lines if line))


def _refuse_more_than_names(path: Path, lines: Sequence[str]) -> None:
    """Refuse lists whose lines would be taken whole for names, and are not: wrong classes without an error."""
    for number, line in enumerate(lines, start=1):
        found = next((text for pattern, text in MORE_THAN_NAMES.items() if pattern.search(line)), None)
        if found is not None:
            raise _more_than_a_name(path, number, line, found)
    rows = [(number, line) for number, line in enumerate(lines, start=1) if line]
    for pattern in NUMBERED_NAMES:
        matches = [pattern.fullmatch(line) for _, line in rows]
        numbers = [int(match["number"]) for match in matches if match]
        names = {match["name"] for match in matches if match}
        is_counted = len(numbers) == len(rows) and numbers in ([*range(len(rows))], [*range(1, len(rows) + 1)])
        if len(rows) > 1 and is_counted and len(names) == len(rows):
            raise _more_than_a_name(path, *rows[0], "a number beside the name")


def _more_than_a_name(path: Path, number: int, line: str, found: str) -> UserError:
    return UserError(
        f"{path}: line {number} holds {found}, {line[:60]!r}; a list of classes has one name a line, nothing else, in "
        "the order of the labels (`python launch/shards.py labels NAME --plain` prints one)"
    )


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


def name_some(names: Sequence[str]) -> str:
    """Return the first few names, for a message, and dots where there are more."""
    return ", ".join(names[:NUM_NAMED]) + (", ..." if len(names) > NUM_NAMED else "")
