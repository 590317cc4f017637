"""Sources that could be misread in silence: splits for classes, numbers for other classes, links, damage midway."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from hornet.errors import UserError
from hornet.shards.build.source import SeekableSource
from hornet.shards.build.sources import open_source
from hornet.shards.label_space import LabelSpace
from hornet.shards.views.subset import SubsetPlan, make_subset
from tests.unit.shards.making import encode, make_image, make_set

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

IMAGE = encode(make_image(0), "JPEG")
TWO = LabelSpace(name="two", classes=("ant", "zebra"))


def make_tar(*names: str, links: Sequence[tuple[str, str]] = (), content: bytes = IMAGE) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for name, target in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.LNKTYPE, target
            tar.addfile(member)
    return buffer.getvalue()


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def read(path: Path, **options: object) -> list[tuple[str, str]]:
    """Name and class of each image."""
    source = open_source(path, **options)  # type: ignore[arg-type]
    if isinstance(source, SeekableSource):
        return [(entry.name, entry.class_name) for part in source.parts for entry in part.list().entries]
    return [(name, class_name) for part in source.stream() for name, class_name, _ in part.images]


def write_parquet(path: Path, labels: Sequence[int], *, names: Sequence[str] | None, **others: object) -> Path:
    images = pyarrow.array([{"bytes": IMAGE, "path": f"{row}.jpg"} for row in range(len(labels))])
    table = pyarrow.table({"image": images, "label": pyarrow.array(labels, pyarrow.int64()), **others})
    if names:
        features = {"label": {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path)
    return path


def test_a_part_cut_within_a_sound_gzip_is_named(tmp_path: Path) -> None:
    inner = make_tar("a.jpg", "b.jpg")[:2048]
    path = write(tmp_path / "whole.tar.gz", gzip.compress(make_tar("n01440764.tar", content=inner)))
    with pytest.raises(UserError, match=r"whole\.tar\.gz: unpacked byte 2048: member 'b\.jpg' is cut|unpacked byte"):
        read(path)


def test_a_gzip_cut_within_a_part_is_refused(tmp_path: Path) -> None:
    inner = make_tar(*(f"{n}.jpg" for n in range(20)), content=np.random.default_rng(0).bytes(30_000))
    whole = gzip.compress(make_tar("n01440764.tar", content=inner))
    with pytest.raises(UserError, match=r"cut\.tar\.gz: the gzip is cut or damaged"):
        read(write(tmp_path / "cut.tar.gz", whole[: len(whole) // 2]))


@pytest.mark.parametrize("packed", ["folder", "tar", "gzip"])
def test_folders_of_splits_are_not_taken_for_classes(tmp_path: Path, packed: str) -> None:
    names = ("train/n01/a.jpg", "val/n01/b.jpg")
    if packed == "folder":
        path = tmp_path / "all"
        for name in names:
            write(path / name, IMAGE)
    elif packed == "tar":
        path = write(tmp_path / "all.tar", make_tar(*(f"all/{name}" for name in names)))
    else:
        path = write(tmp_path / "all.tar.gz", gzip.compress(make_tar(*(f"all/{name}" for name in names))))
    with pytest.raises(UserError, match=r"are the splits train, val, not classes|may be several splits"):
        read(path)


def test_images_that_are_links_are_told(tmp_path: Path) -> None:
    path = write(tmp_path / "all.tar", make_tar("n01/a.jpg", links=[("n02/b.jpg", "n01/a.jpg")]))
    (remark,) = open_source(path).remarks
    assert "1 images are links and were passed over, 'n02/b.jpg' for one" in remark


def test_hidden_twins_of_images_are_no_images(tmp_path: Path) -> None:
    assert read(write(tmp_path / "all.tar", make_tar("n01/._a.jpg", "n01/a.jpg"))) == [("a.jpg", "n01")]


def test_a_gzip_among_the_tars_of_a_tar_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "all.tar", make_tar("n01.tar", "n02.tar.gz", content=make_tar("a.jpg")))
    with pytest.raises(UserError, match=r"'n02\.tar\.gz' within is packed and .*unpack it first"):
        read(path)


@pytest.mark.parametrize("layout", ["auto", "image-folder", "webdataset"])
@pytest.mark.parametrize("name", ["a-000.tar.gz", "a-000.tgz", "a-000.tar.zst"])
def test_a_folder_of_packed_tars_says_what_it_holds(tmp_path: Path, layout: str, name: str) -> None:
    write(tmp_path / name, gzip.compress(make_tar("a.jpg")))
    write(tmp_path / ".hidden.tar.gz", b"")
    with pytest.raises(UserError, match=rf"it holds {re.escape(name)}: packed tars must be unpacked first"):
        open_source(tmp_path, layout=layout)


def test_validation_images_sorted_into_folders_need_no_devkit(tmp_path: Path) -> None:
    name = "ILSVRC2012_val_00000001.JPEG"
    assert read(write(tmp_path / "val.tar", make_tar(f"n01/{name}"))) == [(name, "n01")]


def test_a_subset_gives_its_own_samples_only(tmp_path: Path) -> None:
    whole = make_set(tmp_path / "whole", num_shards=2, samples_per_shard=10)
    plan = SubsetPlan(
        source=whole,
        output=tmp_path / "part",
        name="part",
        split="train",
        fraction=None,
        per_class=2,
        seed=0,
        allow_empty_classes=False,
        classes=None,
        exclude=None,
        allow_unmatched=False,
    )
    make_subset(plan)
    found, everything = read(tmp_path / "part"), read(whole)
    assert len(everything) == 20
    assert len(found) == 10
    assert set(found) < set(everything)


def test_a_set_of_ours_is_not_read_in_another_label_space(tmp_path: Path) -> None:
    whole = make_set(tmp_path / "whole", num_shards=1, samples_per_shard=5)
    other = LabelSpace(name="other", classes=tuple("abcde"))
    assert {class_name for _, class_name in read(whole, label_space=other)} == {f"class_{n:05d}" for n in range(5)}


def test_splits_of_tars_are_not_mixed(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        write(tmp_path / f"x-{split}-0000.tar", make_tar("a.cls", content=b"0"))
    with pytest.raises(UserError, match=r"choose one of its splits with --source-split: train, validation"):
        open_source(tmp_path, layout="webdataset")


@pytest.mark.parametrize("info_name", ["_info.json", "info.json"])
def test_a_tar_with_fewer_samples_than_promised_is_refused(tmp_path: Path, info_name: str) -> None:
    make_set(tmp_path, num_shards=1, samples_per_shard=4)
    (tmp_path / "_info.json").unlink()
    split = {"filenames": ["toy-00.tar"], "shard_lengths": [5], "num_samples": 5}
    write(tmp_path / info_name, json.dumps({"splits": {"train": split}}).encode())
    with pytest.raises(UserError, match=r"toy-00\.tar: holds 4 samples, its _info\.json says 5"):
        read(tmp_path)


def test_names_in_parquet_files_count_more_than_the_order_of_a_label_space(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "train-00000-of-00001.parquet", [0, 1], names=["zebra", "ant"])
    assert read(path, label_space=TWO) == [("0.jpg", "zebra"), ("1.jpg", "ant")]


def test_descriptions_in_parquet_files_are_taken_by_number_and_told(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "train-00000-of-00001.parquet", [0, 1], names=["emmet", "equid"])
    assert read(path, label_space=TWO) == [("0.jpg", "ant"), ("1.jpg", "zebra")]
    assert "label 0, 'emmet' there, is taken for 'ant'" in open_source(path, label_space=TWO).remarks[0]


def test_one_name_for_two_labels_is_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "train-00000-of-00001.parquet", [0, 1], names=["crane", "crane"])
    with pytest.raises(UserError, match=r"gives one name to several labels \('crane'\).*--classes"):
        open_source(path)


def test_files_that_name_classes_otherwise_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-00000-of-00002.parquet", [0], names=["ant", "zebra"])
    write_parquet(tmp_path / "train-00001-of-00002.parquet", [0], names=["zebra", "ant"])
    with pytest.raises(UserError, match=r"00001-of-00002\.parquet: names its classes otherwise than"):
        read(tmp_path)


def test_damage_behind_a_parquet_files_footer_is_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "train-00000-of-00001.parquet", [0, 1] * 400, names=None)
    content = bytearray(path.read_bytes())
    content[20:4000] = bytes(3980)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"train-00000-of-00001\.parquet: is damaged .*; copy it again"):
        read(path)


def test_pipes_and_broken_links_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "pipes" / "a").mkdir(parents=True)
    os.mkfifo(tmp_path / "pipes" / "a" / "x.jpg")
    with pytest.raises(UserError, match=r"a/x\.jpg: is an image by its name, but no plain file; remove it"):
        read(tmp_path / "pipes")
    (tmp_path / "links" / "a").mkdir(parents=True)
    (tmp_path / "links" / "a" / "x.jpg").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"a/x\.jpg: cannot be read \(No such file or directory\); mend the link"):
        read(tmp_path / "links")
