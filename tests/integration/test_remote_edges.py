"""Servers and caches that are not as they should be, in ways that cost much where they are not noticed."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hornet.data import shard_prefetch
from hornet.data.loader import StreamConfig, open_train_stream
from hornet.data.order import Order
from hornet.data.remote_files import RemoteConfig, RemoteFiles
from hornet.data.shard_cache import ShardCache
from hornet.data.shard_reader import ShardReader
from hornet.data.shards import open_shards
from hornet.data.transforms import TransformConfig
from hornet.errors import UserError
from hornet.world import ALONE
from tests.integration.servers import NGINX, run_nginx
from tests.unit.data.making import NOT_AN_IMAGE, make_set

pytest.importorskip("aiohttp")

BAD_SAMPLE = 5


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set with bytes that are no picture, and right in every checksum."""
    folder = tmp_path_factory.mktemp("served")
    make_set(folder / "set", replaced={BAD_SAMPLE: NOT_AN_IMAGE})
    return folder


@pytest.fixture(scope="module")
def url(served: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if NGINX is None:
        pytest.skip("no nginx (Debian's nginx-light)")
    with run_nginx(served, tmp_path_factory.mktemp("nginx") / "run") as port:
        yield f"http://127.0.0.1:{port}/set"


def fill_cache(url: str, served: Path, cache: Path) -> list[Path]:
    """As a prefetcher does; returns where the tars are."""
    cache.mkdir()
    places = []
    for path in sorted((served / "set").glob("*.tar")):
        places.append(ShardCache(cache, max_bytes=10**9).place(f"{url}/{path.name}"))
        places[-1].write_bytes(path.read_bytes())
    return places


def test_bytes_that_are_no_picture_do_not_cost_the_cache_a_good_tar(url: str, served: Path, tmp_path: Path) -> None:
    places = fill_cache(url, served, tmp_path / "cache")
    inodes = [place.stat().st_ino for place in places]
    config = StreamConfig(
        shards=url,
        transform=TransformConfig(image_size=16),
        max_bad_sample_rate=1.0,
        remote=RemoteConfig(cache=tmp_path / "cache", deadline_seconds=10.0),
    )
    stream = open_train_stream(config, world=ALONE, seed=0, global_batch_size=8, micro_batch_size=8)
    with closing(stream):
        bad = [bad for batch in stream.iterate(0, 6) for bad in batch.bad_samples]
    assert [sample.key for sample in bad] == [f"toy-00/s{BAD_SAMPLE:04d}"]
    assert [place.stat().st_ino for place in places] == inodes


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become someone else")
def test_tars_in_the_cache_that_others_keep_to_themselves_are_read_from_the_server(
    url: str, served: Path, tmp_path: Path
) -> None:
    places = fill_cache(url, served, tmp_path / "cache")
    shards = open_shards(url, "train", remote=RemoteConfig(cache=tmp_path / "cache", deadline_seconds=10.0))
    for place in places:
        place.chmod(0)
    reader = ShardReader(shards)
    os.seteuid(65534)
    try:
        reader.prepare(range(8))
        assert [reader.read(sample).key for sample in range(8)] == [f"toy-00/s{sample:04d}" for sample in range(8)]
    finally:
        os.seteuid(0)


def test_a_server_without_ranges_is_refused_before_it_sends_whole_tars(tmp_path: Path) -> None:
    (tmp_path / "big.tar").write_bytes(bytes(200 << 20))
    sent = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def copyfile(self, source: Any, outputfile: Any) -> None:
            while piece := source.read(1 << 16):
                outputfile.write(piece)
                sent.append(len(piece))

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path))) as httpd:
        httpd.handle_error = lambda *_: None  # type: ignore[method-assign] # clients that have had enough
        threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        files = RemoteFiles(RemoteConfig(deadline_seconds=10.0))
        with pytest.raises(UserError, match=r"big\.tar: the server sends whole files .* copy the tars to a folder"):
            files.read(f"http://127.0.0.1:{httpd.server_port}/big.tar", 512, 1500)
        httpd.shutdown()
    assert sum(sent) < 50 << 20, "what fits the sockets' buffers"


def test_who_has_nothing_to_fetch_leaves_the_cores_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    num_looks, clock = 0, [0.0]

    def look(shard: int) -> bool:
        nonlocal num_looks
        num_looks += shard == 0
        clock[0] += 0.001
        return True

    def sleep(seconds: float) -> None:
        clock[0] += seconds
        if clock[0] > 100:
            raise TimeoutError

    monkeypatch.setattr(shard_prefetch, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    order = Order(shard_lengths=[10] * 150, seed=0, shuffle_window_shards=8, global_batch_size=8, partial_batch="drop")
    downloader: Any = SimpleNamespace(num_fitting=150, has=look)
    with pytest.raises(TimeoutError):
        shard_prefetch.prefetch(downloader, order, SimpleNamespace(now=0))  # type: ignore[arg-type]
    assert num_looks * 0.15 < 0.06 * 100
