"""Tars made by others: as timm's -wds sets with their _info.json, or bare."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from hornet.data.label_space import number_classes
from hornet.data.prepare.existing_tars import IndexPlan, IndexReport, index_folder
from hornet.data.shards import ShardReader, open_shards
from hornet.errors import UserError
from tests.unit.data.making import write_shards


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


def test_splits_with_labels_elsewhere_are_left_out(tmp_path: Path) -> None:
    write_shards(tmp_path)
    write_timms_info(tmp_path, train=split_of(0, 3), train_12k=split_of(0, 3, alt_label="label_12k"))
    assert index(tmp_path).left_out == ("train_12k",)
    with pytest.raises(UserError, match=r"split 'train_12k' takes its labels from 'label_12k' in the \.json members"):
        index(tmp_path, split="train_12k")


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
