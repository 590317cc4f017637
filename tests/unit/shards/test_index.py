"""The strict reading of tars, against tarfile's own idea of where members are."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tarfile
import zlib
from pathlib import Path
from typing import Any

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hornet.errors import UserError
from hornet.shards import tar as tar_module
from hornet.shards.index import index_tar
from hornet.shards.sample_parts import SampleRule
from hornet.shards.tar import split_name

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


def outcome(path: Path, **options: Any) -> tuple[Any, ...] | str:
    """All that indexing gives, checksums apart."""
    try:
        found = index_tar(path, **options)
    except UserError as error:
        return str(error)
    records = [(int(r["offset"]), int(r["span"]), int(r["label"])) for r in found.records]
    return records, found.num_bytes, found.num_skipped


def base_256(content: bytes, size: int) -> bytes:
    """The first header with its size in GNU's binary form."""
    header = bytearray(content[:512])
    header[124:136] = b"\x80" + size.to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + content[512:]


NAMES = st.sampled_from(
    [
        "a",
        "b",
        "ü",
        "x/a",
        "./c",
        "d.e/f",
        LONG,
        "x" * 99,
        "g" * 100,
        "sub/" * 20 + "h" * 60,
        "x/",
        "new\nline",
        "Z" * 96,
    ]
)
EXTENSIONS = st.sampled_from(["jpg", "JPG", "png", "webp", "jpeg", "cls", "json", "seg.png", "txt", "", "jpgx"])
PLAIN_SAMPLES = st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=1, max_size=6)


@st.composite
def tars(draw: st.DrawFn) -> bytes:
    """Mostly ordinary tars, as webdataset writes them, some with anything."""
    members: list[tuple[str, bytes]] = []
    for stem in draw(PLAIN_SAMPLES):
        members.append((f"{stem}.cls", str(draw(st.integers(-2, 30))).encode() + draw(st.sampled_from([b"", b"\n"]))))
        members.append((f"{stem}.jpg", bytes(draw(st.integers(0, 9000)))))
        members.append((f"{stem}.json", b'{"label": %d}' % draw(st.integers(-1, 5)) + b" " * draw(st.integers(0, 600))))
    for _ in range(draw(st.sampled_from([0, 0, 1, 3]))):
        name, extension = draw(NAMES), draw(EXTENSIONS)
        content = bytes(draw(st.sampled_from([0, 1, 511, 512, 513, 1024])))
        members.insert(draw(st.integers(0, len(members))), (f"{name}.{extension}" if extension else name, content))
    tar_format = draw(st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.mtime = draw(st.sampled_from([0, 1.7e9, 1700000000.125]))  # type: ignore[assignment]
            info.uname = draw(st.sampled_from(["", "me"]))
            if draw(st.integers(0, 40)) == 0:
                info.type, info.size = draw(st.sampled_from([tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.AREGTYPE])), 0
            with contextlib.suppress(ValueError):  # USTAR has no room for some names
                tar.addfile(info, io.BytesIO(content))
    content = buffer.getvalue()
    if draw(st.integers(0, 20)) == 0:
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            first = tar.next()
        if first is not None and first.offset_data == 512:  # else another header stands before the first member's
            content = base_256(content, first.size)
    return content


@pytest.mark.slow
@settings(max_examples=300)
@given(tars(), st.sampled_from([None, "label"]))
def test_headers_read_here_are_those_that_tarfile_reads(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, label_key: str | None
) -> None:
    path, rule = put(tmp_path_factory.mktemp("same"), content), SampleRule(label_key=label_key)
    ours = outcome(path, checksums=False, rule=rule)
    assert ours == outcome(path, checksums=True, rule=rule)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tar_module, "_read_plain_header", lambda _: None)
        assert ours == outcome(path, checksums=False, rule=rule)


@pytest.mark.slow
@settings(max_examples=300)
@given(tars(), st.data())
def test_headers_alone_find_the_damage_that_all_bytes_show(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, data: st.DataObject
) -> None:
    damaged = bytearray(content)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        headers = [member.offset for member in tar.getmembers()] or [0]
    kind = data.draw(st.sampled_from(["flip", "flip", "cut", "zero", "append"]))
    if kind == "flip":
        first = data.draw(st.sampled_from([*headers, data.draw(st.integers(0, len(damaged) - 512))]))
        damaged[first + data.draw(st.integers(0, 511))] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "cut":
        del damaged[data.draw(st.integers(0, len(damaged))) :]
    elif kind == "zero":
        first = data.draw(st.sampled_from(headers))
        damaged[first : first + 512] = bytes(512)
    else:
        damaged += data.draw(st.sampled_from([b"x", bytes(512), content]))
    path = put(tmp_path_factory.mktemp("damaged"), bytes(damaged))
    ours = outcome(path, checksums=False)
    assert ours == outcome(path, checksums=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tar_module, "_read_plain_header", lambda _: None)
        assert ours == outcome(path, checksums=False)


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])
def test_ordinary_headers_need_no_tarfile(tmp_path: Path, tar_format: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path, make_tar(TWO, tar_format))
    expected, read = outcome(path), []
    plain = tarfile.TarInfo.frombuf
    monkeypatch.setattr(tarfile.TarInfo, "frombuf", lambda *arguments: read.append(1) or plain(*arguments))
    assert outcome(path) == expected
    assert len(read) == 1  # the archive's end


