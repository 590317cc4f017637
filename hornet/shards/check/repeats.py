"""Equal contents and equal names among all samples of a set, found by sorting their hashes: 24 bytes a sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """Samples, and for each the first of those it equals."""

    samples: Numbers
    """Numbers of samples that equal an earlier one."""
    firsts: Numbers
    """For each of them, the first."""


def find_repeats(*hashes: Hashes, samples: Numbers) -> Repeats:
    """Find which of `samples` agree in all `hashes` (each one value a sample) with an earlier one."""
    order = np.lexsort((samples, *hashes))
    if not len(order):
        return Repeats(samples=samples, firsts=samples)
    is_first = np.zeros(len(order), bool)
    is_first[0] = True
    for values in hashes:
        is_first[1:] |= values[order][1:] != values[order][:-1]
    heads = np.flatnonzero(is_first)[np.cumsum(is_first) - 1]
    repeated = ~is_first
    found, firsts = samples[order][repeated], samples[order[heads[repeated]]]
    by_number = np.argsort(found, kind="stable")
    return Repeats(samples=found[by_number], firsts=firsts[by_number])
