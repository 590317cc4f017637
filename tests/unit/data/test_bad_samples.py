"""Images that cannot be used: replaced, named and counted, the same way on any rank; too many end the run."""

from __future__ import annotations

import errno
import os
import re
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornet.batch import BadSample, Batch
from hornet.data import pipeline
from hornet.data.config import StreamConfig, TransformConfig
from hornet.data.loader import open_train_stream
from hornet.errors import UserError
from hornet.shards.reader import ShardReader, UnreadableSampleError
from hornet.shards.shard_set import open_shards
from tests.unit.shards.making import NOT_AN_IMAGE, flip_bit, key_hash, make_set, rank_of

TRANSFORM = TransformConfig(image_size=16, flip_probability=0.5, erase_probability=0.5)


@pytest.fixture(scope="module")
def damaged_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sample 7 is no image, 20 has a flipped bit in its image, 30 one in its header."""
    folder = make_set(tmp_path_factory.mktemp("damaged"), replaced={7: NOT_AN_IMAGE})
    records = open_shards(folder, "train").records
    flip_bit(folder / "toy-01.tar", byte=int(records[20]["offset"]) + int(records[20]["span"]) - 9)
    flip_bit(folder / "toy-02.tar", byte=int(records[30]["offset"]))
    return folder


def run(folder: Path, *, num_ranks: int = 1, num_workers: int = 0, num_steps: int = 12, micro: int = 2) -> list[Batch]:
    """All micro batches of all ranks, rank by rank."""
    config = StreamConfig(
        shards=folder,
        shuffle_window_shards=2,
        num_workers=num_workers,
        transform=TRANSFORM,
    )
    batches = []
    for rank in range(num_ranks):
        stream = open_train_stream(
            config, world=rank_of(rank, num_ranks), seed=2, global_batch_size=8, micro_batch_size=micro
        )
        with closing(stream):
            batches += list(stream.iterate(0, num_steps))
    return batches


def reports(batches: list[Batch]) -> list[BadSample]:
    return sorted((bad for batch in batches for bad in batch.bad_samples), key=lambda bad: (bad.epoch, bad.shard))


def images(batches: list[Batch]) -> list[tuple[int, bytes]]:
    return sorted(
        (int(key), image.numpy().tobytes())
        for batch in batches
        for key, image in zip(batch.key_hashes, batch.images_bchw, strict=True)
    )


def test_each_is_replaced_and_named_in_each_epoch(damaged_set: Path) -> None:
    records = open_shards(damaged_set, "train").records
    found = reports(run(damaged_set))
    assert [(bad.epoch, bad.shard) for bad in found] == [
        (epoch, f"toy-{shard:02d}.tar") for epoch in (0, 1) for shard in (0, 1, 2)
    ]
    assert [bad.offset for bad in found[:3]] == [int(records[sample]["offset"]) for sample in (7, 20, 30)]
    assert [bad.key for bad in found[:3]] == ["toy-00/s0007", "toy-01/s0020", f"toy-02/@{records[30]['offset']}"]
    reasons = ["not decodable (UnidentifiedImageError", "checksum", f"byte {records[30]['offset']}: damaged header"]
    assert all(bad.reason.startswith(reason) for bad, reason in zip(found, reasons * 2, strict=True))
    assert all("\n" not in bad.reason for bad in found)


def test_the_substitute_stands_in_the_batch(damaged_set: Path) -> None:
    for batch in run(damaged_set):
        assert batch.is_real.all()
        for bad in batch.bad_samples:
            assert key_hash(bad.substitute) in batch.key_hashes.tolist()
            assert bad.substitute in batch.keys
            assert key_hash(bad.key) not in batch.key_hashes.tolist()


def slots(batches: list[Batch]) -> list[tuple[int, bytes]]:
    """Key and pixels of each place, in order."""
    return [
        (int(key), image.numpy().tobytes())
        for batch in batches
        for key, image in zip(batch.key_hashes, batch.images_bchw, strict=True)
    ]


def test_all_others_stay_in_their_places(toy_set: Path, damaged_set: Path) -> None:
    """Batches stay full, and every other place holds what it holds in the healthy set, pixel for pixel."""
    healthy, damaged = slots(run(toy_set)), slots(run(damaged_set))
    assert len(healthy) == len(damaged) == 96
    bad = [key_hash(f"toy-{number // 12:02d}/s{number:04d}") for number in (7, 20, 30)]
    changed = [place for place, (one, other) in enumerate(zip(healthy, damaged, strict=True)) if one != other]
    assert changed == [place for place, (key, _) in enumerate(healthy) if key in bad]
    assert len(changed) == 6, "three in each of two epochs"


@pytest.mark.parametrize("cut_at", ["member", "within a header", "within a payload"])
def test_a_tar_cut_under_a_running_stream_loses_samples_by_name_not_in_silence(
    toy_set: Path, tmp_path: Path, cut_at: str
) -> None:
    """webdataset takes a tar that ends between two members for a shorter tar; here 5 samples of 12 are missed."""
    folder = make_set(tmp_path / "cut")
    record = open_shards(folder, "train").records[12 + 7]
    offset, span = int(record["offset"]), int(record["span"])
    end = {"member": offset, "within a header": offset + 100, "within a payload": offset + span - 5}[cut_at]
    config = StreamConfig(shards=folder, shuffle_window_shards=2, transform=TRANSFORM)
    stream = open_train_stream(config, world=rank_of(0, 1), seed=2, global_batch_size=8, micro_batch_size=8)
    os.truncate(folder / "toy-01.tar", end)
    found = list(stream.iterate(0, 6))
    missed = {(bad.shard, bad.offset) for bad in reports(found)}
    records = open_shards(toy_set, "train").records
    assert missed == {("toy-01.tar", int(records[sample]["offset"])) for sample in range(19, 24)}
    lost = {key_hash(f"toy-01/s{sample:04d}") for sample in range(19, 24)}
    healthy, damaged = slots(run(toy_set, num_steps=6, micro=8)), slots(found)
    assert [a for a in healthy if a[0] not in lost] == [
        b for a, b in zip(healthy, damaged, strict=True) if a[0] not in lost
    ]
    assert all(batch.is_real.all() for batch in found)


@given(st.integers(0, 47), st.integers(0, 2**20), st.integers(0, 7))
@settings(max_examples=60)
def test_no_flipped_bit_between_a_header_and_the_end_of_its_image_is_trained_on(
    spoilt: Path, sample: int, place: int, bit: int
) -> None:
    """Either the sample is reported, or what is read is what was written."""
    shards = open_shards(spoilt, "train")
    record = shards.records[sample]
    tar = spoilt / shards.split.shards[shards.shard_of(sample)]
    byte = int(record["offset"]) + place % int(record["span"])
    with closing(ShardReader(shards)) as reader:
        healthy = reader.read(sample)
        flip_bit(tar, byte=byte, bit=bit)
        try:
            found = reader.read(sample)
        except UnreadableSampleError:
            found = healthy
        finally:
            flip_bit(tar, byte=byte, bit=bit)
    assert found == healthy


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of which one bit at a time is flipped."""
    return make_set(tmp_path_factory.mktemp("spoilt"))


