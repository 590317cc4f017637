"""The stages for webdataset over a server: the samples and the order of the local tars, with a cache and without."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from hornet.data.webdataset import EvaluationSamples, TrainSamples
from hornet.shards.remote.files import RemoteConfig
from tests.unit.shards.test_remote_index import Server, server, tars  # noqa: F401  fixtures
from tests.unit.shards.whole_tars import read_by_webdataset


def strip(samples: Any) -> list[dict[str, Any]]:
    """Without what says where the samples come from."""
    return [
        {name: value for name, value in sample.items() if name not in ("__url__", "__is_real__")} for sample in samples
    ]


NAMES = "big-{0..2}.tar"


def test_the_order_is_that_of_the_local_tars(server: Server, tars: Path, tmp_path: Path) -> None:  # noqa: F811
    options: dict[str, Any] = {"global_batch_size": 4, "rank": 0, "num_ranks": 1, "num_steps": 4}
    local = TrainSamples(str(tars / NAMES), index=tmp_path / "local", **options)
    remote = TrainSamples(f"{server.url}/{NAMES}", index=tmp_path / "remote", **options)
    assert strip(remote) == strip(local)
    remote.load_state_dict(local.state_dict())  # the same set, wherever it is


@pytest.mark.slow
def test_a_cache_fills_while_samples_are_read(server: Server, tars: Path, tmp_path: Path) -> None:  # noqa: F811
    source = TrainSamples(
        f"{server.url}/{NAMES}",
        global_batch_size=4,
        rank=0,
        num_ranks=1,
        index=tmp_path / "index",
        remote=RemoteConfig(cache=tmp_path / "cache"),
    )
    samples = iter(source)
    next(samples)
    while len(list((tmp_path / "cache").glob("*.tar"))) < len(list(tars.glob("*.tar"))):
        time.sleep(0.05)
    samples.close()  # type: ignore[attr-defined]
    whole = EvaluationSamples(
        f"{server.url}/{NAMES}",
        batch_size=4,
        rank=0,
        num_ranks=1,
        index=tmp_path / "index",
        remote=RemoteConfig(cache=tmp_path / "cache"),
    )
    real = [sample for sample in whole if sample["__is_real__"]]
    assert strip(real) == strip(read_by_webdataset(sorted(map(str, tars.glob("*.tar")))))


def test_a_cache_may_be_named_by_a_text(server: Server, tars: Path, tmp_path: Path) -> None:  # noqa: F811
    text: Any = str(tmp_path / "cache")
    whole = EvaluationSamples(
        f"{server.url}/{NAMES}",
        batch_size=4,
        rank=0,
        num_ranks=1,
        index=tmp_path / "index",
        remote=RemoteConfig(cache=text),
    )
    real = [sample for sample in whole if sample["__is_real__"]]
    assert strip(real) == strip(read_by_webdataset(sorted(map(str, tars.glob("*.tar")))))
