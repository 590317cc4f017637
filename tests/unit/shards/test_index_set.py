"""Tars made by others: as timm's -wds sets with their _info.json, or bare."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

from hornet.errors import UserError
from hornet.shards.imagenet import make_layout
from hornet.shards.indexing.folder import split_pattern
from hornet.shards.indexing.index_set import IndexPlan, index_folder
from hornet.shards.indexing.report import IndexReport
from hornet.shards.label_space import number_classes
from hornet.shards.reader import ShardReader, UnreadableSampleError
from hornet.shards.sample_label import read_label_option
from hornet.shards.shard_set import open_shards
from tests.unit.shards.making import flip_bit, write_shards


def index(folder: Path, **changes: Any) -> IndexReport:
    values: dict[str, Any] = {"output": folder, "split": None, "pattern": "*.tar", "classes": None, "name": None}
    return index_folder(IndexPlan(folder=folder, **values | changes))


def write_timms_info(folder: Path, **splits: Any) -> None:
    (folder / "_info.json").write_text(json.dumps({"name": "timms", "splits": splits}))


def split_of(first: int, stop: int, **changes: Any) -> dict[str, Any]:
    shards = [f"toy-{shard:02d}.tar" for shard in range(first, stop)]
    lengths = [12] * len(shards)
    return {"name": "x", "filenames": shards, "shard_lengths": lengths, "num_samples": sum(lengths)} | changes


def test_bare_tars_are_one_split_with_numbered_classes(tmp_path: Path) -> None:
    write_shards(tmp_path / "bare")
    manifest = index(tmp_path / "bare").manifest
    assert manifest.name == "bare"
    assert list(manifest.splits) == ["train"]
    assert manifest.label_space == number_classes(5)
    assert open_shards(tmp_path / "bare", "train").num_samples == 48


def test_timms_splits_are_kept_and_indexed(tmp_path: Path) -> None:
    write_shards(tmp_path)
    write_timms_info(tmp_path, train=split_of(0, 3), validation=split_of(3, 4))
    manifest = index(tmp_path).manifest
    assert manifest.name == "timms"
    assert [open_shards(tmp_path, name).num_samples for name in ("train", "validation")] == [36, 12]
    assert ShardReader(open_shards(tmp_path, "validation")).read(0).key == "toy-03/s0036"


def test_splits_may_be_indexed_one_by_one(tmp_path: Path) -> None:
    write_shards(tmp_path)
    write_timms_info(tmp_path, train=split_of(0, 3), validation=split_of(3, 4))
    index(tmp_path, split="validation")
    with pytest.raises(UserError, match="split 'train' has no index; run"):
        open_shards(tmp_path, "train")
    index(tmp_path, split="train")
    assert [open_shards(tmp_path, name).num_samples for name in ("train", "validation")] == [36, 12]


def write_described(folder: Path) -> None:
    """3 shards of 4 samples, whose .json members have two labels; `label_12k` of every other sample is -1."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(3):
        with webdataset.TarWriter(str(folder / f"toy-{shard:02d}.tar")) as writer:
            for number in range(shard * 4, shard * 4 + 4):
                labels = {"label": number, "label_12k": number // 2 if number % 2 and shard != 1 else -1}
                writer.write({"__key__": f"s{number:04d}", "jpg": b"x" * 3000, "cls": number, "json": labels})


def described_split(**changes: Any) -> dict[str, Any]:
    return {"filenames": [f"toy-{shard:02d}.tar" for shard in range(3)], "shard_lengths": [4, 4, 4]} | changes


def test_splits_of_other_label_spaces_are_left_out_and_indexed_apart(tmp_path: Path) -> None:
    tars, apart = tmp_path / "tars", tmp_path / "12k"
    write_described(tars)
    write_timms_info(tars, train=described_split(), train_12k=described_split(alt_label="label_12k"))
    assert index(tars).left_out == {"train_12k": "label_12k"}
    report = index(tars, split="train_12k", output=apart)
    assert report.manifest.label_space == number_classes(6)
    shards = open_shards(apart, "train_12k")
    assert shards.records["label"].tolist() == [0, 1, 4, 5]
    assert shards.split.shards == ("toy-00.tar", "toy-02.tar")  # every sample of the other is skipped
    assert [ShardReader(shards).read(number).key for number in (0, 3)] == ["toy-00/s0001", "toy-02/s0011"]
    assert json.loads((apart / "_info.json").read_text())["splits"]["train_12k"]["alt_label"] == "label_12k"
    assert index(tars, split="train_12k", output=apart).manifest.splits == report.manifest.splits


def test_splits_of_other_label_spaces_do_not_go_into_one_manifest(tmp_path: Path) -> None:
    write_described(tmp_path)
    write_timms_info(tmp_path, train=described_split(), train_12k=described_split(alt_label="label_12k"))
    index(tmp_path)
    with pytest.raises(
        UserError,
        match=r"its split 'train' has labels from the \.cls members, split 'train_12k' from 'label_12k' in the \.json "
        r"members: .* one label space; give another --output \(or --classes",
    ):
        index(tmp_path, split="train_12k")
    write_timms_info(tmp_path, train=described_split(), train_12k=described_split(alt_label="label_12k"))
    (tmp_path / "all.txt").write_text("\n".join("abcdefghijkl"))
    index(tmp_path, split="train", classes=tmp_path / "all.txt")
    assert set(index(tmp_path, split="train_12k", classes=tmp_path / "all.txt").manifest.splits) == {
        "train",
        "train_12k",
    }


def test_splits_with_several_keys_are_told_apart(tmp_path: Path) -> None:
    write_described(tmp_path)
    write_timms_info(tmp_path, a=described_split(alt_label="label_12k"), b=described_split(alt_label="label"))
    with pytest.raises(UserError, match=r"different keys of the \.json members \(a: label_12k, b: label\); index each"):
        index(tmp_path)


@pytest.mark.parametrize("lengths", [[4, 4, 4], [2, 0, 2]])
def test_listed_lengths_may_count_skipped_samples_or_not(tmp_path: Path, lengths: list[int]) -> None:
    write_described(tmp_path)
    write_timms_info(tmp_path, train=described_split(alt_label="label_12k", shard_lengths=lengths))
    assert index(tmp_path).manifest.splits["train"].num_samples == 4


def test_labels_of_bare_tars_may_come_from_json(tmp_path: Path) -> None:
    write_described(tmp_path)
    index(tmp_path, label_key="label_12k")
    assert open_shards(tmp_path, "train").records["label"].tolist() == [0, 1, 4, 5]
    with pytest.raises(UserError, match=r"'s0000\.json' has no key 'nothing' for the label; it has: label, label_12k"):
        index(tmp_path, label_key="nothing")


def test_a_split_of_which_everything_is_skipped(tmp_path: Path) -> None:
    write_described(tmp_path)
    with pytest.raises(UserError, match=r"no sample of split 'train' has a label in 'label_12k'; all are -1"):
        index(tmp_path, label_key="label_12k", pattern="toy-01.tar")


@pytest.mark.parametrize("text", ["txt", "json", "json:", "label"])
def test_places_of_labels_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match=r"--labels: must be cls or json:KEY, for example json:label, not"):
        read_label_option(text)