def test_each_epoch_has_other_substitutes(damaged_set: Path) -> None:
    found = [bad.substitute for bad in reports(run(damaged_set))]
    assert found[:3] != found[3:]


@pytest.mark.parametrize(("num_ranks", "num_workers", "micro"), [(2, 0, 4), (4, 0, 1), (1, 2, 8), (2, 1, 1)])
def test_substitutes_do_not_depend_on_who_works(
    damaged_set: Path, num_ranks: int, num_workers: int, micro: int
) -> None:
    alone = run(damaged_set)
    others = run(damaged_set, num_ranks=num_ranks, num_workers=num_workers, micro=micro)
    assert reports(others) == reports(alone)
    assert images(others) == images(alone)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_set_of_nothing_but_bad_samples_ends_the_run(tmp_path: Path, num_workers: int) -> None:
    folder = make_set(tmp_path, num_shards=1, replaced=dict.fromkeys(range(12), NOT_AN_IMAGE))
    with pytest.raises(
        UserError,
        match=r"neither sample toy-00/s00\d\d \(not decodable .*\) nor any of 16 substitutes can be used; check",
    ):
        run(folder, num_workers=num_workers)


def test_a_read_that_fails_once_is_tried_again_with_a_new_handle(
    toy_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy = images(run(toy_set))
    open_file, pread = os.open, os.pread
    num_opened: dict[Any, int] = {}
    stale: dict[int, bool] = {}

    def open_stale_at_first(path: Any, flags: int) -> int:
        descriptor = open_file(path, flags)
        num_opened[path] = num_opened.get(path, 0) + 1
        stale[descriptor] = num_opened[path] == 1
        return descriptor

    def read_unless_stale(descriptor: int, length: int, offset: int) -> bytes:
        if stale[descriptor]:
            raise OSError(errno.ESTALE, "Stale file handle")
        return pread(descriptor, length, offset)

    monkeypatch.setattr(os, "open", open_stale_at_first)
    monkeypatch.setattr(os, "pread", read_unless_stale)
    batches = run(toy_set)
    monkeypatch.undo()
    assert set(num_opened.values()) == {2}
    assert reports(batches) == []
    assert images(batches) == healthy


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long readers have paused; no time passes."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


def test_a_disk_that_is_away_for_some_seconds_is_waited_for(
    toy_set: Path, monkeypatch: pytest.MonkeyPatch, slept: list[float]
) -> None:
    """A client that Lustre has evicted, a server that restarts: all reads fail until it is back."""
    healthy = images(run(toy_set))
    pread = os.pread

    def read_once_back(descriptor: int, length: int, offset: int) -> bytes:
        if sum(slept) < 20:
            raise OSError(errno.EIO, "Input/output error")
        return pread(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", read_once_back)
    batches = run(toy_set)
    assert reports(batches) == []
    assert images(batches) == healthy
    assert slept == [1, 4, 15]


@pytest.mark.parametrize(("number", "is_waited_for"), [(errno.EIO, True), (errno.EACCES, False)])
def test_a_disk_that_stays_away_makes_a_bad_sample(
    toy_set: Path, monkeypatch: pytest.MonkeyPatch, slept: list[float], number: int, is_waited_for: bool
) -> None:
    broken = open_shards(toy_set, "train").locate(1)
    open_file = os.open

    def open_others(path: Any, flags: int) -> int:
        if str(path) == broken:
            raise OSError(number, os.strerror(number))
        return open_file(path, flags)

    monkeypatch.setattr(os, "open", open_others)
    found = reports(run(toy_set))
    assert {(bad.shard, bad.reason) for bad in found} == {("toy-01.tar", f"cannot be read ({os.strerror(number)})")}
    assert sum(slept) == (50 if is_waited_for else 0), "once for all samples of the shard"


def test_a_bad_place_of_a_disk_that_is_there_is_not_waited_for_long(
    toy_set: Path, monkeypatch: pytest.MonkeyPatch, slept: list[float]
) -> None:
    """Each of hundreds of workers meets it in some epoch, and all others wait for it."""
    shards, pread = open_shards(toy_set, "train"), os.pread
    record = shards.records[0]
    start, stop = int(record["offset"]), int(record["offset"]) + int(record["span"])

    def read_around(descriptor: int, length: int, offset: int) -> bytes:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if str(path) == shards.locate(0) and offset < stop and offset + length > start:
            raise OSError(errno.EIO, "Input/output error")
        return pread(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", read_around)
    found = reports(run(toy_set))
    assert {bad.reason for bad in found} == {"cannot be read (Input/output error)"}
    assert slept == [1]


def test_a_disk_that_is_gone_is_waited_for_once_and_ends_the_run(
    toy_set: Path, monkeypatch: pytest.MonkeyPatch, slept: list[float]
) -> None:
    def fail(descriptor: int, length: int, offset: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(UserError, match=r"cannot be read \(Input/output error\)\) nor any of 16 substitutes"):
        run(toy_set)
    assert slept == [1, 4, 15, 30]


def test_a_bug_in_a_transform_is_not_taken_for_a_bad_sample(toy_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("bits must be between 1 and 8")

    monkeypatch.setattr(pipeline.TrainTransform, "__call__", broken)
    with pytest.raises(ValueError, match="bits must be") as caught:
        run(toy_set)
    (note,) = caught.value.__notes__
    assert re.fullmatch(r"transforming sample toy-0\d/s00\d\d; a plain image fails as well, so .* at fault", note)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_image_that_the_transform_alone_refuses_is_a_bad_sample(
    toy_set: Path, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    """Whatever an image does to a transform goes the way of damaged ones: named, replaced, counted."""
    healthy = run(toy_set)
    draw = pipeline.TrainTransform.__call__
    with closing(ShardReader(open_shards(toy_set, "train"))) as reader:
        poison = reader.read(20).image

    def fail_on_one(self: Any, content: bytes, *, key: tuple[int, int, int]) -> Any:
        if content == poison:
            raise ZeroDivisionError("a crop of\nnothing")
        return draw(self, content, key=key)

    monkeypatch.setattr(pipeline.TrainTransform, "__call__", fail_on_one)
    found = run(toy_set, num_workers=num_workers)
    assert [(bad.shard, bad.key, bad.reason) for bad in reports(found)] == [
        ("toy-01.tar", "toy-01/s0020", "cannot be transformed (ZeroDivisionError: a crop of nothing)")
    ] * 2
    pairs = zip(slots(healthy), slots(found), strict=True)
    assert [one[0] for one, other in pairs if one != other] == [key_hash("toy-01/s0020")] * 2
