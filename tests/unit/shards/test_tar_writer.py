"""Tars as they are written, read back by tarfile, webdataset and our own strict index."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import webdataset

from hornet.shards.build.tar_writer import EncodedSample, write_shard
from hornet.shards.index import index_tar
from tests.unit.shards.making import encode, make_image


def samples() -> list[EncodedSample]:
    stems = ["n01440764_1", "a/b", "x" * 150, "é" * 60, "exactly" + "y" * 89]
    return [
        EncodedSample(
            stem=stem, extension="png", image=encode(make_image(number, width=20 + number)), label=number * 777
        )
        for number, stem in enumerate(stems)
    ]


def test_the_index_made_on_the_way_is_that_of_the_finished_tar(tmp_path: Path) -> None:
    index = write_shard(tmp_path / "a.tar", samples())
    content = (tmp_path / "a.tar").read_bytes()
    read = index_tar(tmp_path / "a.tar", checksums=True)
    assert index.records.tolist() == read.records.tolist()
    assert index.num_bytes == read.num_bytes == len(content)
    assert index.sha256 == read.sha256 == hashlib.sha256(content).hexdigest()


def test_other_readers_agree(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", samples())
    read = list(webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False, empty_check=False))
    assert [(sample["__key__"], sample["png"], int(sample["cls"])) for sample in read] == [
        (sample.stem, sample.image, sample.label) for sample in samples()
    ]
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert {(member.mtime, member.uid, member.uname) for member in tar} == {(0, 0, "")}
    assert (tmp_path / "a.tar").stat().st_size % tarfile.RECORDSIZE == 0


def test_a_tar_that_is_not_finished_never_shows(tmp_path: Path) -> None:
    def stop() -> Iterator[EncodedSample]:
        yield samples()[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path / "a.tar", stop())
    assert list(tmp_path.iterdir()) == []
