"""Random draws as functions of what they are for, so that no generator's state is ever saved."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed that depends on every part and on their order, the same on every machine.

    Example: `derive_seed("augment", seed, epoch, sample)`.
    """
    text = "\0".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def permute(count: int, *key: int | str) -> Int64Array:
    """Return a permutation of range(count) that depends on `key` alone.

    Drawn from the raw stream of a bit generator, which numpy guarantees to stay the same (NEP 19); what
    `Generator.permutation` makes of it is not guaranteed.
    """
    raw = np.random.Philox(key=derive_seed(*key)).random_raw(count)
    return np.argsort(raw, kind="stable").astype(np.int64, copy=False)
