"""A run that stops anywhere and goes on with other ranks, workers and micro batches sees what it would have seen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hornet.batch import Batch
from hornet.data.config import StreamConfig, TransformConfig
from hornet.data.loader import open_train_stream
from hornet.data.order import PartialBatch
from hornet.digest import batch_digest
from hornet.shards.reader import ShardReader
from hornet.shards.shard_set import open_shards
from hornet.training.metrics import sum_key_hashes
from tests.unit.shards.making import encode, index, key_hash, make_image, rank_of, write_shard

TRANSFORM = TransformConfig(image_size=8, flip_probability=0.5, rand_augment="rand-m9-n1", erase_probability=0.5)
LENGTHS = {"uneven": (5, 1, 9, 3, 2), "one": (13,), "many": (2,) * 9, "long last": (1, 1, 24)}
NUM_STEPS = 7

Image = tuple[int, int, tuple[int, ...], bytes]
"""Key, label, erase box, pixels."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run may not change when it goes on."""

    set_name: str
    window: int
    partial: PartialBatch
    size: int


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What it may change."""

    num_steps: int
    num_ranks: int
    num_workers: int
    micro: int


@dataclass(frozen=True, kw_only=True)
class Step:
    """A global batch: its images in order, and its digest as MetricsRecorder makes it."""

    images: tuple[Image, ...]
    digest: str


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set for each of LENGTHS."""
    root = tmp_path_factory.mktemp("sets")
    for name, lengths in LENGTHS.items():
        number = 0
        (root / name).mkdir()
        for shard, length in enumerate(lengths):
            samples = [(f"s{i:04d}", "png", encode(make_image(i)), i % 5) for i in range(number, number + length)]
            write_shard(root / name / f"{shard:02d}.tar", samples)
            number += length
        index(root / name)
    return root


def live(root: Path, plan: Plan, attempt: Attempt, *, first: int) -> list[Step]:
    """The steps `first` and on, as one attempt of a run sees them, all ranks together."""
    config = StreamConfig(
        shards=root / plan.set_name,
        shuffle_window_shards=plan.window,
        partial_batch=plan.partial,
        num_workers=attempt.num_workers,
        transform=TRANSFORM,
    )
    images: list[list[Image]] = [[] for _ in range(attempt.num_steps)]
    sums = torch.zeros(attempt.num_steps, dtype=torch.int64)
    for rank in range(attempt.num_ranks):
        world = rank_of(rank, attempt.num_ranks)
        stream = open_train_stream(
            config, world=world, seed=3, global_batch_size=plan.size, micro_batch_size=attempt.micro
        )
        with closing(stream):
            batches = list(stream.iterate(first, attempt.num_steps))
        for step in range(attempt.num_steps):
            mine = batches[step * stream.num_micro_steps : (step + 1) * stream.num_micro_steps]
            images[step] += [image for batch in mine for image in contents(batch)]
            sums[step] += sum_key_hashes(mine)
    return [Step(images=tuple(found), digest=batch_digest(total)) for found, total in zip(images, sums, strict=True)]


def contents(batch: Batch) -> Iterator[Image]:
    assert batch.is_real.all()
    for key, label, box, pixels in zip(
        batch.key_hashes, batch.labels, batch.erase_boxes, batch.images_bchw, strict=True
    ):
        yield int(key), int(label), tuple(box.tolist()), pixels.numpy().tobytes()


@lru_cache
def undisturbed(root: Path, plan: Plan) -> list[Step]:
    attempt = Attempt(num_steps=NUM_STEPS, num_ranks=1, num_workers=0, micro=plan.size)
    return live(root, plan, attempt, first=0)


def divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    name, partial = draw(st.sampled_from(sorted(LENGTHS))), draw(st.sampled_from(["drop", "carry"]))
    sizes = [size for size in (2, 6, 12, 24) if partial == "carry" or size <= sum(LENGTHS[name])]
    window, size = draw(st.sampled_from([1, 2, 4, 64])), draw(st.sampled_from(sizes))
    return Plan(set_name=name, window=window, partial=partial, size=size)


@st.composite
def careers(draw: st.DrawFn, *, workers: st.SearchStrategy[int]) -> tuple[Plan, list[Attempt]]:
    """A plan, and attempts of any kind that together make up its steps."""
    plan = draw(plans())
    stops = sorted(draw(st.sets(st.integers(1, NUM_STEPS - 1), min_size=1, max_size=3)))
    attempts = []
    for first, stop in zip([0, *stops], [*stops, NUM_STEPS], strict=True):
        num_ranks = draw(st.sampled_from(divisors(plan.size)))
        micro = draw(st.sampled_from(divisors(plan.size // num_ranks)))
        attempts.append(Attempt(num_steps=stop - first, num_ranks=num_ranks, num_workers=draw(workers), micro=micro))
    return plan, attempts


def check(root: Path, plan: Plan, attempts: list[Attempt]) -> None:
    found: list[Step] = []
    for attempt in attempts:
        found += live(root, plan, attempt, first=len(found))
    assert found == undisturbed(root, plan)


@pytest.mark.slow
@given(careers(workers=st.just(0)))
@settings(max_examples=20)
def test_other_ranks_and_micro_batches(sets: Path, career: tuple[Plan, list[Attempt]]) -> None:
    check(sets, *career)


@given(careers(workers=st.integers(0, 2)))
@settings(max_examples=3)
def test_other_numbers_of_workers(sets: Path, career: tuple[Plan, list[Attempt]]) -> None:
    check(sets, *career)


def test_two_one_three_two(sets: Path) -> None:
    plan = Plan(set_name="uneven", window=2, partial="carry", size=12)
    ways = [(2, 2, 2, 3), (1, 1, 0, 4), (2, 3, 1, 2), (2, 2, 2, 6)]
    attempts = [Attempt(num_steps=n, num_ranks=r, num_workers=w, micro=m) for n, r, w, m in ways]
    check(sets, plan, attempts)


def test_digests_follow_from_the_order_and_the_keys_alone(sets: Path) -> None:
    """Against the definition: sum of the first 8 bytes of the keys' SHA-256; all samples, so any order gives it."""
    plan = Plan(set_name="one", window=1, partial="carry", size=6)
    reader = ShardReader(open_shards(sets / "one", "train"))
    (digest,) = {step.digest for step in undisturbed(sets, Plan(set_name="one", window=1, partial="drop", size=13))}
    assert digest == f"{sum(key_hash(reader.read(sample).key) for sample in range(13)) % 2**64:016x}"
    assert len({step.digest for step in undisturbed(sets, plan)}) == NUM_STEPS
