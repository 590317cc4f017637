"""Files that are damaged in every copy of ImageNet, as lists of several public projects agree."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hornet.durable import read_json_lines

FALL11 = frozenset(
    """
    n01678043_6448 n01896844_997 n02368116_318 n02428089_710 n02487347_1956 n02597972_5463 n03957420_30695
    n03957420_33553 n03957420_8296 n04135315_8814 n04135315_9318 n04257684_9033 n04427559_2974 n06470073_47249
    n07930062_4147 n09224725_3995 n09359803_8155 n09620794_5529 n09789566_3522 n09894445_7463 n10175248_583
    n10316360_4246 n10368624_12550 n10585217_8484 n10721819_1131 n12353203_3849 n12630763_8018
    """.split()  # noqa: SIM905
)
"""Undecodable in fall11; those of them that are in winter21 are undecodable there too."""


def count_known(notes: Iterable[Path]) -> int:
    """Count the dropped images in the notes of a build that are known to be damaged everywhere."""
    return sum(
        note["action"] == "dropped" and Path(note["name"]).stem in FALL11
        for path in notes
        for note in read_json_lines(path)
    )
