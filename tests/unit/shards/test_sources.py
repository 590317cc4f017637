"""The layouts in which images come: archives made here by other writers, read back byte by byte."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet
from scipy.io import savemat

from hornet.errors import UserError
from hornet.shards.build.source import SeekableSource
from hornet.shards.build.sources import LAYOUTS, detect_layout, open_source
from hornet.shards.label_space import LabelSpace
from tests.unit.shards.making import encode, index, make_image, write_shards

Found = list[tuple[str, str, str, bytes]]
IMAGES = {
    "n01440764": {"n01440764_2.JPEG": b"two", "n01440764_10.JPEG": b"ten" * 400},
    "n01443537": {"n01443537_1.JPEG": gzip.compress(b"packed"), "n01443537_7.png": b""},
    "n04399382": {},
}


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def make_tar(members: dict[str, bytes], *, mode: str = "w", tar_format: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=tar_format) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            add(tar, name, content)
    return buffer.getvalue()


def make_tars() -> dict[str, bytes]:
    return {f"{synset}.tar": make_tar(members) for synset, members in IMAGES.items()}


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def make_folders(folder: Path) -> Path:
    for synset, members in IMAGES.items():
        (folder / synset).mkdir(parents=True)
        for name, content in members.items():
            put(folder / synset / name, content)
    return folder


def make_folder_of_tars(folder: Path) -> Path:
    for name, content in make_tars().items():
        put(folder / name, content)
    return folder


def flatten(prefix: str = "") -> dict[str, bytes]:
    return {
        f"{prefix}{synset}/{name}": content for synset, members in IMAGES.items() for name, content in members.items()
    }


LAYOUTS_OF_IMAGES: dict[str, Callable[[Path], Path]] = {
    "image-folder": lambda folder: make_folders(folder / "train"),
    "tar-of-tars": lambda folder: put(folder / "fall11_whole.tar", make_tar(make_tars())),
    "folder-of-tars": lambda folder: make_folder_of_tars(folder / "tars"),
    "tar-of-folders": lambda folder: put(folder / "folders.tar", make_tar(flatten("./imagenet/train/"))),
    "tar-gz": lambda folder: put(folder / "winter21_whole.tar.gz", make_tar(make_tars(), mode="w:gz")),
}


def read(path: Path, **options: object) -> Found:
    """All images as (part, name, class, bytes), read the way `build` does."""
    source = open_source(path, **options)  # type: ignore[arg-type]
    if not isinstance(source, SeekableSource):
        return sorted(
            (part.name, name, class_name, content)
            for part in source.stream()
            for name, class_name, content in part.images
        )
    found = []
    for part in source.parts:
        listing = part.list()
        assert listing.damage is None
        assert [entry.name for entry in listing.entries] == sorted(entry.name for entry in listing.entries)
        for entry in listing.entries:
            if entry.offset is None:
                content = (part.path / entry.name).read_bytes()
            else:
                content = part.path.read_bytes()[entry.offset : entry.offset + entry.size]
            assert len(content) == entry.size
            found.append((part.name, entry.name, entry.class_name, content))
    return sorted(found)


@pytest.mark.parametrize("layout", LAYOUTS_OF_IMAGES)
def test_the_same_images_are_the_same_in_every_layout(layout: str, tmp_path: Path) -> None:
    path = LAYOUTS_OF_IMAGES[layout](tmp_path)
    assert detect_layout(path) == layout
    assert read(path) == sorted(
        (synset, name, synset, content) for synset, members in IMAGES.items() for name, content in members.items()
    )


@pytest.mark.parametrize("layout", ["image-folder", "tar-of-tars", "folder-of-tars"])
def test_classes_without_images_are_known(layout: str, tmp_path: Path) -> None:
    source = open_source(LAYOUTS_OF_IMAGES[layout](tmp_path))
    assert source.classes == tuple(IMAGES)


def test_what_is_no_image_is_told(tmp_path: Path) -> None:
    put(make_folders(tmp_path / "train") / "README", b"x")
    put(tmp_path / "train" / "n01440764" / "notes.txt", b"x")
    put(tmp_path / "train" / "n01440764" / ".DS_Store", b"x")
    source = open_source(tmp_path / "train")
    assert isinstance(source, SeekableSource)
    assert source.remarks == (f"{tmp_path / 'train'}: 1 files without an extension were passed over, 'README' for one",)
    (part,) = [part for part in source.parts if part.name == "n01440764"]
    assert [remark.partition(": ")[2] for remark in part.list().remarks] == [
        "1 files of type .ds_store were passed over, '.DS_Store' for one",
        "1 files of type .txt were passed over, 'notes.txt' for one",
    ]


def test_folders_below_a_class_count_and_loops_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "a" / "deep" / "1.jpg", b"x")
    assert read(tmp_path) == [("a", "deep/1.jpg", "a", b"x")]
    (tmp_path / "a" / "deep" / "up").symlink_to(tmp_path / "a")
    with pytest.raises(UserError, match="is a link to a folder that it lies in; remove the link"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("cut", "problem"),
    [
        (slice(0, 0), "byte 512: the file ends without end-of-archive blocks"),
        (slice(0, 700), r"member 'n01440764_2.JPEG' should reach byte \d+, but the file ends at 1212; it was cut"),
        (slice(0, 3072), "the file ends without end-of-archive blocks; it was cut between two members"),
    ],
)
def test_a_cut_tar_within_is_named_with_its_byte(tmp_path: Path, cut: slice, problem: str) -> None:
    inner = make_tar(IMAGES["n01440764"])
    path = put(tmp_path / "whole.tar", make_tar({"n01440764.tar": inner[cut]}))
    source = open_source(path)
    assert isinstance(source, SeekableSource)
    listing = source.parts[0].list()
    assert listing.damage is not None
    assert listing.damage.startswith(f"{path}: n01440764: byte ")
    with pytest.raises(AssertionError, match=problem):
        raise AssertionError(listing.damage)
    assert len(listing.entries) == (2 if cut.stop == 3072 else 0)


@pytest.mark.parametrize("layout", ["tar-of-tars", "tar-of-folders", "tar-gz"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_cut_archive_is_refused(layout: str, share: float, tmp_path: Path) -> None:
    path = LAYOUTS_OF_IMAGES[layout](tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content.rstrip(b"\0")) * share)])  # a cut within the padding does no harm
    with pytest.raises(UserError, match=r"(whole\.tar|folders\.tar|tar\.gz): .*(cut|damaged|ends)"):
        read(path)


def test_a_flipped_bit_in_a_gzip_is_refused(tmp_path: Path) -> None:
    path = LAYOUTS_OF_IMAGES["tar-gz"](tmp_path)
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # in the checksum
    path.write_bytes(content)
    with pytest.raises(UserError, match="the gzip is cut or damaged"):
        read(path)


def test_a_gzip_of_class_folders_is_read(tmp_path: Path) -> None:
    path = put(tmp_path / "small.tar.gz", make_tar(flatten("train/"), mode="w:gz"))
    assert read(path) == sorted(("small", name, name.partition("/")[0], content) for name, content in flatten().items())


def test_long_and_strange_names_are_only_names(tmp_path: Path) -> None:
    members = {"../../etc/x.jpg": b"1", "/abs.jpg": b"2", "a\nb.jpg": b"3", "l" * 180 + ".jpg": b"4", "é.jpg": b"5"}
    inner = make_tar(members, tar_format=tarfile.PAX_FORMAT)
    path = put(tmp_path / "whole.tar", make_tar({"n01440764.tar": inner}))
    assert {name: content for _, name, _, content in read(path)} == members


def write_devkit(folder: Path, truth: list[int]) -> Path:
    synsets = np.zeros(1003, dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")])
    for number in range(1003):  # the last three are inner nodes
        synsets[number] = (number + 1, f"n{9_000_000 - number:08d}", 0 if number < 1000 else 4)
    data = folder / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    savemat(data / "meta.mat", {"synsets": synsets})
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{number}\n" for number in truth))
    with tarfile.open(folder / "devkit.tar.gz", "w:gz") as tar:
        tar.add(data.parent, data.parent.name)
    return folder / "devkit.tar.gz"


@pytest.mark.parametrize("unpacked", [False, True])
def test_ilsvrc_validation_takes_its_classes_from_the_devkit(tmp_path: Path, unpacked: bool) -> None:
    members = {f"ILSVRC2012_val_{number:08d}.JPEG": f"{number}".encode() for number in (2, 1, 3)}
    path = put(tmp_path / "ILSVRC2012_img_val.tar", make_tar(members))
    devkit = write_devkit(tmp_path, [490, 1, 1000])
    found = read(path, devkit=tmp_path / "ILSVRC2012_devkit_t12" if unpacked else devkit)
    assert [(class_name, content) for _, _, class_name, content in found] == [
        (f"n{9_000_000 - 489:08d}", b"1"),
        ("n09000000", b"2"),
        (f"n{9_000_000 - 999:08d}", b"3"),
    ]
    with pytest.raises(
        UserError, match=r"carry no classes; give the development kit .* --devkit ILSVRC2012_devkit_t12"
    ):
        read(path)


def test_ilsvrc_images_the_devkit_does_not_know_are_refused(tmp_path: Path) -> None:
    devkit = write_devkit(tmp_path, [1])
    path = put(tmp_path / "val.tar", make_tar({"ILSVRC2012_val_00000002.JPEG": b"x"}))
    with pytest.raises(UserError, match=r"00000002\.JPEG' has a number that the ground truth does not; it has 1 lines"):
        read(path, devkit=devkit)
    put(tmp_path / "empty.tar.gz", make_tar({"x": b""}, mode="w:gz"))
    with pytest.raises(UserError, match=r"empty.tar.gz: holds no meta.mat"):
        read(path, devkit=tmp_path / "empty.tar.gz")


def test_webdataset_tars_are_read_with_their_labels(tmp_path: Path) -> None:
    write_shards(tmp_path / "tars", num_shards=2)
    assert detect_layout(tmp_path / "tars") == "webdataset"
    found = read(tmp_path / "tars")
    assert len(found) == 24
    assert {(name.partition(".")[0], class_name) for _, name, class_name, _ in found} == {
        (f"s{number:04d}", f"class_{number % 5:05d}") for number in range(24)
    }
    space = LabelSpace(name="pets", classes=("a", "b", "c", "d", "e"))
    assert {class_name for *_, class_name, _ in read(tmp_path / "tars", label_space=space)} == set("abcde")
    with pytest.raises(UserError, match=r"has label 2, the label space has 2 classes"):
        read(tmp_path / "tars", label_space=LabelSpace(name="small", classes=("a", "b")))


def test_a_set_of_ours_keeps_its_label_space(tmp_path: Path) -> None:
    write_shards(tmp_path / "tars", num_shards=1)
    (tmp_path / "classes.txt").write_text("e\nd\nc\nb\na\n")
    index(tmp_path / "tars", classes=tmp_path / "classes.txt")
    source = open_source(tmp_path / "tars")
    assert source.classes == ("e", "d", "c", "b", "a")
    assert {class_name for *_, class_name, _ in read(tmp_path / "tars")} == set("abcde")
    with pytest.raises(UserError, match="choose one of its splits with --source-split: train"):
        open_source(tmp_path / "tars", split="test")


def test_alternative_labels_leave_out_what_has_none(tmp_path: Path) -> None:
    members = {}
    for number in range(4):
        members[f"{number}.jpg"] = encode(make_image(number), "JPEG")
        members[f"{number}.cls"] = b"%d" % number
        members[f"{number}.json"] = json.dumps({"label": number, "label_12k": -1 if number == 2 else 7}).encode()
    put(tmp_path / "timm-train-0000.tar", make_tar(members))
    split = {"name": "train_12k", "filenames": ["timm-train-0000.tar"], "shard_lengths": [4], "num_samples": 4}
    info = {"splits": {"train": split, "train_12k": {**split, "alt_label": "label_12k"}}}
    (tmp_path / "_info.json").write_text(json.dumps(info))
    found = read(tmp_path, split="train_12k")
    assert [(name, class_name) for _, name, class_name, _ in found] == [
        (f"{number}.jpg", "class_00007") for number in (0, 1, 3)
    ]
    assert {class_name for *_, class_name, _ in read(tmp_path, split="train")} == {f"class_0000{n}" for n in range(4)}
    source = open_source(tmp_path, split="train", labels="json:label_12k")
    assert isinstance(source, SeekableSource)
    assert source.parts[0].list().remarks[0].endswith("1 samples without a label were passed over")


def write_parquet(path: Path, rows: list[tuple[bytes | None, str | None, int]], names: list[str] | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table(
        {
            "image": [{"bytes": content, "path": name} for content, name, _ in rows],
            "label": [label for *_, label in rows],
        }
    )
    if names:
        features = {"label": {"names": names, "_type": "ClassLabel"}, "image": {"_type": "Image"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, path, row_group_size=2)


def test_parquet_sets_are_streamed(tmp_path: Path) -> None:
    rows = [(b"0", "a.jpg", 1), (b"1", None, 0), (b"2", "x/b.png", 1)]
    write_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", rows, ["cat", "dog"])
    write_parquet(tmp_path / "data" / "train-00001-of-00002.parquet", rows[:1], ["cat", "dog"])
    write_parquet(tmp_path / "data" / "validation-00000-of-00001.parquet", rows[1:], ["cat", "dog"])
    with pytest.raises(UserError, match="choose one of its splits with --source-split: train, validation"):
        open_source(tmp_path)
    first = "train-00000-of-00002"
    assert read(tmp_path, split="train") == [
        (first, "00000001.jpg", "cat", b"1"),
        (first, "a.jpg", "dog", b"0"),
        (first, "b.png", "dog", b"2"),
        ("train-00001-of-00002", "a.jpg", "dog", b"0"),
    ]
    assert open_source(tmp_path, split="train").classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ((None, "a.jpg", 0), "row 1 holds no image"),
        ((b"x", "a.jpg", 2), "row 1 has label 2, the label space has 2 classes"),
        ((b"x", "a.jpg", -1), "row 1 has label -1; a split without labels cannot be built from"),
    ],
)
def test_parquet_rows_that_cannot_be_used_are_named(
    tmp_path: Path, row: tuple[bytes | None, str, int], problem: str
) -> None:
    write_parquet(tmp_path / "test.parquet", [(b"0", "a.jpg", 1), row], ["cat", "dog"])
    with pytest.raises(UserError, match=rf"test\.parquet: {problem}"):
        read(tmp_path / "test.parquet")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("x.zip", b"PK", r"x\.zip: is a file that is no \.tar, \.tar\.gz or \.parquet; the layouts known are"),
        ("x.tar", make_tar({}), "is a tar without files; the layouts known are"),
        ("x.tar", make_tar({"x.txt": b""}), r"is a tar that begins with \['x.txt'\]"),
        ("x.tar", b"no tar", r"byte 0: the file ends within a header"),
        ("x.parquet", b"no", "cannot be read as parquet"),
    ],
)
def test_unknown_sources_are_described(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        open_source(put(tmp_path / name, content))


def test_options_without_a_meaning_are_refused(tmp_path: Path) -> None:
    make_folders(tmp_path / "train")
    with pytest.raises(UserError, match="--devkit has no meaning for a source of layout image-folder; leave it out"):
        open_source(tmp_path / "train", devkit=tmp_path)
    with pytest.raises(UserError, match=r"is not a file; layout tar-of-tars is fall11_whole\.tar"):
        open_source(tmp_path / "train", layout="tar-of-tars")
    with pytest.raises(UserError, match="there is no such file or folder"):
        open_source(tmp_path / "nothing")
    assert set(LAYOUTS) >= set(LAYOUTS_OF_IMAGES)
