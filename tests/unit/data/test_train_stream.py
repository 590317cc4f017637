"""The promise of the stream on real tars: the same batches, pixel for pixel, however the work is divided."""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hornet.batch import Batch
from hornet.config import build_config, flatten_values, load_config, to_values
from hornet.data.config import StreamConfig, TransformConfig
from hornet.data.division import check_division
from hornet.data.loader import TrainStream, open_train_stream
from hornet.data.order import PartialBatch
from hornet.data.shared_memory import count_batch_bytes
from hornet.digest import batch_digest
from hornet.errors import UserError
from hornet.runs.begun import list_changes
from hornet.shards.reader import ShardReader
from hornet.shards.shard_set import open_shards
from hornet.world import World
from tests.unit.shards.making import NUM_CLASSES, key_hash, rank_of

TRANSFORM = TransformConfig(
    image_size=16, flip_probability=0.5, rand_augment="rand-m9-mstd0.5-inc1", erase_probability=0.25
)
GLOBAL_BATCH_SIZE = 8
NUM_STEPS = 9  # one and a half epochs of 48


def configure(folder: Path, **changes: Any) -> StreamConfig:
    values: dict[str, Any] = {"shards": folder, "shuffle_window_shards": 2, "transform": TRANSFORM}
    return StreamConfig(**values | changes)


def open_stream(
    folder: Path, *, world: World | None = None, micro: int = 8, size: int = GLOBAL_BATCH_SIZE, **changes: Any
) -> TrainStream:
    return open_train_stream(
        configure(folder, **changes),
        world=world or rank_of(0, 1),
        seed=5,
        global_batch_size=size,
        micro_batch_size=micro,
    )


def contents(batch: Batch) -> list[tuple[int, int, tuple[int, ...], bytes]]:
    """Key, label, box and pixels of each image."""
    return [
        (int(key), int(label), tuple(box.tolist()), image.numpy().tobytes())
        for key, label, box, image in zip(
            batch.key_hashes, batch.labels, batch.erase_boxes, batch.images_bchw, strict=True
        )
    ]


