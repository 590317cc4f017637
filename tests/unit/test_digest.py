from __future__ import annotations

import hashlib

import torch
from hypothesis import given
from hypothesis import strategies as st

from hornet.digest import batch_digest, hash_key

int64s = st.integers(-(2**63), 2**63 - 1)


def test_against_the_definition_by_hand() -> None:
    keys = ["in22k-train-0001/n01440764_10026", "a/b/c", "é/ü"]
    total = sum(int(hashlib.sha256(key.encode()).hexdigest()[:16], 16) for key in keys)
    digest = batch_digest(torch.tensor([hash_key(key) for key in keys]))
    assert digest == f"{total % 2**64:016x}"
    assert len(digest) == 16


@given(st.lists(int64s, min_size=2, max_size=20), st.data())
def test_partial_sums_add_up_in_any_split(values: list[int], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(values)))
    hashes = torch.tensor(values, dtype=torch.int64)
    partial = torch.stack([hashes[:cut].sum(), hashes[cut:].sum()]).sum()  # int64 sums wrap around
    assert batch_digest(partial) == batch_digest(hashes) == f"{sum(values) % 2**64:016x}"
