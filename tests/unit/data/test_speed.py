"""`bench`: its arithmetic, and one real measurement."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from hornet.cli.shard_commands.bench import add_bench, bench
from hornet.data.config import StreamConfig, TransformConfig
from hornet.data.speed import Speed, SpeedReport, describe_speed, measure_speed
from hornet.errors import UserError
from hornet.shards.shard_set import open_shards
from tests.integration.conftest import ROOT
from tests.patience import PATIENCE


def report(milliseconds: float) -> SpeedReport:
    speed = Speed(num_workers=2, images_per_second=900, cpu_seconds_per_image=milliseconds / 1e3)
    return SpeedReport(
        speeds=[speed], read_seconds_per_image=4e-5, transform_seconds_per_image=1.9e-3, bytes_per_image=90_000
    )


def test_cores_for_gpus() -> None:
    text = describe_speed(report(2.0), images_per_second=1500, num_gpus=8, num_cores=96)
    assert "8 GPUs at 1500 images/s: 24.0 cores, 1080 MB/s from the shards" in text
    assert "this machine has 96 cores, good for 48000 images/s at most" in text
    assert "set data.num_workers to 3 or more" in text
    text = describe_speed(report(2.0), images_per_second=1500, num_gpus=1, num_cores=2)
    assert "1 GPU at 1500 images/s: 3.0 cores" in text
    assert "these cores do not feed them" in text


def test_a_set_is_streamed(toy_set: Path) -> None:
    config = StreamConfig(shards=toy_set, transform=TransformConfig(image_size=32))
    found = measure_speed(config, batch_size=4, seconds=0.2, worker_counts=[0, 1])
    assert [speed.num_workers for speed in found.speeds] == [0, 1]
    assert all(speed.images_per_second > 0 and speed.cpu_seconds_per_image > 0 for speed in found.speeds)
    assert found.read_seconds_per_image > 0
    assert found.bytes_per_image == open_shards(toy_set, "train").records["span"].mean(), "of images, not of tars"
    with pytest.raises(UserError, match="must be more than 0"):
        measure_speed(config, batch_size=4, seconds=0, worker_counts=[0])


@pytest.mark.slow
def test_the_command(toy_set: Path) -> None:
    command = ["bench", toy_set, "--seconds", "0.2", "--workers", "1", "--batch-size", "4", "--image-size", "32"]
    done = subprocess.run(
        [sys.executable, ROOT / "launch/shards.py", *map(str, command)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert "workers   images/s   CPU ms an image\n      1" in done.stdout
    assert "1 GPU at 1000 images/s" in done.stdout


def test_the_command_takes_a_pattern_of_tars_as_a_run_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have no manifest yet: it is only of the folder of a set that one is asked for first."""
    asked: list[str] = []
    monkeypatch.setattr("hornet.data.speed.measure_speed", lambda config, **_: asked.append(str(config.shards)))
    monkeypatch.setattr("hornet.data.speed.describe_speed", lambda *_, **__: "")
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    parser = argparse.ArgumentParser()
    add_bench(parser.add_subparsers())
    bench(parser.parse_args(["bench", "absent/x-{000..001}.tar"]))
    assert asked == ["absent/x-{000..001}.tar"]
    with pytest.raises(UserError, match=r"absent/_info.json is missing"):
        bench(parser.parse_args(["bench", "absent"]))