def collect(
    folder: Path, *, num_ranks: int, micro: int, first: int = 0, stop: int = NUM_STEPS, **changes: Any
) -> dict[int, Any]:
    """What each global batch holds, in order."""
    steps: dict[int, Any] = {step: [] for step in range(first, stop)}
    for rank in range(num_ranks):
        stream = open_stream(folder, world=rank_of(rank, num_ranks), micro=micro, **changes)
        batches = list(stream.iterate(first, stop - first))
        assert len(batches) == stream.num_micro_steps * (stop - first)
        for number, batch in enumerate(batches):
            steps[first + number // stream.num_micro_steps] += contents(batch)
        stream.close()
    return steps


@pytest.fixture(scope="module")
def alone(toy_set: Path) -> dict[PartialBatch, dict[int, Any]]:
    """One rank, one micro batch, no workers."""
    return {
        "carry": collect(toy_set, num_ranks=1, micro=8, partial_batch="carry"),
        "drop": collect(toy_set, num_ranks=1, micro=8, partial_batch="drop"),
    }


@pytest.mark.parametrize(("num_ranks", "num_workers", "micro"), [(2, 0, 4), (4, 0, 1), (8, 0, 1), (1, 2, 4), (2, 1, 2)])
@pytest.mark.parametrize("partial", ["carry", "drop"])
def test_batches_do_not_depend_on_ranks_workers_or_micro_batches(
    toy_set: Path,
    alone: dict[PartialBatch, dict[int, Any]],
    partial: PartialBatch,
    num_ranks: int,
    num_workers: int,
    micro: int,
) -> None:
    found = collect(toy_set, num_ranks=num_ranks, micro=micro, num_workers=num_workers, partial_batch=partial)
    assert found == alone[partial]


@pytest.mark.parametrize("stop_at", range(1, NUM_STEPS))
def test_a_run_stopped_at_any_step_goes_on_with_the_next_batch(
    toy_set: Path, alone: dict[PartialBatch, dict[int, Any]], stop_at: int
) -> None:
    found = collect(toy_set, num_ranks=2, micro=2, first=stop_at, partial_batch="carry")
    assert found == {step: batch for step, batch in alone["carry"].items() if step >= stop_at}


def test_each_epoch_holds_each_sample_once_with_its_own_label(
    toy_set: Path, alone: dict[PartialBatch, dict[int, Any]]
) -> None:
    reader = ShardReader(open_shards(toy_set, "train"))
    expected = sorted((key_hash(reader.read(sample).key), sample % NUM_CLASSES) for sample in range(48))
    images = [image for step in range(6) for image in alone["carry"][step]]
    assert sorted((key, label) for key, label, _, _ in images) == expected


def test_an_image_looks_otherwise_in_another_epoch(alone: dict[PartialBatch, dict[int, Any]]) -> None:
    first = {key: pixels for step in range(6) for key, _, _, pixels in alone["carry"][step]}
    second = [(key, pixels) for step in range(6, 9) for key, _, _, pixels in alone["carry"][step]]
    assert sum(first[key] == pixels for key, pixels in second) <= 1


def test_the_digest_is_that_of_the_keys_over_all_ranks(
    toy_set: Path, alone: dict[PartialBatch, dict[int, Any]]
) -> None:
    partial = [
        next(
            iter(open_stream(toy_set, world=rank_of(rank, 2), micro=4, partial_batch="carry").iterate(4, 1))
        ).key_hashes.sum()
        for rank in range(2)
    ]
    expected = sum(key for key, _, _, _ in alone["carry"][4]) % 2**64
    assert batch_digest(torch.stack(partial)) == f"{expected:016x}"


def test_a_batch_may_be_larger_than_an_epoch_when_carried(toy_set: Path) -> None:
    stream = open_stream(toy_set, size=100, micro=100, partial_batch="carry")
    (batch,) = stream.iterate(0, 1)
    counts = torch.unique(batch.key_hashes, return_counts=True)[1]
    assert sorted(counts.tolist()) == [2] * 44 + [3] * 4
    assert stream.steps_per_epoch == 0.48
    assert [stream.epoch_of(step) for step in range(3)] == [0, 2, 4]


def test_what_a_batch_is_made_of(toy_set: Path) -> None:
    stream = open_stream(toy_set, micro=4)
    batch = next(iter(stream.iterate(0, 1)))
    assert batch.images_bchw.shape == (4, 3, 16, 16)
    assert batch.images_bchw.dtype == torch.uint8
    assert batch.images_bchw.is_contiguous(memory_format=torch.channels_last)
    assert (batch.labels.dtype, batch.key_hashes.dtype) == (torch.int64, torch.int64)
    assert (batch.erase_boxes.dtype, batch.is_real.tolist(), batch.bad_samples) == (torch.int32, [True] * 4, ())
    assert (stream.num_samples, stream.num_micro_steps, stream.steps_per_epoch) == (48, 2, 6.0)
    assert [key_hash(key) for key in batch.keys] == batch.key_hashes.tolist()
    assert stream.label_space.name == "numbered"
    assert stream.manifest_fingerprint == open_shards(toy_set, "train").fingerprint


def test_the_callers_randomness_is_left_alone(toy_set: Path) -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    expected = draw()
    for num_workers in (0, 1):
        random.setstate(states[0]), np.random.set_state(states[1]), torch.set_rng_state(states[2])
        stream = open_stream(toy_set, num_workers=num_workers)
        list(stream.iterate(0, 2))
        stream.close()
        assert draw() == expected


def child_pids() -> set[int]:
    return {child.pid for child in multiprocessing.active_children() if child.pid is not None}


def test_workers_stay_ignore_signals_and_end_with_the_stream(
    toy_set: Path, alone: dict[PartialBatch, dict[int, Any]]
) -> None:
    before = child_pids()
    stream = open_stream(toy_set, num_workers=2)
    batches = iter(stream.iterate(0, 9))
    next(batches), next(batches)  # one from each: both have started
    workers = child_pids() - before
    assert len(workers) == 2
    for pid in workers:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            os.kill(pid, number)
    found = [contents(batch) for batch in stream.iterate(4, 3)]
    assert found == [alone["drop"][step] for step in (4, 5, 6)]
    assert child_pids() - before == workers
    stream.close()
    assert child_pids() == before


def test_an_iteration_ends_when_another_begins(toy_set: Path) -> None:
    stream = open_stream(toy_set)
    first = iter(stream.iterate(0, 3))
    next(first)
    next(iter(stream.iterate(0, 1)))
    with pytest.raises(RuntimeError, match="ended by a later one"):
        next(first)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
def test_workers_of_a_killed_process_end_by_themselves(toy_set: Path) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            before = child_pids()
            stream = open_stream(toy_set, num_workers=2)
            next(iter(stream.iterate(0, 9)))
            os.write(write, " ".join(map(str, child_pids() - before)).encode())
            time.sleep(30)
        finally:
            os._exit(1)
    workers = [int(pid) for pid in os.read(read, 100).split()]
    assert len(workers) == 2
    assert all(is_running(pid) for pid in workers)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    deadline = time.monotonic() + 30  # torch's workers look for their parent every 5 seconds
    while any(is_running(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("size", "num_ranks", "micro", "problem"),
    [
        (8, 3, 1, r"global_batch_size 8 cannot be divided over 3 ranks; world sizes that divide it: 1, 2, 4, 8$"),
        (
            24,
            2,
            5,
            r"leaves 12 images a rank, which is not a multiple of micro_batch_size 5; .* may be 1, 2, 3, 4, 6, 12$",
        ),
        (24, 2, 8, r"micro_batch_size may be 1, 2, 3, 4, 6, 12, or the world size 1, 3$"),
        (0, 1, 1, r"^global_batch_size: must be at least 1, not 0$"),
        (8, 1, -4, r"^micro_batch_size: must be at least 1, not -4$"),
    ],
)
def test_a_world_that_does_not_divide_the_batch_is_told_which_do(
    size: int, num_ranks: int, micro: int, problem: str
) -> None:
    with pytest.raises(UserError, match=problem):
        check_division(size, num_ranks=num_ranks, micro_batch_size=micro)


def test_a_micro_batch_of_nothing_is_not_taken_for_one_that_was_left_open(toy_set: Path) -> None:
    with pytest.raises(UserError, match="micro_batch_size: must be at least 1, not 0"):
        open_train_stream(toy_set, global_batch_size=8, micro_batch_size=0, image_size=32)


def test_the_division_is_checked_before_files_are_opened(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be divided over 3 ranks"):
        open_stream(tmp_path / "nowhere", world=rank_of(0, 3))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"num_workers": -1}, "num_workers: must be 0 or more, not -1"),
        ({"prefetch": 0}, "prefetch: must be at least 1, not 0"),
        ({"max_bad_sample_rate": 2.0}, r"max_bad_sample_rate: must be from 0 to 1, not 2\.0"),
        ({"shuffle_window_shards": 0}, "shuffle_window_shards: must be at least 1, not 0"),
    ],
)
def test_bad_settings_are_named(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=f"(?m)^{problem}"):
        configure(tmp_path, **changes)


