"""The cache as processes share it: one download of a tar, its limit, kills, other jobs' files; and patience."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hornet.data.order import Order
from hornet.data.prefetch import list_wanted
from hornet.errors import UserError
from hornet.shards.remote import cache as shard_cache
from hornet.shards.remote.cache import DownloadError, ShardCache
from hornet.shards.remote.files import Patience, RemoteConfig

CONTENT = bytes(range(256)) * 40
PIECE = 512


@pytest.fixture(autouse=True)
def any_disk_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_cache, "KEPT_FREE_BYTES", 0)


def fetch(start: int, stop: int) -> Iterator[bytes]:
    for place in range(start, stop, PIECE):
        yield CONTENT[place : min(place + PIECE, stop)]


def download(cache: ShardCache, url: str = "s3://b/a.tar", **changes: Any) -> bool:
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    return cache.download(url, **{"num_bytes": len(CONTENT), "sha256": sha256, "fetch": fetch} | changes)


def read(cache: ShardCache, url: str) -> bytes | None:
    descriptor = cache.open(url)
    if descriptor is None:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def test_two_tars_of_one_name_are_two_files(tmp_path: Path) -> None:
    """A cache that goes by the last part of the URL gives the wrong one of these."""
    cache = ShardCache(tmp_path, max_bytes=10**6)
    assert download(cache, "s3://one/000.tar")
    assert read(cache, "s3://two/000.tar") is None
    assert download(cache, "s3://two/000.tar", num_bytes=10, sha256=None, fetch=lambda *_: iter([b"0123456789"]))
    assert (read(cache, "s3://one/000.tar"), read(cache, "s3://two/000.tar")) == (CONTENT, b"0123456789")


def test_processes_that_want_one_tar_fetch_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    fetches = context.Value("i", 0)

    def slow(start: int, stop: int) -> Iterator[bytes]:
        with fetches.get_lock():
            fetches.value += 1
        for piece in fetch(start, stop):
            time.sleep(0.01)
            yield piece

    def want() -> None:
        cache = ShardCache(tmp_path, max_bytes=10**6)
        while read(cache, "s3://b/a.tar") != CONTENT:
            download(cache, fetch=slow)
            time.sleep(0.005)

    processes = [context.Process(target=want) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert fetches.value == 1
    assert sorted(path.suffix for path in tmp_path.iterdir() if path.suffix) == [".tar"]


def test_a_killed_download_goes_on_where_it_was(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, max_bytes=10**6)
    context = multiprocessing.get_context("fork")

    def stall(start: int, stop: int) -> Iterator[bytes]:
        yield CONTENT[start : start + 5000]
        partial = cache.locate("s3://b/a.tar").with_suffix(".partial")
        os.truncate(partial, 5000)  # what had reached the file
        time.sleep(60)

    process = context.Process(target=download, args=(cache,), kwargs={"fetch": stall})
    process.start()
    partial = cache.locate("s3://b/a.tar").with_suffix(".partial")
    deadline = time.monotonic() + 20
    while not (partial.exists() and partial.stat().st_size == 5000) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not download(cache), "somebody is at it"
    process.kill()
    process.join()
    starts = []

    def rest(start: int, stop: int) -> Iterator[bytes]:
        starts.append(start)
        return fetch(start, stop)

    assert download(cache, fetch=rest)
    assert starts[0] == 5000
    assert read(cache, "s3://b/a.tar") == CONTENT


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"fetch": lambda *_: iter([CONTENT[:-1]])}, "10239 bytes came, the manifest says 10240"),
        ({"fetch": lambda *_: iter([CONTENT[::-1]])}, "SHA-256 is .*, the manifest says .*: another file, or damaged"),
    ],
)
def test_what_is_not_the_tar_never_gets_its_name(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    cache = ShardCache(tmp_path, max_bytes=10**6)
    with pytest.raises(DownloadError, match=f"s3://b/a.tar: {reason}"):
        download(cache, **changes)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert download(cache)


def test_the_longest_unused_goes_first_and_readers_read_on(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, max_bytes=3 * len(CONTENT))
    for number in range(3):
        assert download(cache, f"s3://b/{number}.tar")
        os.utime(cache.locate(f"s3://b/{number}.tar"), (number, number))
    held = cache.open("s3://b/0.tar")  # a use: now the newest
    assert held is not None
    assert download(cache, "s3://b/3.tar")
    assert read(cache, "s3://b/1.tar") is None
    assert read(cache, "s3://b/0.tar") == CONTENT
    for number in (4, 5, 6):
        assert download(cache, f"s3://b/{number}.tar")
        assert cache.count_bytes() <= cache.max_bytes
    assert read(cache, "s3://b/0.tar") is None
    with os.fdopen(held, "rb") as file:
        assert os.fstat(file.fileno()).st_nlink == 0, "whereby a reader sees that it should let go"
        assert file.read() == CONTENT


def test_what_is_wanted_soon_is_not_evicted_for_what_is_wanted_later(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, max_bytes=2 * len(CONTENT))
    urls = [f"s3://b/{number}.tar" for number in range(3)]
    assert download(cache, urls[0], wanted=urls)
    assert download(cache, urls[1], wanted=urls)
    assert not download(cache, urls[2], wanted=urls)
    assert read(cache, urls[0]) == read(cache, urls[1]) == CONTENT
    assert not list(tmp_path.glob("*.partial"))
    assert download(cache, urls[2], wanted=urls[1:])
    assert read(cache, urls[0]) is None


def test_a_partial_of_a_longer_tar_is_not_continued(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, max_bytes=10**6)
    cache.locate("s3://b/a.tar").with_suffix(".partial").write_bytes(b"x" * (len(CONTENT) + 1))
    assert download(cache)
    assert read(cache, "s3://b/a.tar") == CONTENT


def test_leftovers_of_others_make_room(tmp_path: Path) -> None:
    (tmp_path / "f00.partial").write_bytes(CONTENT)
    cache = ShardCache(tmp_path, max_bytes=len(CONTENT) + 100)
    assert download(cache)
    assert not (tmp_path / "f00.partial").exists()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        assert 0 < seconds <= 30
        self.now += seconds


def test_patience_waits_longer_each_time_and_ends_at_the_deadline() -> None:
    clock = Clock()
    patience = Patience(300, clock=lambda: clock.now, sleep=clock.sleep)

    def fail() -> bytes:
        clock.now += 0.1
        raise ConnectionResetError("reset by peer")

    with pytest.raises(UserError, match=r"s3://b/a: cannot be read, tried for \d+ s \(reset by peer\)"):
        patience.repeat("s3://b/a", fail)
    assert 250 < clock.now <= 300
    assert 12 < patience.num_retries < 30


def test_patience_forgets_failures_that_passed() -> None:
    clock = Clock()
    answers = iter([OSError("busy"), TimeoutError(), b"content"])

    def request() -> bytes:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    patience = Patience(300, clock=lambda: clock.now, sleep=clock.sleep)
    assert patience.repeat("http://h/a", request) == b"content"
    assert patience.num_retries == 2


@pytest.mark.parametrize("error", [PermissionError("403 Forbidden"), UserError("no ranges"), FileNotFoundError("gone")])
def test_patience_does_not_repeat_what_cannot_help(error: Exception) -> None:
    calls = []

    def request() -> bytes:
        calls.append(1)
        raise error

    patience = Patience(300, sleep=lambda _: pytest.fail("waited"))
    with pytest.raises((UserError, FileNotFoundError)):
        patience.repeat("http://h/a", request)
    assert len(calls) == 1


def test_the_shards_ahead_are_those_the_steps_read() -> None:
    order = Order(
        shard_lengths=[5, 7, 3, 9, 4, 8, 6], seed=1, shuffle_window_shards=2, global_batch_size=6, partial_batch="carry"
    )
    shard_of = [shard for shard, length in enumerate(order.lengths) for _ in range(length)]
    for step in range(20):
        wanted = list_wanted(order, step, 7)
        assert sorted(wanted) == list(range(7))
        window = wanted[:2]
        first = [shard_of[sample] for sample in order.pick(step=step, start=0, stop=6).samples]
        assert first[0] in window, "the step's first sample lies in the window that comes first"
        assert set(list_wanted(order, step, 3)) == set(wanted[:3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cache_gigabytes": 0.0}, "cache_gigabytes: must be over 0"),
        ({"deadline_seconds": -1.0}, "deadline_seconds: must be over 0"),
        ({"command": "aws s3 cp {url} -"}, "command: must hold {url}, and needs `cache`"),
    ],
)
def test_bad_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        RemoteConfig(**changes)