def test_a_pax_path_behind_other_records_is_seen(tmp_path: Path) -> None:
    blocks = b""
    for name, extra in (("a.jpg", "comment"), ("b.cls", "path"), ("a.cls", "comment")):
        info = tarfile.TarInfo(name)
        info.size = 1
        value = {"comment": "abcd", "path": "z.cls77"}[extra]  # records of one length, after equal ones
        info.pax_headers = {"atime": "1.5", extra: value}
        blocks += info.tobuf(tarfile.PAX_FORMAT) + b"1".ljust(512, b"\0")
    path = put(tmp_path, blocks + bytes(1024))
    assert outcome(path, checksums=False) == outcome(path, checksums=True)
    assert len(outcome(path)[0]) == 1  # b.cls is called z.cls77 in truth: no label


def test_without_checksums_none_are_known(tmp_path: Path) -> None:
    found = index_tar(put(tmp_path, make_tar(TWO)), checksums=False)
    assert found.sha256 is None
    assert found.records["crc"].tolist() == [0, 0]


JSON = [("a.jpg", IMAGE), ("a.json", b'{"label": 3, "k": -1}'), ("b.jpg", IMAGE), ("b.json", b'{"label": 4, "k": 7}')]


@pytest.mark.parametrize("checksums", [True, False])
def test_labels_may_stand_in_the_json_members_where_minus_one_skips(tmp_path: Path, checksums: bool) -> None:
    path = put(tmp_path, make_tar(JSON))
    assert index_tar(path, checksums=checksums, rule=SampleRule(label_key="label")).records["label"].tolist() == [3, 4]
    found = index_tar(path, checksums=checksums, rule=SampleRule(label_key="k"))
    assert found.records["label"].tolist() == [7]
    assert found.num_skipped == 1


@pytest.mark.parametrize("checksums", [True, False])
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"a": 1}', r"byte \d+: 'c\.json' has no key 'label' for the label; it has: a"),
        (b"[1]", r"has no key 'label' for the label; it has: no keys at all"),
        (b"{", r"'c\.json' is not JSON"),
        (b'{"label": 1.5}', r"must hold one integer under 'label', not '1\.5'"),
        (b'{"label": true}', r"must hold one integer under 'label', not 'True'"),
        (b'{"label": "1"}', r"must hold one integer under 'label', not '1'"),
    ],
)
def test_labels_in_json_that_are_none(tmp_path: Path, checksums: bool, content: bytes, problem: str) -> None:
    path = put(tmp_path, make_tar([*JSON, ("c.json", content), ("c.png", IMAGE)]))
    with pytest.raises(UserError, match=problem):
        index_tar(path, checksums=checksums, rule=SampleRule(label_key="label"))


def test_images_without_json(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"byte 0: the image of 'a' has no \.json"):
        index_tar(put(tmp_path, make_tar([("a.jpg", IMAGE), ("a.cls", b"1")])), rule=SampleRule(label_key="label"))


@pytest.mark.parametrize("size", ["-5", "1_0", "abc", "", "9" * 5000, " 5"])
def test_a_damaged_size_in_a_pax_header_is_named(tmp_path: Path, size: str) -> None:
    info = tarfile.TarInfo("a.jpg")
    info.pax_headers = {"size": size}
    content = info.tobuf(tarfile.PAX_FORMAT) + bytes(1024)
    with pytest.raises(UserError, match=r"x\.tar: byte \d+: (damaged PAX header: size is|.*cut)"):
        index_tar(put(tmp_path, content))


@pytest.mark.parametrize("name", ["a.jpg", "x/y.b/a.seg.PNG", "./a.cls", "noext", ".hidden", "dir/"])
def test_names_are_split_as_webdataset_does(name: str) -> None:
    stem, extension = webdataset.tariterators.base_plus_ext(name)
    assert split_name(name) == ((stem, extension.lower()) if stem else (name, ""))
