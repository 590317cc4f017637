"""The strict reading of tars, against tarfile's own idea of where members are."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from pathlib import Path

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hornet.data.index import index_tar, split_name
from hornet.errors import UserError

IMAGE = bytes(range(256)) * 5
LONG = "folder/" * 30 + "name"


def make_tar(members: list[tuple[str, bytes]], tar_format: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def put(folder: Path, content: bytes) -> Path:
    path = folder / "x.tar"
    path.write_bytes(content)
    return path


TWO = [("a.cls", b"3"), ("a.jpg", IMAGE), ("b.jpeg", IMAGE[:7]), ("b.json", b"{}"), ("b.cls", b"-1\n")]


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_offsets_spans_labels_and_checksums(tmp_path: Path, tar_format: int) -> None:
    content = make_tar([("ü.webp", IMAGE), ("ü.cls", b"7"), *TWO], tar_format)
    found = index_tar(put(tmp_path, content))
    assert found.num_bytes == len(content)
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert found.records["label"].tolist() == [7, 3, -1]
    assert found.records["crc"].tolist() == [zlib.crc32(IMAGE), zlib.crc32(IMAGE), zlib.crc32(IMAGE[:7])]
    assert found.records.dtype.itemsize == 20
    with tarfile.open(tmp_path / "x.tar") as tar:
        images = [tar.getmember(name) for name in ("ü.webp", "a.jpg", "b.jpeg")]
    ends = [member.offset_data + member.size for member in images]
    assert found.records["offset"].tolist() == [member.offset for member in images]
    assert (found.records["offset"] + found.records["span"]).tolist() == ends


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_start_at_their_extra_header(tmp_path: Path, tar_format: int) -> None:
    path = put(tmp_path, make_tar([("first.txt", b""), (f"{LONG}.png", IMAGE), (f"{LONG}.cls", b"1")], tar_format))
    record = index_tar(path).records[0]
    with tarfile.open(path) as tar:
        member = tar.getmember(f"{LONG}.png")
    assert record["offset"] == 512
    assert record["offset"] + record["span"] == member.offset_data + member.size
    assert record["span"] > 512 + len(IMAGE)


def test_tars_of_webdatasets_shard_writer(tmp_path: Path) -> None:
    with webdataset.ShardWriter(str(tmp_path / "w-%03d.tar"), maxcount=2, verbose=0) as writer:
        for number in range(5):
            writer.write({"__key__": f"k{number}", "jpg": IMAGE[number:], "cls": number, "json": {"label": number}})
    labels = [index_tar(tmp_path / f"w-{shard:03d}.tar").records["label"].tolist() for shard in range(3)]
    assert labels == [[0, 1], [2, 3], [4]]


def test_members_that_are_not_asked_for_are_passed_over(tmp_path: Path) -> None:
    others = [("a.pyd", b"x"), ("a.seg.png", IMAGE), ("README", b"hi"), ("only.json", b"{}")]
    assert len(index_tar(put(tmp_path, make_tar([*others, *TWO]))).records) == 2


def end_of_content(content: bytes) -> int:
    """Where the first of the two end-of-archive blocks begins."""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        last = tar.getmembers()[-1]
    return last.offset_data + last.size + -last.size % 512


@settings(max_examples=60)
@given(st.data())
def test_a_tar_cut_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = make_tar(TWO)
    needed = end_of_content(content) + 1024
    cut = data.draw(st.integers(0, needed - 1) | st.sampled_from(range(0, needed, 512)))
    path = put(tmp_path_factory.mktemp("cut"), content[:cut])
    with pytest.raises(UserError, match=r"x\.tar: byte \d+: .*(cut|ends within)"):
        index_tar(path)
    assert len(index_tar(put(path.parent, content[:needed])).records) == 2


@settings(max_examples=60)
@given(st.data())
def test_a_flipped_bit_in_a_header_is_noticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(make_tar(TWO))
    with tarfile.open(fileobj=io.BytesIO(bytes(content))) as tar:
        offset = data.draw(st.sampled_from([member.offset for member in tar.getmembers()]))
    position = data.draw(st.integers(0, 147) | st.integers(156, 511))  # between them lies the checksum itself
    content[offset + position] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(UserError, match=rf"x\.tar: byte {offset}: damaged header"):
        index_tar(put(tmp_path_factory.mktemp("flip"), bytes(content)))


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ([("a.jpg", IMAGE)], r"byte 0: the image of 'a' has no \.cls"),
        ([("a.cls", b"1")], r"byte 0: the \.cls of 'a' has no image"),
        ([*TWO, ("a.png", IMAGE)], r"byte \d+: a second image of 'a' \('a\.png'\)"),
        ([*TWO, ("a.cls", b"3")], r"byte \d+: a second label of 'a'"),
        ([("a.jpg", IMAGE), ("a.cls", b"cat")], r"'a\.cls' must hold one integer, not b'cat'"),
        ([("a.txt", b"x")], r"holds no sample"),
    ],
)
def test_half_samples_are_refused(tmp_path: Path, members: list[tuple[str, bytes]], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        index_tar(put(tmp_path, make_tar(members)))


def test_tars_end_to_end_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="bytes after the end of the archive"):
        index_tar(put(tmp_path, make_tar(TWO) + make_tar([("z.jpg", IMAGE), ("z.cls", b"1")])))


def test_a_link_in_an_images_place_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        link = tarfile.TarInfo("a.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(UserError, match=r"byte 0: member 'a\.jpg' is not a plain file"):
        index_tar(put(tmp_path, buffer.getvalue()))


def test_a_missing_tar_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.tar: cannot be read \(No such file"):
        index_tar(tmp_path / "none.tar")


@pytest.mark.parametrize("name", ["a.jpg", "x/y.b/a.seg.PNG", "./a.cls", "noext", ".hidden", "dir/"])
def test_names_are_split_as_webdataset_does(name: str) -> None:
    stem, extension = webdataset.tariterators.base_plus_ext(name)
    assert split_name(name) == ((stem, extension.lower()) if stem else (name, ""))
