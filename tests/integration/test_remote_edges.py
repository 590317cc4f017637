"""Servers and caches that are not as they should be, in ways that cost much where they are not noticed."""

from __future__ import annotations

import multiprocessing
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

from benchmarks.servers import NGINX, run_nginx
from hornet.data import prefetch as shard_prefetch
from hornet.data.config import StreamConfig, TransformConfig
from hornet.data.loader import open_train_stream
from hornet.data.order import Order
from hornet.errors import UserError
from hornet.shards.reader import ShardReader
from hornet.shards.remote import files as remote_files
from hornet.shards.remote.cache import ShardCache
from hornet.shards.remote.files import RemoteConfig, RemoteFiles
from hornet.shards.shard_set import open_shards
from hornet.world import ALONE
from tests.unit.shards.making import NOT_AN_IMAGE, make_set

pytest.importorskip("aiohttp")

BAD_SAMPLE = 5


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set with bytes that are no image, and right in every checksum."""
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
        places.append(ShardCache(cache, max_bytes=10**9).locate(f"{url}/{path.name}"))
        places[-1].write_bytes(path.read_bytes())
    return places


def test_bytes_that_are_no_image_do_not_cost_the_cache_a_good_tar(url: str, served: Path, tmp_path: Path) -> None:
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


class Served:
    """A folder behind a server of Python's, which knows ranges, with what was asked of it."""

    def __init__(self, root: Path, *, whole_as_200: bool = False) -> None:
        self.asked: list[tuple[str, str]] = []
        served = self

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                content = (root / self.path.lstrip("/")).read_bytes()
                start, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
                served.asked.append((self.path, self.headers["Range"]))
                part = content[start : last + 1]
                is_whole = whole_as_200 and part == content
                self.send_response(200 if is_whole else 206 if part else 416)
                self.send_header("Content-Length", str(len(part)))
                self.end_headers()
                self.wfile.write(part)

        self._httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._httpd.server_port}"

    def __enter__(self) -> Served:
        threading.Thread(target=self._httpd.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._httpd.shutdown()
        self._httpd.server_close()


@pytest.mark.parametrize("num_bytes", [0, 1, 999, 1000, 1001, 3000])
def test_whole_files_come_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_bytes: int) -> None:
    """An index of 284 MB need not come within the time for one answer."""
    monkeypatch.setattr(remote_files, "PIECE_BYTES", 1000)
    content = bytes(number % 251 for number in range(num_bytes))
    (tmp_path / "index").write_bytes(content)
    with Served(tmp_path) as served:
        assert RemoteFiles(RemoteConfig(deadline_seconds=10.0)).read_all(f"{served.url}/index") == content
    assert len(served.asked) == num_bytes // 1000 + 1


def test_a_server_may_call_a_range_of_everything_the_whole_file(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"12345")
    with Served(tmp_path, whole_as_200=True) as served:
        files = RemoteFiles(RemoteConfig(deadline_seconds=10.0))
        assert (files.read_all(f"{served.url}/small"), files.read(f"{served.url}/small", 0, 5)) == (b"12345",) * 2


def test_the_ranks_of_a_node_fetch_an_index_once(served: Path, tmp_path: Path) -> None:
    with Served(served) as server:
        context = multiprocessing.get_context("fork")
        remote = RemoteConfig(cache=tmp_path / "cache", deadline_seconds=10.0)
        ranks = [
            context.Process(target=open_shards, args=(f"{server.url}/set", "train"), kwargs={"remote": remote})
            for _ in range(4)
        ]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(30)
    assert [rank.exitcode for rank in ranks] == [0] * 4
    assert sum(path.endswith(".npy") for path, _ in server.asked) == 1
