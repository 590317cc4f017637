"""What is said of label spaces: those known, the classes of one, how two differ and what to do about it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from hornet.durable import write_text
from hornet.errors import UserError
from hornet.shards.imagenet import (
    LAYOUTS,
    NUM_WINTER21,
    SHORT,
    SYNSET,
    WINTER21,
    WINTER21_REMARK,
    find_label_space,
    name_by_size,
    recognise,
)
from hornet.shards.label_space import ClassMap, LabelSpace, map_classes

if TYPE_CHECKING:
    from timm.data import ImageNetInfo

NUM_SHOWN = 20  # classes without a counterpart, each on its line


def describe_space(space: LabelSpace) -> str:
    """Return name, size and fingerprint of a label space, and the known name of its classes if it has another."""
    known = recognise(space.classes)
    those = f", those of {known}" if known not in (None, space.name) else ""
    return f"{space.name!r} ({len(space)} classes{those}, fingerprint {space.fingerprint[:SHORT]})"


def guess_by_size(num_classes: int) -> str:
    """Return the known label spaces of that size in brackets, to end a message with; empty if there is none."""
    names = name_by_size(num_classes)
    return f" (label spaces of {num_classes} classes: {', '.join(names)})" if names else ""


def explain_mismatch(here: LabelSpace, wanted: LabelSpace) -> str:
    """Return how a set's label space differs from the one that is wanted, and how to get a set that has it."""
    for space in (here, wanted):
        if space.is_numbered:
            return (
                f"the classes of {space.name!r} are not known; index its set again with `--classes NAME|FILE`"
                f"{guess_by_size(len(space))}"
            )
    found = map_classes(here, wanted)
    if found.num_shared == 0:
        return "they have no class in common; give a set of the same classes"
    if found.missing or found.left_over:
        relation = f"{found.num_shared} of its {len(here)} classes are among the {len(wanted)}"
    else:
        relation = "they have the same classes in another order"
    name = recognise(wanted.classes)
    is_listed = name not in (None, WINTER21)  # winter21 has no list to be found by its name alone
    command = f"`python launch/shards.py subset SET OUTPUT --classes {name if is_listed else 'FOLDER'}`"
    folder = "" if is_listed else f" (the folder of {wanted.name!r})"
    return f"{relation}; {command}{folder} numbers them alike, without copies"


def report_labels(spaces: Sequence[str], *, is_plain: bool, map_file: Path | None) -> str:
    """Return what `launch/shards.py labels` prints for no, one or two label spaces (see `find_label_space`).

    With `map_file`, write there the JSON list of each class of the second: its label in the first, or -1.
    Raises UserError.
    """
    if len(spaces) > 2:
        raise UserError(f"labels: takes up to two label spaces, not {len(spaces)}")
    if is_plain and len(spaces) != 1:
        raise UserError(f"--plain: lists the classes of one label space, not of {len(spaces)}")
    if map_file is not None and len(spaces) != 2:
        raise UserError(f"--map: takes two label spaces, from and to, not {len(spaces)}")
    if not spaces:
        return describe_known_spaces()
    first, *others = [find_label_space(name) for name in spaces]
    if not others:
        return list_classes(first, is_plain=is_plain)
    if map_file is not None:
        _write_map(map_file, map_classes(first, others[0]))
    return describe_map(first, others[0])


def describe_known_spaces() -> str:
    """Return the table of the known label spaces: name, classes, fingerprint, remark."""
    rows = [(name, layout.num_classes, layout.fingerprint, layout.remark) for name, layout in LAYOUTS.items()]
    rows.append((WINTER21, NUM_WINTER21, "-", WINTER21_REMARK))
    head = f"{'name':22} {'classes':>7}  {'fingerprint':{SHORT}}  remark"
    return "\n".join([head, *(f"{name:22} {size:7}  {mark:{SHORT}}  {remark}" for name, size, mark, remark in rows)])


def list_classes(space: LabelSpace, *, is_plain: bool) -> str:
    """Return the classes in order, one a line: label, name and meaning, tabs between; the names alone if plain."""
    if is_plain:
        return "\n".join(space.classes)
    return "\n".join("\t".join([str(label), name, *_mean(name)]) for label, name in enumerate(space.classes))


def describe_map(source: LabelSpace, target: LabelSpace) -> str:
    """Return which classes of two label spaces have a counterpart, and which have none, both ways."""
    found = map_classes(source, target)
    return "\n".join(
        [
            f"from         {describe_space(source)}",
            f"to           {describe_space(target)}",
            f"mapped       {found.num_shared} of the {len(target)} classes of {target.name} are in {source.name}",
            *_list_unmatched("missing", found.missing, f"{target.name}, not in {source.name}"),
            *_list_unmatched("left over", found.left_over, f"{source.name}, not in {target.name}"),
        ]
    )


def _write_map(path: Path, found: ClassMap) -> None:
    try:
        write_text(path, json.dumps(found.source_indices))
    except OSError as error:
        raise UserError(f"--map {path}: cannot be written ({error.strerror})") from error


def _list_unmatched(title: str, names: Sequence[str], where: str) -> list[str]:
    shown = [f"{'':13}{'  '.join([name, *_mean(name)])}" for name in names[:NUM_SHOWN]]
    rest = [f"{'':13}... and {len(names) - NUM_SHOWN} more"] if len(names) > NUM_SHOWN else []
    return [f"{title:12} {len(names)} of {where}", *shown, *rest]


def find_meaning(name: str) -> str | None:
    """Return a synset's words, as `tench, Tinca tinca`; None if they are not known, or the name is another."""
    try:
        return str(_imagenet().label_name_to_description(name)) if SYNSET.fullmatch(name) else None
    except KeyError:
        return None


def _mean(name: str) -> list[str]:
    """Return a synset's words in a list, which is empty if they are not known."""
    meaning = find_meaning(name)
    return [] if meaning is None else [meaning]


@cache
def _imagenet() -> ImageNetInfo:
    from timm.data import ImageNetInfo  # brings torch: seconds that most commands need not wait for

    return ImageNetInfo("imagenet-22k")  # any subset holds the words of all
