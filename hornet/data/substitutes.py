"""Which samples stand in for one that cannot be used: the same on every rank and at every restart."""

from __future__ import annotations

from collections.abc import Iterator

from hornet.seeding import derive_seed

MAX_SUBSTITUTES = 16


def list_substitutes(sample: int, *, seed: int, epoch: int, num_samples: int) -> Iterator[int]:
    """Yield the candidates, to be tried in this order."""
    for attempt in range(MAX_SUBSTITUTES):
        yield derive_seed("substitute", seed, epoch, sample, attempt) % num_samples