def test_the_config_can_be_written_and_read(tmp_path: Path) -> None:
    config = configure(tmp_path)
    values = to_values(config)
    begun = dict(flatten_values(values))
    assert build_config(StreamConfig, values, source="test") == replace(config, shards=str(config.shards))
    moved = configure(tmp_path / "elsewhere", num_workers=3, max_bad_sample_rate=0.1, prefetch=4)
    assert list_changes(moved, begun) == []
    assert list_changes(configure(tmp_path, shuffle_window_shards=9), begun) == ["shuffle_window_shards: 2 -> 9"]


def test_a_closed_stream_leaves_no_tar_open(toy_set: Path) -> None:
    def count_open() -> int:
        return sum(path.resolve().suffix == ".tar" for path in Path("/proc/self/fd").iterdir())

    gc.collect()  # streams that other tests left behind
    open_before = count_open()
    stream = open_stream(toy_set)
    list(stream.iterate(0, 5))
    assert count_open() - open_before == 4
    stream.close()
    assert count_open() == open_before


def test_what_may_lie_in_shared_memory_is_what_workers_prepare_and_two_steps(toy_set: Path) -> None:
    stream = open_stream(toy_set, micro=2, num_workers=3, prefetch=4)
    batch_bytes = count_batch_bytes(2, bytes_per_image=3 * TRANSFORM.image_size**2)
    assert stream.count_shared_bytes() == (3 * 4 + 2 * 4) * batch_bytes
    stream.close()
    stream = open_stream(toy_set, micro=2, num_workers=0)
    assert stream.count_shared_bytes() == 0


