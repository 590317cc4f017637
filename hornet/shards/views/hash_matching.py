"""Which of many hashes are near one of some others: all pairs are compared, so none is missed, in little memory."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from hornet.seeding import Int64Array

Words = npt.NDArray[np.uint64]

ROWS_AT_ONCE, COLUMNS_AT_ONCE = 32, 4096
"""A block of pairs, 1 MB of words, stays in a core's cache."""

NUM_DEVIATIONS = 2.5
BITS_TABLE = np.array([bin(number).count("1") for number in range(1 << 16)], dtype=np.uint8)


def count_bits(words: Words) -> npt.NDArray[np.uint8]:
    """Return the number of set bits of each 64-bit word."""
    if hasattr(np, "bitwise_count"):  # numpy 2
        return np.asarray(np.bitwise_count(words), dtype=np.uint8)
    quarters = np.ascontiguousarray(words).view(np.uint16).reshape(*words.shape, 4)
    counts: npt.NDArray[np.uint8] = BITS_TABLE[quarters].sum(axis=-1, dtype=np.uint8)
    return counts


def find_nearest(rows: Words, columns: Words, *, distance: int) -> tuple[Int64Array, Int64Array]:
    """For each of `rows` (n, words) return the nearest of `columns` (m, words) and how many bits differ.

    Only neighbours within `distance` count: others are -1. Among equals the first column is taken.
    """
    nearest = np.full(len(rows), -1, dtype=np.int64)
    found = np.full(len(rows), distance + 1, dtype=np.int64)
    num_words = _choose_prefix(distance, rows.shape[1])
    transposed = np.ascontiguousarray(columns.T)
    for top in range(0, len(rows), ROWS_AT_ONCE):
        block = rows[top : top + ROWS_AT_ONCE]
        for left in range(0, len(columns), COLUMNS_AT_ONCE):
            # The whole distance is at least that of the first words, so what is beyond it there is beyond it.
            right = left + COLUMNS_AT_ONCE
            differing = count_bits(block[:, 0, None] ^ transposed[0, None, left:right])
            for word in range(1, num_words):
                differing += count_bits(block[:, word, None] ^ transposed[word, None, left:right])
            row, column = np.nonzero(differing <= distance)
            if not len(row):
                continue
            exact = count_bits(block[row] ^ columns[left + column]).sum(axis=1, dtype=np.int64)
            order = np.lexsort((column, exact, row))
            _, firsts = np.unique(row[order], return_index=True)
            best = order[firsts]  # of each row that has candidates
            better = best[exact[best] < found[top + row[best]]]
            found[top + row[better]] = exact[better]
            nearest[top + row[better]] = left + column[better]
    return nearest, np.where(nearest >= 0, found, -1)


def _choose_prefix(distance: int, num_words: int) -> int:
    """Return how many words rule out nearly all random pairs: half of 64 bits each, 4 the standard deviation.

    At most 3, so that a count fits a byte.
    """
    for words in range(1, min(num_words, 3) + 1):
        if 32 * words - distance >= NUM_DEVIATIONS * 4 * math.sqrt(words):
            return words
    return min(num_words, 3)
