"""Opening a split: everything that can be wrong with its files is found before training. Reading by number."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

from hornet.errors import UserError
from hornet.shards import reader as shard_reader
from hornet.shards.reader import ShardReader, UnreadableSampleError
from hornet.shards.shard_set import open_shards
from hornet.world import World
from tests.unit.shards.making import flip_bit, index, make_set, write_shards


@pytest.fixture
def damaged_set(toy_set: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(toy_set, tmp_path / "set"))


def num_open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def edit_info(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "_info.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_every_sample_is_what_webdataset_reads(toy_set: Path) -> None:
    shards = open_shards(toy_set, "train")
    reader = ShardReader(shards)
    tars = sorted(str(path) for path in toy_set.glob("*.tar"))
    expected = list(webdataset.WebDataset(tars, shardshuffle=False, empty_check=False))
    assert shards.num_samples == len(expected) == 48
    for number, sample in enumerate(expected):
        raw = reader.read(number)
        assert raw.key == f"{Path(sample['__url__']).stem}/{sample['__key__']}"
        assert raw.label == int(sample["cls"])
        assert raw.image == next(sample[extension] for extension in ("jpg", "png", "webp") if extension in sample)


def test_few_tars_are_open_at_a_time(toy_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_reader, "MAX_OPEN_SHARDS", 2)
    reader = ShardReader(open_shards(toy_set, "train"))
    before = num_open_files()
    for sample in range(0, 48, 5):
        reader.read(sample)
        assert num_open_files() <= before + 2
    reader.close()
    assert num_open_files() == before


def test_a_flipped_bit_in_an_image_is_noticed(damaged_set: Path) -> None:
    shards = open_shards(damaged_set, "train")
    record = shards.records[13]
    flip_bit(damaged_set / "toy-01.tar", byte=int(record["offset"]) + int(record["span"]) - 20)
    with pytest.raises(
        UnreadableSampleError, match=r"toy-01/s0013: checksum \w{8}, the index says \w{8}: damaged bytes"
    ):
        ShardReader(shards).read(13)


def test_a_flipped_bit_in_a_header_is_noticed(damaged_set: Path) -> None:
    shards = open_shards(damaged_set, "train")
    offset = int(shards.records[13]["offset"])
    flip_bit(damaged_set / "toy-01.tar", byte=offset + 3)
    with pytest.raises(UnreadableSampleError, match=rf"toy-01/@{offset}: byte {offset}: damaged header"):
        ShardReader(shards).read(13)


def test_an_exchanged_tar_of_the_same_size_is_noticed(damaged_set: Path) -> None:
    shards = open_shards(damaged_set, "train")
    path = damaged_set / "toy-01.tar"
    content = path.read_bytes()
    path.write_bytes(content[5120:] + content[:5120])
    for sample in range(12, 24):
        with pytest.raises(UnreadableSampleError):
            ShardReader(shards).read(sample)


def test_a_tar_that_vanishes_later_makes_unreadable_samples(damaged_set: Path) -> None:
    shards = open_shards(damaged_set, "train")
    (damaged_set / "toy-00.tar").unlink()
    with pytest.raises(UnreadableSampleError, match=r"toy-00/@\d+: cannot be read \(No such file"):
        ShardReader(shards).read(0)


def test_a_tar_that_shrinks_later_makes_unreadable_samples(damaged_set: Path) -> None:
    shards = open_shards(damaged_set, "train")
    path = damaged_set / "toy-00.tar"
    record = shards.records[11]
    os.truncate(path, int(record["offset"]) + int(record["span"]) - 1)
    with pytest.raises(UnreadableSampleError, match=r"toy-00/s0011: the tar ends within it, at byte \d+"):
        ShardReader(shards).read(11)


def test_the_ranks_of_a_node_share_the_looking_at_files(damaged_set: Path) -> None:
    """Each tar is looked at by exactly one rank of each node."""
    num_shards = len(open_shards(damaged_set, "train").split.shards)
    found: list[int] = []
    for shard in range(num_shards):
        path = damaged_set / f"toy-{shard:02d}.tar"
        path.rename(aside := path.with_suffix(".aside"))
        for rank in range(3):
            world = World(
                rank=3 + rank, num_ranks=6, local_rank=rank, num_local_ranks=3, master_address="", master_port=0
            )
            with suppress(UserError):
                open_shards(damaged_set, "train", world=world)
                continue
            found.append(shard)
        aside.rename(path)
    assert found == list(range(num_shards))


def test_a_folder_without_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"_info\.json is missing: .* is not a folder of shards; make them with"):
        open_shards(tmp_path, "train")


def test_a_manifest_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "_info.json").write_text("{")
    with pytest.raises(UserError, match=r"_info\.json: is not readable as JSON"):
        open_shards(tmp_path, "train")


def test_a_manifest_without_splits(tmp_path: Path) -> None:
    (tmp_path / "_info.json").write_text('{"splits": 3}')
    with pytest.raises(UserError, match=r"_info\.json: must hold `splits`"):
        open_shards(tmp_path, "train")


def test_timms_manifest_without_an_index(tmp_path: Path) -> None:
    (tmp_path / "_info.json").write_text('{"splits": {"train": {"filenames": ["a.tar"]}}}')
    with pytest.raises(
        UserError, match=r"has no label_space, so its shards have no index yet; run `python launch/shards.py"
    ):
        open_shards(tmp_path, "train")


def test_an_unknown_split(toy_set: Path) -> None:
    with pytest.raises(UserError, match=r"_info\.json: there is no split 'val'; the set has: train"):
        open_shards(toy_set, "val")


def test_a_split_without_an_index(damaged_set: Path) -> None:
    edit_info(damaged_set, lambda value: value["splits"].update(val={"filenames": ["a.tar"]}))
    with pytest.raises(UserError, match=r"split 'val' has no index; run `python launch/shards.py index"):
        open_shards(damaged_set, "val")


def test_a_missing_tar(damaged_set: Path) -> None:
    (damaged_set / "toy-02.tar").unlink()
    with pytest.raises(
        UserError, match=r"toy-02\.tar: shard of split 'train' cannot be found \(No such file.*copy it there"
    ):
        open_shards(damaged_set, "train")


def test_a_tar_cut_in_the_middle(damaged_set: Path) -> None:
    size = (damaged_set / "toy-02.tar").stat().st_size
    os.truncate(damaged_set / "toy-02.tar", 5120)
    with pytest.raises(
        UserError, match=rf"toy-02\.tar: has 5120 bytes, the manifest says {size}; it was cut, copy it again"
    ):
        open_shards(damaged_set, "train")


def test_a_tar_that_grew(damaged_set: Path) -> None:
    with (damaged_set / "toy-02.tar").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match="it was changed, copy it again"):
        open_shards(damaged_set, "train")


def test_a_changed_index(damaged_set: Path) -> None:
    flip_bit(damaged_set / "train.index.npy", byte=200)
    with pytest.raises(
        UserError, match=r"train\.index\.npy: SHA-256 is \w+, the manifest says \w+; the index does not belong"
    ):
        open_shards(damaged_set, "train")


def test_a_missing_index(damaged_set: Path) -> None:
    (damaged_set / "train.index.npy").unlink()
    with pytest.raises(UserError, match=r"train\.index\.npy: the index cannot be read \(No such file"):
        open_shards(damaged_set, "train")


def put_index(folder: Path, content: bytes) -> None:
    (folder / "train.index.npy").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    edit_info(folder, lambda value: value["splits"]["train"].update(index_sha256=digest))


def test_an_index_of_another_length(damaged_set: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "short.npy", np.load(damaged_set / "train.index.npy")[:40])
    put_index(damaged_set, (tmp_path / "short.npy").read_bytes())
    with pytest.raises(UserError, match=r"holds 40 records of type .*, the manifest's shards hold 48 samples"):
        open_shards(damaged_set, "train")


def test_an_index_that_is_none(damaged_set: Path) -> None:
    put_index(damaged_set, b"hello")
    with pytest.raises(UserError, match=r"train\.index\.npy: is not an index"):
        open_shards(damaged_set, "train")


def test_a_pickled_index_is_never_unpickled(damaged_set: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    put_index(damaged_set, (tmp_path / "evil.npy").read_bytes())
    with pytest.raises(UserError, match="is not an index"):
        open_shards(damaged_set, "train")


def test_a_label_outside_the_label_space(damaged_set: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "wild.npy", records := np.load(damaged_set / "train.index.npy"))
    records["label"][[20, 30]] = 7, -1
    np.save(tmp_path / "wild.npy", records)
    put_index(damaged_set, (tmp_path / "wild.npy").read_bytes())
    with pytest.raises(
        UserError,
        match=r"2 samples of split 'train' have labels outside the label space 'numbered' of 5 classes \(0 to 4\); the "
        rf"first is label 7 in toy-01\.tar at byte {records['offset'][20]}; .*--classes",
    ):
        open_shards(damaged_set, "train")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"filenames": [], "shard_lengths": [], "shard_bytes": [], "shard_sha256": []}, r"filenames: is empty"),
        ({"shard_bytes": [1]}, r"splits\.train\.shard_bytes: must be a list with an entry for each of filenames"),
        ({"filenames": ["a.tar", "b.tar", "c.tar", "x/a.tar"]}, r"filenames: a\.tar stands twice"),
        ({"shard_lengths": [12, 12, 12, 0]}, r"shard_lengths: must be positive whole numbers"),
        ({"num_samples": 47}, r"num_samples: is 47, but shard_lengths sum to 48"),
    ],
)
def test_a_damaged_manifest(damaged_set: Path, change: dict[str, Any], problem: str) -> None:
    edit_info(damaged_set, lambda value: value["splits"]["train"].update(change))
    with pytest.raises(UserError, match=problem):
        open_shards(damaged_set, "train")


def test_the_fingerprint_is_that_of_the_content_not_of_the_place(
    toy_set: Path, damaged_set: Path, tmp_path: Path
) -> None:
    fingerprint = open_shards(toy_set, "train").fingerprint
    assert open_shards(damaged_set, "train").fingerprint == fingerprint
    write_shards(tmp_path / "other", num_shards=3)
    assert open_shards(index(tmp_path / "other"), "train").fingerprint != fingerprint


def test_the_fingerprint_covers_the_label_space(toy_set: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\ne\n")
    write_shards(tmp_path / "set")
    index(tmp_path / "set", classes=tmp_path / "names.txt")
    assert open_shards(tmp_path / "set", "train").fingerprint != open_shards(toy_set, "train").fingerprint


def test_shards_of_any_length(tmp_path: Path) -> None:
    shards = open_shards(make_set(tmp_path / "set", num_shards=1, samples_per_shard=1), "train")
    assert ShardReader(shards).read(0).key == "toy-00/s0000"