def test_a_loop_of_ones_own_needs_a_path_sizes_and_a_rank(toy_set: Path) -> None:
    found = []
    for rank in range(2):
        stream = open_train_stream(toy_set, image_size=16, global_batch_size=8, rank=rank, num_ranks=2, seed=5)
        for batch in stream.iterate(first_step=2, num_steps=3):
            assert batch.images_bchw.shape == (4, 3, 16, 16)
            assert [key_hash(key) for key in batch.keys] == batch.key_hashes.tolist()
            found += list(zip(batch.keys, batch.labels.tolist(), strict=True))
        stream.close()
    config = StreamConfig(shards=toy_set, transform=TransformConfig(image_size=16))
    stream = open_train_stream(config, global_batch_size=8, seed=5)
    whole = [pair for batch in stream.iterate(2, 3) for pair in zip(batch.keys, batch.labels.tolist(), strict=True)]
    stream.close()
    assert sorted(found) == sorted(whole)


def test_a_loop_of_ones_own_is_the_rank_that_its_launcher_says(toy_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_keys(**world: int) -> list[str]:
        stream = open_train_stream(toy_set, image_size=16, global_batch_size=8, **world)
        found = [key for batch in stream.iterate(0, 2) for key in batch.keys]
        stream.close()
        return found

    expected = [read_keys(rank=rank, num_ranks=2) for rank in range(2)]
    for name, value in {"WORLD_SIZE": 2, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2, "RANK": 1}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)  # other tests' group of one
    assert read_keys() == expected[1] != expected[0]
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    with pytest.raises(UserError, match=r"torch.distributed has 4 ranks, the launcher's environment says 2, so"):
        read_keys()


def test_what_a_loop_of_ones_own_must_say_is_told(toy_set: Path) -> None:
    with pytest.raises(UserError, match=r"image_size: say how many pixels the edge of the images of .* shall have"):
        open_train_stream(toy_set, global_batch_size=8)
    with pytest.raises(UserError, match=r"image_size, num_workers: stand in the StreamConfig"):
        open_train_stream(configure(toy_set), global_batch_size=8, image_size=32)


def test_a_config_may_name_tars_that_were_never_indexed(toy_set: Path, tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    path.write_text(f"shards: {toy_set}/toy-{{00..03}}.tar\ntransform: {{image_size: 16}}\nshuffle_window_shards: 2\n")
    config = load_config(StreamConfig, path=path, overrides=[f"index={tmp_path}/index"])
    again = build_config(StreamConfig, to_values(config), source="config.yaml")
    assert again == config
    keys = []
    for described in (again, configure(toy_set, transform=TransformConfig(image_size=16))):
        stream = open_train_stream(described, global_batch_size=8, seed=5)
        keys.append([key for batch in stream.iterate(0, 6) for key in batch.keys])
        stream.close()
    assert keys[0] == keys[1]
    assert list((tmp_path / "index").rglob("train.index.npy"))
