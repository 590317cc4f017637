"""Which samples a global batch held, in 16 hex digits that do not depend on how it was split."""

from __future__ import annotations

import hashlib

from torch import Tensor


def hash_key(key: str) -> int:
    """Return the first 8 bytes of SHA-256 of a sample's key `SHARD/STEM`, big-endian, as a signed number (int64)."""
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def batch_digest(key_hashes: Tensor) -> str:
    """Return the sum of `key_hashes` modulo 2**64 as 16 hex digits.

    Sums add up: int64 sums of micro batches and ranks may be added (they wrap around, as wanted) and digested at the
    end.
    """
    return f"{int(key_hashes.sum()) % 2**64:016x}"