def test_checksums_are_unknown_unless_asked_for(tmp_path: Path) -> None:
    write_shards(tmp_path)
    quick = index(tmp_path).manifest.splits["train"]
    quick_records = np.load(tmp_path / "train.index.npy")
    full = index(tmp_path, checksums=True).manifest.splits["train"]
    records = np.load(tmp_path / "train.index.npy")
    assert quick.shard_sha256 == (None,) * 4
    assert not quick_records["crc"].any()
    assert records["crc"].all()
    assert full.shard_sha256[0] == hashlib.sha256((tmp_path / "toy-00.tar").read_bytes()).hexdigest()
    for field in ("offset", "span", "label"):
        assert (records[field] == quick_records[field]).all()


def test_without_checksums_only_headers_are_checked_on_reading(tmp_path: Path) -> None:
    write_shards(tmp_path)
    index(tmp_path)
    shards = open_shards(tmp_path, "train")
    record = shards.records[13]
    flip_bit(tmp_path / "toy-01.tar", byte=int(record["offset"]) + int(record["span"]) - 20)
    assert ShardReader(shards).read(13).key == "toy-01/s0013"
    flip_bit(tmp_path / "toy-01.tar", byte=int(record["offset"]) + 3)
    with pytest.raises(UnreadableSampleError, match="damaged header"):
        ShardReader(shards).read(13)


def test_many_processes_give_the_same(tmp_path: Path) -> None:
    write_shards(tmp_path)
    alone = index(tmp_path, checksums=True, num_workers=1).manifest
    assert index(tmp_path, checksums=True, num_workers=3).manifest == alone
    os.truncate(tmp_path / "toy-02.tar", 3000)
    with pytest.raises(UserError, match=r"toy-02\.tar: byte \d+: .*cut"):
        index(tmp_path, num_workers=3)


def test_a_shard_of_another_length_than_listed_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path)
    write_timms_info(tmp_path, train=split_of(0, 3, shard_lengths=[12, 13, 12]))
    with pytest.raises(UserError, match=r"toy-01\.tar: holds 12 samples, _info\.json says 13; copy the tar again"):
        index(tmp_path)


def test_index_and_manifest_may_lie_apart_from_read_only_tars(tmp_path: Path) -> None:
    write_shards(tmp_path / "tars")
    before = sorted((tmp_path / "tars").iterdir())
    index(tmp_path / "tars", output=tmp_path / "index")
    assert sorted((tmp_path / "tars").iterdir()) == before
    assert ShardReader(open_shards(tmp_path / "index", "train")).read(0).key == "toy-00/s0000"


