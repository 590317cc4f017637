"""Names of the samples in the tars: from the names of the images in the source, unique, without surprises."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hornet.shards.imagenet import SYNSET

PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_/-]*")


def make_key(part: str, name: str, twin: int) -> str:
    """Return the stem of an image's members in the tar: `PART/NAME`, or NAME alone if that begins with a synset.

    The extension goes; dots become `_`, since a stem ends at its first dot; so does what cannot be printed. ImageNet's
    own file names (n01440764_10026.JPEG in n01440764) stay as they are, as in other public sets.
    """
    stem = make_stem(name) + (f"_{twin}" if twin else "")
    if SYNSET.fullmatch(part) and stem.startswith(f"{part}_") and "/" not in stem:
        return stem
    return f"{make_plain(part)}/{stem}"


def make_stem(name: str) -> str:
    """Return an image's name without its extension, fit for a tar member; folders stay."""
    head, dot, tail = name.rpartition(".")
    return _replace((head if dot and "/" not in tail else name).strip("/"))


def make_plain(part: str) -> str:
    """Return a part's name, fit for the first folder of a key: `__background_` for `__background__`.

    What begins and ends with `__` there is no sample to webdataset, and passed over without a word.
    """
    plain = _replace(part.replace("/", "_"))
    return f"{plain.rstrip('_')}_" if plain.startswith("__") and plain.endswith("__") else plain


def name_keys(names: Sequence[str]) -> list[int]:
    """Return for each name of a part the number that makes its stem unique there: 0 if it is alone or first.

    a.jpg, a.png, a_2.jpg become a, a_3, a_2: a number that another stem has already is passed over.
    """
    stems = [make_stem(name) for name in names]
    taken = set(stems)
    if len(taken) == len(stems):
        return [0] * len(stems)
    twins = []
    last: dict[str, int] = {}
    for stem in stems:
        twin = 0
        if stem in last:
            twin = max(2, last[stem] + 1)
            while f"{stem}_{twin}" in taken:
                twin += 1
            taken.add(f"{stem}_{twin}")
        last[stem] = twin
        twins.append(twin)
    return twins


def _replace(text: str) -> str:
    if PLAIN.fullmatch(text):
        return text
    return "".join(char if char.isprintable() and char not in ".\\" else "_" for char in text) or "_"
