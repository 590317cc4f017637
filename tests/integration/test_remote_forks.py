"""Remote files in processes that fork, and that end without a word."""

from __future__ import annotations

import gc
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.servers import NGINX, run_nginx
from hornet.shards.remote.files import RemoteConfig, RemoteFiles
from tests.patience import PATIENCE
from tests.unit.shards.making import make_set

pytest.importorskip("aiohttp")

pytestmark = pytest.mark.slow

FORGETFUL = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from hornet.data.loader import open_train_stream
from hornet.data.config import StreamConfig
from hornet.shards.remote.files import RemoteConfig
from hornet.data.config import TransformConfig
from hornet.world import ALONE

remote = RemoteConfig(cache=Path({cache!r}), deadline_seconds=20.0)
config = StreamConfig(
    shards={url!r}, num_workers={num_workers}, transform=TransformConfig(image_size=16), remote=remote
)
stream = open_train_stream(config, world=ALONE, seed=0, global_batch_size=8, micro_batch_size=8)
batches = stream.iterate(0, 100)
next(batches)
raise SystemExit(3)
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if NGINX is None:
        pytest.skip("no nginx (Debian's nginx-light)")
    folder = tmp_path_factory.mktemp("served")
    make_set(folder / "set")
    with run_nginx(folder, tmp_path_factory.mktemp("nginx") / "run") as port:
        yield f"http://127.0.0.1:{port}/set"


def test_a_fork_takes_no_connection_from_its_parent(url: str) -> None:
    """What a child collects of its parent's event loop would be taken out of the epoll that both share."""
    files = RemoteFiles(RemoteConfig(deadline_seconds=120.0))
    ranges = [(f"{url}/toy-0{number % 4}.tar", 512, 1000) for number in range(32)]

    def read_in_child() -> None:
        files.read_many(ranges)
        gc.collect()

    for _ in range(3):
        files.read_many(ranges)
        child = multiprocessing.get_context("fork").Process(target=read_in_child)
        started = time.monotonic()
        child.start()
        child.join(30)
        assert child.exitcode == 0
        files.read_many(ranges)
        assert time.monotonic() - started < 20, "a request waited until its time was up"


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_run_that_does_not_close_its_stream_still_ends(url: str, tmp_path: Path, num_workers: int) -> None:
    root = str(Path(__file__).parents[2])
    program = FORGETFUL.format(root=root, cache=str(tmp_path / "cache"), url=url, num_workers=num_workers)
    done = subprocess.run([sys.executable, "-c", program], timeout=PATIENCE, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (3, "")