def test_classes_come_from_a_file(tmp_path: Path) -> None:
    write_shards(tmp_path / "tars")
    (tmp_path / "synsets.txt").write_text("\n".join("abcde"))
    space = index(tmp_path / "tars", classes=tmp_path / "synsets.txt").manifest.label_space
    assert (space.name, space.classes) == ("synsets", ("a", "b", "c", "d", "e"))
    assert index(tmp_path / "tars").manifest.label_space == space  # a second time, it is kept


def test_a_label_outside_the_given_classes_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path / "tars")
    (tmp_path / "three.txt").write_text("a\nb\nc\n")
    with pytest.raises(
        UserError,
        match=r"toy-00\.tar: label 3 of the image at byte \d+ is outside the label space 'three' of 3 classes",
    ):
        index(tmp_path / "tars", classes=tmp_path / "three.txt")
    assert not (tmp_path / "tars" / "_info.json").exists()


def test_all_splits_have_one_label_space(tmp_path: Path) -> None:
    write_shards(tmp_path / "tars")
    (tmp_path / "names.txt").write_text("\n".join("abcde"))
    index(tmp_path / "tars", split="train", pattern="toy-0[012].tar")
    with pytest.raises(
        UserError, match=r"label space 'numbered' \(5 classes, fingerprint \w+\) is not that of .*'names'"
    ):
        index(tmp_path / "tars", split="validation", pattern="toy-03.tar", classes=tmp_path / "names.txt")
    index(tmp_path / "tars", split="validation", pattern="toy-03.tar")
    assert [open_shards(tmp_path / "tars", name).num_samples for name in ("train", "validation")] == [36, 12]


def test_changed_tars_can_be_indexed_again(tmp_path: Path) -> None:
    write_shards(tmp_path)
    index(tmp_path)
    write_shards(tmp_path, samples_per_shard=7)
    with pytest.raises(UserError, match=r"or run `python launch/shards\.py index` if the new content is wanted"):
        open_shards(tmp_path, "train")
    index(tmp_path)
    assert open_shards(tmp_path, "train").num_samples == 28


def test_a_folder_without_tars(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no tar '\*\.tar' for split 'train'; give the folder that holds them"):
        index(tmp_path)


def test_a_tar_cut_in_the_middle_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path)
    os.truncate(tmp_path / "toy-02.tar", 3000)
    with pytest.raises(UserError, match=r"toy-02\.tar: byte \d+: .*cut"):
        index(tmp_path)
    assert not (tmp_path / "_info.json").exists()


def test_classes_may_be_a_known_label_space(tmp_path: Path) -> None:
    write_shards(tmp_path)
    assert index(tmp_path, classes="imagenet-1k").manifest.label_space == make_layout("imagenet-1k")


def test_an_unknown_label_space_is_refused_before_reading(tmp_path: Path) -> None:
    write_shards(tmp_path)
    os.truncate(tmp_path / "toy-00.tar", 100)
    with pytest.raises(UserError, match=r"'imagenet-2k' is neither a file nor a known label space"):
        index(tmp_path, classes="imagenet-2k")


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("/data/set", ("/data/set", None)),
        ("s3://bucket/set/", ("s3://bucket/set/", None)),
        ("/data/set-{00..03}.tar", ("/data", "set-{00..03}.tar")),
        ("s3://b/x/set-*.tar", ("s3://b/x", "set-*.tar")),
        ("one.tar", (".", "one.tar")),
        ("/one.tar", ("/", "one.tar")),
    ],
)
def test_a_place_may_end_in_a_pattern(place: str, expected: tuple[str, str | None]) -> None:
    assert split_pattern(place) == expected


def test_patterns_of_folders_are_refused() -> None:
    with pytest.raises(UserError, match=r"s3://\{a,b\}/x\.tar: patterns and braces can stand in the last part only"):
        split_pattern("s3://{a,b}/x.tar")


def test_braces_and_lists_choose_tars_in_their_order(tmp_path: Path) -> None:
    write_shards(tmp_path)
    report = index(tmp_path, pattern=["toy-{02..03}.tar", "toy-00.tar", "toy-0[0-1].tar"], output=tmp_path / "out")
    assert report.manifest.split("train").shards == ("toy-02.tar", "toy-03.tar", "toy-00.tar", "toy-01.tar")
    with pytest.raises(UserError, match=r"toy-07\.tar"):
        index(tmp_path, pattern="toy-{02,07}.tar", output=tmp_path / "none")


def test_a_pattern_beside_a_list_of_tars_is_refused(tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / "_info.json").write_text('{"splits": {"train": {"filenames": ["toy-00.tar"]}}}')
    with pytest.raises(
        UserError, match=r"lists the tars of its splits, so 'toy-\{00\.\.01\}\.tar' would have no effect"
    ):
        index(tmp_path, pattern="toy-{00..01}.tar", output=tmp_path / "out")
