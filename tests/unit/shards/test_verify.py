"""`verify`: each kind of fault is planted and named, a clean set is clean, and nothing ends it early."""

from __future__ import annotations

import io
import json
import os
import signal
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hornet.errors import UserError
from hornet.shards.check import shard_check, verify
from hornet.shards.check.set_repeats import find_repeats
from hornet.shards.check.shard_check import ShardCheck, ShardTask
from hornet.shards.check.verify import VerifyPlan, VerifyReport, describe_verification, verify_set
from hornet.shards.manifest import read_manifest
from hornet.shards.shard_set import open_shards
from tests.unit.shards.making import encode, flip_bit, index, make_image, write_shard
from tests.unit.shards.test_index_set import index as index_as
from tests.unit.shards.test_shard_set import edit_info, put_index
from tests.unit.shards.test_shards_command import run

EDGE = 40


def big_image(number: int) -> bytes:
    return encode(make_image(number, width=EDGE, height=EDGE), "JPEG")


def write_tars(folder: Path, *, replaced: Mapping[int, tuple[str, bytes]] | None = None, shards: int = 3) -> None:
    """Shards of 4 samples; `replaced` gives another extension and content to a sample."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        samples = []
        for number in range(shard * 4, shard * 4 + 4):
            extension, content = (replaced or {}).get(number, ("jpg", b""))
            samples.append((f"s{number:04d}", extension, content or big_image(number), number % 5))
        write_shard(folder / f"toy-{shard:02d}.tar", samples)


def make(folder: Path, **options: Any) -> Path:
    write_tars(folder, **options)
    return index(folder)


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    return make(tmp_path / "set")


def verified(folder: Path, **changes: Any) -> VerifyReport:
    values: dict[str, Any] = {"split": None, "num_workers": 1, "report": folder / "report.jsonl"}
    return verify_set(VerifyPlan(folder=folder, **values | {"decode": True, "write_checksums": False} | changes))


def findings(folder: Path, **changes: Any) -> list[dict[str, Any]]:
    verified(folder, **changes)
    return [json.loads(line) for line in (folder / "report.jsonl").read_text().splitlines()]


def kinds(folder: Path, **changes: Any) -> list[str]:
    return sorted(finding["kind"] for finding in findings(folder, **changes))


def edit_index(folder: Path, change: Callable[[Any], Any]) -> None:
    records = np.load(folder / "train.index.npy")
    changed = change(records)
    buffer = io.BytesIO()
    np.save(buffer, records if changed is None else changed)
    put_index(folder, buffer.getvalue())


def image_byte(folder: Path, sample: int, *, back: int = 20) -> int:
    record = np.load(folder / "train.index.npy")[sample]
    return int(record["offset"]) + int(record["span"]) - back


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_clean_set_is_clean(clean: Path, num_workers: int) -> None:
    report = verified(clean, num_workers=num_workers)
    assert dict(report.counts) == {}
    assert (report.num_samples, report.num_shards) == (12, 3)
    assert describe_verification(report) == "verified     12 samples in 3 tars: no errors"


def test_a_flipped_bit_is_found_by_both_checksums(clean: Path) -> None:
    flip_bit(clean / "toy-01.tar", byte=image_byte(clean, 5))
    first, second = findings(clean)
    assert (first["kind"], first["shard"], first["key"], first["severity"]) == ("sha256", "toy-01.tar", None, "error")
    assert (second["kind"], second["key"]) == ("crc", "toy-01/s0005")
    assert second["byte"] == np.load(clean / "train.index.npy")[5]["offset"]
    assert "the index says" in second["detail"]


def test_a_cut_tar_is_named_and_what_is_left_of_it_is_checked(clean: Path) -> None:
    os.truncate(clean / "toy-01.tar", image_byte(clean, 6))
    found = findings(clean)
    assert [finding["kind"] for finding in found] == ["size", "tar", "sha256", "unreadable", "unreadable"]
    assert [finding["key"] for finding in found[3:]] == ["toy-01/s0006", f"toy-01/@{found[4]['byte']}"]


def test_samples_behind_a_damaged_header_are_still_checked(clean: Path) -> None:
    flip_bit(clean / "toy-00.tar", byte=int(np.load(clean / "train.index.npy")[1]["offset"]) + 3)
    flip_bit(clean / "toy-00.tar", byte=image_byte(clean, 3))
    found = findings(clean)
    assert [finding["kind"] for finding in found] == ["tar", "sha256", "unreadable", "crc"]
    assert found[3]["key"] == "toy-00/s0003"


def test_a_missing_tar(clean: Path) -> None:
    (clean / "toy-01.tar").unlink()
    (finding,) = findings(clean)
    assert (finding["kind"], finding["shard"]) == ("missing", "toy-01.tar")


def test_a_tar_that_cannot_be_read(clean: Path) -> None:
    (clean / "toy-01.tar").unlink()
    (clean / "toy-01.tar").mkdir()
    assert "unreadable" in kinds(clean)


def test_a_tar_that_grew(clean: Path) -> None:
    with (clean / "toy-01.tar").open("ab") as file:
        file.write(bytes(512))
    assert kinds(clean) == ["sha256", "size"]


def test_bytes_after_the_end(clean: Path) -> None:
    with (clean / "toy-01.tar").open("ab") as file:
        file.write(b"x" * 512)
    assert kinds(clean) == ["sha256", "size", "tar"]


def repack(path: Path, change: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]]) -> None:
    """Write a tar anew with other members, and record it as it then is."""
    with tarfile.open(path) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in change(members):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def record_again(folder: Path, number: int) -> None:
    """Make size and checksum of a tar those of the manifest."""
    path = folder / f"toy-{number:02d}.tar"

    def change(value: dict[str, Any]) -> None:
        value["splits"]["train"]["shard_bytes"][number] = path.stat().st_size
        value["splits"]["train"]["shard_sha256"][number] = None

    edit_info(folder, change)


@pytest.mark.parametrize(
    ("extra", "kind", "key"),
    [
        (("s0011.png", big_image(99)), "repeated-key", "toy-02/s0011"),
        (("s0011.cls", b"1"), "repeated-key", "toy-02/s0011"),
        (("other.jpg", big_image(99)), "half-sample", "toy-02/other"),
        (("other.cls", b"1"), "half-sample", "toy-02/other"),
        (("other.cls", b"cat"), "label-member", "toy-02/other"),
        (("other.jpg", big_image(99)), "not-indexed", "toy-02/other"),
    ],
)
def test_members_that_do_not_belong(tmp_path: Path, extra: tuple[str, bytes], kind: str, key: str) -> None:
    write_tars(tmp_path)
    repack(tmp_path / "toy-02.tar", lambda members: members)
    index(tmp_path)
    repack(tmp_path / "toy-02.tar", lambda members: [*members, extra])
    record_again(tmp_path, 2)
    found = {finding["kind"]: finding for finding in findings(tmp_path)}
    assert found[kind]["key"] == key
    assert found[kind]["severity"] == "error"


def test_an_index_that_points_elsewhere(clean: Path) -> None:
    edit_index(clean, lambda records: records["offset"].__setitem__(4, 512))
    assert kinds(clean) == ["index", "not-indexed"]


def test_an_index_with_another_length_of_an_image(clean: Path) -> None:
    edit_index(clean, lambda records: records["span"].__setitem__(4, 512))
    (finding,) = findings(clean)
    assert finding["kind"] == "index"
    assert finding["detail"].startswith("the index says 512 bytes from here, the tar ")


def test_an_index_that_names_an_image_twice(clean: Path) -> None:
    edit_index(clean, lambda records: records.__setitem__(4, records[5]))
    assert kinds(clean) == ["index", "not-indexed"]


def test_an_index_of_other_labels_than_the_tar(clean: Path) -> None:
    edit_index(clean, lambda records: records["label"].__setitem__([4, 5], [3, 77]))
    found = findings(clean)
    assert [finding["kind"] for finding in found] == ["label", "label-range", "label"]
    assert found[0]["detail"] == "the index says 3, the tar 4"
    assert found[1]["detail"] == "label 77, the classes are 0 to 4"


def test_an_index_file_that_does_not_belong(clean: Path) -> None:
    flip_bit(clean / "train.index.npy", byte=200)
    (finding,) = findings(clean)
    assert (finding["kind"], finding["shard"]) == ("index-file", "train.index.npy")


def test_a_view_may_hold_less_under_other_labels(clean: Path) -> None:
    edit_index(clean, lambda records: records[[0, 1, 4, 9]])

    def become_view(value: dict[str, Any]) -> None:
        split = value["splits"]["train"]
        split |= {"shard_lengths": [2, 1, 1], "num_samples": 4, "origin": {"command": "subset"}}

    edit_info(clean, become_view)
    edit_index(clean, lambda records: records["label"].__setitem__(slice(None), [4, 3, 2, 1]))
    assert kinds(clean) == []
    flip_bit(clean / "toy-01.tar", byte=image_byte(clean, 2))
    assert kinds(clean) == ["crc", "sha256"]


def test_images_that_cannot_be_decoded(tmp_path: Path) -> None:
    folder = make(tmp_path, replaced={5: ("jpg", b"no image"), 6: ("jpg", big_image(6)[:-300])})
    found = findings(folder)
    assert [(finding["kind"], finding["key"]) for finding in found] == [
        ("undecodable", "toy-01/s0005"),
        ("undecodable", "toy-01/s0006"),
    ]
    assert kinds(folder, decode=False) == []


def animated() -> bytes:
    buffer = io.BytesIO()
    frames = [make_image(number, width=EDGE, height=EDGE) for number in range(2)]
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def cut_animation() -> bytes:
    """A GIF whose first frame is whole and whose second has just begun."""
    frames = [make_image(number, width=EDGE, height=EDGE).convert("P") for number in range(2)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    content = buffer.getvalue()
    second = content.rindex(b",\0\0\0\0")  # the frame's own header: its place, and behind it its size
    return content[: second + 9]


SIXTEEN = encode(Image.fromarray(np.arange(EDGE * EDGE, dtype=np.uint16).reshape(EDGE, EDGE)))
PLAIN = make_image(50, width=EDGE, height=EDGE)


@pytest.mark.parametrize(
    ("extension", "content", "expected"),
    [
        ("jpg", encode(PLAIN.convert("CMYK"), "JPEG"), ["mode-CMYK"]),
        ("jpg", encode(PLAIN.convert("L"), "JPEG"), ["mode-L"]),
        ("png", encode(PLAIN.convert("RGBA")), ["mode-RGBA"]),
        ("jpg", encode(PLAIN), ["format"]),
        ("png", encode(PLAIN), []),
        ("webp", animated(), ["animated"]),
        ("jpg", cut_animation(), ["animated", "format", "mode-P"]),
        ("png", SIXTEEN, ["16-bit", "mode-I;16"]),
        ("jpg", encode(make_image(1, width=31, height=60), "JPEG"), ["small"]),
        ("jpg", encode(make_image(1, width=32, height=60), "JPEG"), []),
    ],
)
def test_remarks_on_images_are_no_errors(tmp_path: Path, extension: str, content: bytes, expected: list[str]) -> None:
    folder = make(tmp_path, replaced={5: (extension, content)})
    found = findings(folder)
    assert sorted(finding["kind"] for finding in found) == expected
    assert {finding["severity"] for finding in found} <= {"remark"}
    assert verified(folder).num_errors == 0


def test_equal_contents_within_a_split_are_duplicates(tmp_path: Path) -> None:
    folder = make(tmp_path, replaced={9: ("jpg", big_image(2)), 11: ("jpg", big_image(2))})
    found = findings(folder)
    assert [(finding["kind"], finding["key"], finding["severity"]) for finding in found] == [
        ("duplicate", "toy-02/s0009", "remark"),
        ("duplicate", "toy-02/s0011", "remark"),
    ]
    assert found[0]["detail"].startswith("split 'train': the same bytes as toy-00/s0002 at byte ")


def two_splits(folder: Path, **options: Any) -> Path:
    write_tars(folder, **options)
    index_as(folder, split="train", pattern="toy-0[01].tar", checksums=True)
    index_as(folder, split="validation", pattern="toy-02.tar", checksums=True)
    return folder


def test_equal_contents_in_two_splits_are_leakage(tmp_path: Path) -> None:
    folder = two_splits(tmp_path, replaced={9: ("jpg", big_image(4))})
    (finding,) = findings(folder)
    assert (finding["kind"], finding["key"], finding["severity"]) == ("leakage", "toy-02/s0009", "error")
    assert "split 'validation': the same bytes as toy-01/s0004 at byte" in finding["detail"]
    assert kinds(folder, split="validation") == []


def test_two_clean_splits_are_clean(tmp_path: Path) -> None:
    assert kinds(two_splits(tmp_path)) == []


def test_splits_of_the_same_tars_are_no_leakage(tmp_path: Path) -> None:
    write_tars(tmp_path)
    for split in ("train", "some"):
        index_as(tmp_path, split=split, checksums=True)
    (finding,) = findings(tmp_path)
    assert (finding["kind"], finding["shard"], finding["severity"]) == ("shared", "some", "remark")
    assert finding["detail"].startswith("12 samples are samples of another split ('train'")


def test_names_that_stand_in_several_tars_are_one_remark(tmp_path: Path) -> None:
    write_tars(tmp_path, shards=1)
    write_shard(tmp_path / "toy-01.tar", [(f"s{number:04d}", "jpg", big_image(9 + number), 1) for number in range(3)])
    (finding,) = findings(index(tmp_path))
    assert (finding["kind"], finding["shard"]) == ("repeated-stem", "train")
    assert finding["detail"].startswith("3 samples have a name that stands in an earlier tar too, as toy-01/s0000 and")


def test_repeats_against_a_dictionary() -> None:
    random = np.random.default_rng(0)
    high, low = (random.integers(0, 12, 300).astype(np.uint64) for _ in range(2))
    samples = np.flatnonzero(random.integers(0, 2, 300))
    firsts: dict[tuple[int, int], int] = {}
    expected = []
    for sample in samples.tolist():
        first = firsts.setdefault((int(high[sample]), int(low[sample])), sample)
        if first != sample:
            expected.append((sample, first))
    found = find_repeats(high[samples], low[samples], samples=samples)
    assert list(zip(found.samples.tolist(), found.firsts.tolist(), strict=True)) == expected
    assert not len(find_repeats(high[:0], samples=samples[:0]).samples)


def test_unknown_checksums_are_remarked_and_may_be_filled_in(tmp_path: Path) -> None:
    write_tars(tmp_path)
    index_as(tmp_path, checksums=True)
    full = open_shards(tmp_path, "train")
    expected = (full.fingerprint, full.split.shard_sha256, np.array(full.records))
    index_as(tmp_path)
    before = open_shards(tmp_path, "train").fingerprint
    found = findings(tmp_path)
    assert [finding["kind"] for finding in found] == ["no-checksum"] * 3
    assert found[0]["detail"] == "SHA-256 of the tar not known; 4 of 4 samples without crc"
    report = verified(tmp_path, write_checksums=True)
    assert "its fingerprint: runs that began on it before refuse to resume" in describe_verification(report)
    assert verified(tmp_path).counts == {}
    after = open_shards(tmp_path, "train")
    assert (after.fingerprint, after.split.shard_sha256) == expected[:2]
    assert (after.records == expected[2]).all()
    assert after.fingerprint != before
    assert sorted(path.name for path in tmp_path.glob("*.npy")) == [after.split.index]
    assert verified(tmp_path, write_checksums=True).notes == ["checksums of split 'train' were all known"]


@pytest.mark.parametrize("meanwhile", ["validation", "train"])
def test_a_split_that_came_while_a_set_was_verified_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    write_tars(tmp_path)
    index_as(tmp_path)
    fill = verify.fill_checksums

    def index_meanwhile(*values: Any) -> Any:
        index_as(tmp_path, split=meanwhile, checksums=True)
        return fill(*values)

    monkeypatch.setattr(verify, "fill_checksums", index_meanwhile)
    report = verified(tmp_path, write_checksums=True)
    assert "train" in read_manifest(tmp_path).splits
    assert meanwhile in read_manifest(tmp_path).splits
    assert verified(tmp_path, split="train").counts == {}
    is_changed = meanwhile == "train"
    assert any("train' are not written: the split was changed meanwhile" in note for note in report.notes) == is_changed


def test_checksums_of_a_damaged_split_are_not_written(tmp_path: Path) -> None:
    write_tars(tmp_path, replaced={5: ("jpg", b"no image")})
    index_as(tmp_path)
    before = (tmp_path / "_info.json").read_bytes()
    report = verified(tmp_path, write_checksums=True)
    assert "checksums of split 'train' are not written: it has errors" in report.notes[0]
    assert (tmp_path / "_info.json").read_bytes() == before


def test_labels_in_json_are_compared_and_skipped_samples_are_fine(tmp_path: Path) -> None:
    write_tars(tmp_path)

    def relabel(members: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        return [
            (name, b'{"k": %d}' % (-1 if "s0002" in name else 1) if name.endswith("json") else content)
            for name, content in members
        ]

    for shard in range(3):
        repack(tmp_path / f"toy-{shard:02d}.tar", relabel)
    index_as(tmp_path, label_key="k", checksums=True)
    assert kinds(tmp_path) == []
    edit_index(tmp_path, lambda records: records["label"].__setitem__(0, 0))
    assert kinds(tmp_path) == ["label"]


def test_the_table_counts_kinds_and_names_the_first_errors(clean: Path) -> None:
    flip_bit(clean / "toy-01.tar", byte=image_byte(clean, 5))
    (clean / "toy-02.tar").unlink()
    lines = describe_verification(verified(clean, report=None)).splitlines()
    assert lines[0].startswith("sha256       toy-01.tar: SHA-256 is")
    assert lines[1].startswith("crc          toy-01/s0005 at byte ")
    assert lines[3].split()[:3] == ["error", "missing", "1"]
    assert lines[-1] == "verified     12 samples in 3 tars: 3 errors"


def test_many_errors_are_counted_not_listed(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "NUM_EXAMPLES", 1)
    edit_index(clean, lambda records: records["crc"].__setitem__(slice(None), records["crc"] + 1))
    text = describe_verification(verified(clean))
    assert "... and 11 more errors; --report lists all" in text


def die(_: ShardTask) -> ShardCheck:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("not reached")


@pytest.mark.slow
def test_a_worker_that_dies_is_an_error_and_no_hang(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "check_shard", die)
    with pytest.raises(UserError, match="a worker process died"):
        verified(clean, num_workers=2)


def test_sets_that_are_none(tmp_path: Path, clean: Path) -> None:
    with pytest.raises(UserError, match=r"_info\.json is missing"):
        verified(tmp_path, report=None)
    with pytest.raises(UserError, match="there is no split 'none'"):
        verified(clean, split="none")
    with pytest.raises(UserError, match=r"the report cannot be written \(No such file"):
        verified(clean, report=clean / "none" / "x.jsonl")
    edit_info(clean, lambda value: value["splits"]["train"].update(shard_folder="s3://x/y"))
    with pytest.raises(UserError, match=r"split 'train' are at s3://x/y; only local ones are verified"):
        verified(clean)


def test_splits_without_an_index_are_noted(clean: Path) -> None:
    edit_info(clean, lambda value: value["splits"].update(other={"filenames": ["a.tar"]}))
    assert verified(clean).notes == ["split 'other' has no index and was not looked at"]


@pytest.mark.parametrize(("fault", "code"), [(None, None), ("tar", 1), ("manifest", 2)])
def test_the_exit_status_tells(
    clean: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: str | None,
    code: int | None,
) -> None:
    if fault == "tar":
        (clean / "toy-02.tar").unlink()
    elif fault == "manifest":
        (clean / "_info.json").unlink()
    caught: int | str | None = None
    try:
        run(monkeypatch, "verify", clean, "--workers", "1", "--report", clean / "report.jsonl")
    except SystemExit as ended:
        caught = ended.code
    assert caught == code
    out = capsys.readouterr().out
    assert ("verified     12 samples in 3 tars: " in out) == (fault != "manifest")


def test_shards_are_named_in_all_lines(clean: Path) -> None:
    flip_bit(clean / "toy-01.tar", byte=image_byte(clean, 5))
    for finding in findings(clean):
        assert list(finding) == ["shard", "key", "byte", "kind", "severity", "detail"]
    assert shard_check.DIGEST.itemsize == 24
