"""`build` killed at random moments, again and again: the tars are those of an undisturbed build."""

from __future__ import annotations

import io
import multiprocessing
import random
import tarfile
import time
from pathlib import Path

import pytest

from hornet.shards.build import listing
from hornet.shards.build.build import build
from hornet.shards.build.plan import BuildPlan
from hornet.shards.build.selection import Selection
from tests.unit.shards.making import encode, make_image

NUM_KILLS = 50
NUM_CLASSES = 6
PER_CLASS = 40


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same images as class folders, a tar of tars, and a gzip of that."""
    folder = tmp_path_factory.mktemp("archives")
    images = {f"n{label:08d}": [] for label in range(NUM_CLASSES)}
    for label, (synset, listed) in enumerate(images.items()):
        for number in range(PER_CLASS):
            content = encode(make_image(label * PER_CLASS + number, width=120, height=90), "JPEG")
            broken = number == 3
            listed.append((f"{synset}_{number}.JPEG", content[:50] if broken else content))
            path = folder / "folders" / synset / f"{synset}_{number}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(listed[-1][1])
    for name, mode in (("whole.tar", "w"), ("whole.tar.gz", "w:gz")):
        with tarfile.open(folder / name, mode) as outer:
            for synset, listed in images.items():
                _add(outer, f"{synset}.tar", _tar(listed))
    return [folder / "folders", folder / "whole.tar", folder / "whole.tar.gz"]


def _tar(members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members:
            _add(tar, name, content)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _build(source: Path, output: Path) -> None:
    listing.COMMIT_SECONDS = 0.0
    build(
        BuildPlan(
            source=source,
            output=output,
            name="killed",
            samples_per_shard=7,
            selection=Selection(validation_per_class=5),
            num_workers=2,
        )
    )


def _read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_a_build_killed_at_fifty_random_moments_ends_in_the_same_bytes(archives: list[Path], tmp_path: Path) -> None:
    chance = random.Random(0)
    context = multiprocessing.get_context("fork")
    expected, seconds = {}, {}
    for source in archives:
        start = time.monotonic()
        _build(source, tmp_path / "undisturbed" / source.name)
        seconds[source] = time.monotonic() - start
        expected[source] = _read(tmp_path / "undisturbed" / source.name)
    kills = campaigns = 0
    while kills < NUM_KILLS or campaigns < len(archives):
        source = archives[campaigns % len(archives)]
        output = tmp_path / f"campaign-{campaigns}"
        most_seconds = 0.6 * seconds[source]
        while True:
            attempt = context.Process(target=_build, args=(source, output))
            attempt.start()
            attempt.join(chance.uniform(0, most_seconds))
            most_seconds *= 1.1  # or a machine that has become slower would never let it end
            if attempt.exitcode is not None:
                assert attempt.exitcode == 0
                break
            attempt.kill()
            attempt.join()
            kills += 1
        assert _read(output) == expected[source], f"campaign {campaigns}, {source.name}"
        campaigns += 1
