from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hornet.batch import Batch
from hornet.data.augment.transforms import EvaluationTransform
from hornet.data.config import EvaluationConfig
from hornet.data.loader import open_evaluation_stream
from hornet.errors import UserError
from hornet.shards.reader import ShardReader
from hornet.shards.shard_set import open_shards
from hornet.training.evaluate import evaluate
from tests.unit.shards.making import NOT_AN_IMAGE, key_hash, make_set, rank_of


def run(folder: Path, *, num_ranks: int = 1, **changes: Any) -> list[list[Batch]]:
    """Batches of each rank."""
    config = EvaluationConfig(**{"shards": folder, "split": "train", "image_size": 16, "batch_size": 7} | changes)
    ranks = []
    for rank in range(num_ranks):
        stream = open_evaluation_stream(config, world=rank_of(rank, num_ranks))
        ranks.append(list(stream.iterate()))
        assert len(ranks[-1]) == stream.num_batches
        stream.close()
    return ranks


@pytest.mark.parametrize(("num_ranks", "batch_size"), [(1, 48), (1, 7), (2, 5), (3, 16), (5, 4), (8, 30)])
def test_every_sample_comes_once_and_ranks_have_as_many_batches(toy_set: Path, num_ranks: int, batch_size: int) -> None:
    ranks = run(toy_set, num_ranks=num_ranks, batch_size=batch_size)
    assert len({len(batches) for batches in ranks}) == 1
    batches = [batch for part in ranks for batch in part]
    assert {len(batch) for batch in batches} == {batch_size}
    keys = torch.cat([batch.key_hashes[batch.is_real] for batch in batches])
    reader = ShardReader(open_shards(toy_set, "train"))
    assert sorted(keys.tolist()) == sorted(key_hash(reader.read(sample).key) for sample in range(48))
    assert all(batch.key_hashes[~batch.is_real].eq(0).all() for batch in batches)
    assert all((key != "") == real for batch in batches for key, real in zip(batch.keys, batch.is_real, strict=True))


@pytest.mark.slow
@given(
    st.sampled_from([1, 2, 13, 48]),
    st.integers(1, 60),
    st.integers(1, 20),
    st.sampled_from([0, 0, 0, 0, 0, 1]),
)
@settings(max_examples=25)
def test_the_metric_counts_every_image_once(
    sets: dict[int, Path], num_samples: int, num_ranks: int, batch_size: int, num_workers: int
) -> None:
    """However the set is divided, with more ranks than images too: the same hits, the same images."""
    num_ranks = num_ranks if num_workers == 0 else min(num_ranks, 3)
    alone = count(run(sets[num_samples], batch_size=num_samples))
    ranks = run(sets[num_samples], num_ranks=num_ranks, batch_size=batch_size, num_workers=num_workers)
    found = count(ranks)
    assert len({len(batches) for batches in ranks}) == 1
    assert found[[0, 1, 2, 4]].tolist() == alone[[0, 1, 2, 4]].tolist()
    assert found[2] == num_samples
    assert found[3] == pytest.approx(alone[3])


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Sets by their number of samples."""
    root = tmp_path_factory.mktemp("sets")
    return {
        num_shards * each: make_set(root / f"{num_shards}x{each}", num_shards=num_shards, samples_per_shard=each)
        for num_shards, each in ((1, 1), (2, 1), (1, 13), (4, 12))
    }


class Brightness(nn.Module):
    """Five logits from an image: sums of whole numbers, so they are exact in any batch."""

    def forward(self, images_bchw: torch.Tensor) -> torch.Tensor:
        return images_bchw.sum(dim=(1, 2)).long()[:, :5].float() % 101


def count(ranks: list[list[Batch]]) -> torch.Tensor:
    """Top-1 hits, top-5 hits, images, loss and bad images, summed over ranks as `evaluate` sums them."""
    sums: list[torch.Tensor] = []

    def keep(values: torch.Tensor) -> torch.Tensor:
        sums.append(values)
        return values

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hornet.training.evaluate.sum_over_ranks", keep)
        for batches in ranks:
            evaluate(Brightness(), batches, normalise=lambda b: b.images_bchw, device=torch.device("cpu"))
    return torch.stack(sums).sum(dim=0)


def test_pixels_labels_and_workers(toy_set: Path) -> None:
    shards = open_shards(toy_set, "train")
    reader = ShardReader(shards)
    transform = EvaluationTransform(image_size=16, crop_fraction=None, interpolation="bicubic")
    (batches,) = run(toy_set, num_workers=2, crop_fraction=None)
    images = torch.cat([batch.images_bchw for batch in batches])
    for sample in range(48):
        expected = transform(reader.read(sample).image).transpose(2, 0, 1)
        assert np.array_equal(images[sample].numpy(), expected)
    labels = torch.cat([batch.labels for batch in batches])[:48]
    assert labels.tolist() == shards.records["label"].tolist()


def test_it_can_be_run_again(toy_set: Path) -> None:
    config = EvaluationConfig(shards=toy_set, split="train", image_size=16, num_workers=1, batch_size=24)
    stream = open_evaluation_stream(config, world=rank_of(0, 1))
    first, second = list(stream.iterate()), list(stream.iterate())
    assert stream.batch_size == 24
    assert [torch.equal(a.images_bchw, b.images_bchw) for a, b in zip(first, second, strict=True)] == [True, True]
    stream.close()


def test_a_bad_sample_leaves_its_slot_empty_and_is_named(tmp_path: Path) -> None:
    folder = make_set(tmp_path, num_shards=1, replaced={3: NOT_AN_IMAGE})
    (batches,) = run(folder, batch_size=6)
    assert batches[0].is_real.tolist() == [True, True, True, False, True, True]
    (bad,) = batches[0].bad_samples
    assert (bad.key, bad.shard, bad.epoch, bad.substitute) == ("toy-00/s0003", "toy-00.tar", 0, "")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"image_size": 0}, "image_size: must be at least 1 pixel, not 0"),
        ({"batch_size": 0}, "batch_size: must be at least 1, not 0"),
        ({"crop_fraction": 1.5}, r"crop_fraction: must be over 0 and at most 1, or null, not 1\.5"),
        ({"num_workers": -2}, "num_workers: must be 0 or more, not -2"),
    ],
)
def test_bad_settings_are_named(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=f"(?m)^{problem}"):
        EvaluationConfig(**{"shards": tmp_path, "image_size": 16} | changes)


def test_tars_that_were_never_indexed_are_evaluated_as_their_set(toy_set: Path, tmp_path: Path) -> None:
    by_pattern = run(f"{toy_set}/toy-*.tar", index=tmp_path)[0]  # type: ignore[arg-type]
    for found, known in zip(by_pattern, run(toy_set)[0], strict=True):
        assert torch.equal(found.images_bchw, known.images_bchw)
        assert torch.equal(found.labels, known.labels)
