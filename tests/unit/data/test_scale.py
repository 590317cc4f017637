"""Hundreds of ranks with eight workers each: every sample exactly once, over all of them."""

from __future__ import annotations

import pytest

from benchmarks.scale_stream import follow_epoch


@pytest.mark.parametrize("window", [8, 100])
def test_512_ranks_of_8_workers_read_every_sample_once(window: int) -> None:
    found = follow_epoch(
        num_samples=100_003, num_shards=100, window=window, num_ranks=512, num_workers=8, global_batch_size=4096
    )
    assert found.is_exactly_once
    assert found.num_reads == 100_003
    assert found.num_opens <= found.num_reads
