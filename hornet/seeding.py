"""Random draws as functions of what they are for, so that no generator's state is ever saved."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed that depends on every part and on their order, the same on every machine.

    Example: `derive_seed("augment", seed, epoch, sample)`.
    """
    text = "\0".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
