"""Tars as other people make them: what is taken, what is left out with a word, and what is refused with a way out."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hornet.errors import UserError
from hornet.shards.build.build import build
from hornet.shards.build.plan import BuildPlan
from hornet.shards.build.sources import open_source
from hornet.shards.check.verify import VerifyPlan, verify_set
from hornet.shards.index import index_tar
from hornet.shards.indexing.folder import split_pattern
from hornet.shards.indexing.index_set import IndexPlan, index_folder
from hornet.shards.indexing.report import IndexReport, describe_rest
from hornet.shards.reader import ShardReader
from hornet.shards.sample_parts import MAX_NUMBERED_CLASSES, SampleRule
from hornet.shards.shard_set import open_shards
from tests.unit.shards.making import encode, make_image

IMAGE = encode(make_image(0, width=40, height=40), "JPEG")
Members = Sequence[tuple[str, bytes]]


def make_tar(members: Members, links: Sequence[tuple[str, bytes]] = ()) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for name, kind in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.jpg"
            tar.addfile(info)
    return buffer.getvalue()


def put(folder: Path, members: Members, name: str = "x-000.tar") -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(make_tar(members))
    return folder


def index(folder: Path, **changes: Any) -> IndexReport:
    values: dict[str, Any] = {"output": None, "split": None, "pattern": "*.tar", "classes": None, "name": None}
    return index_folder(IndexPlan(folder=folder, **values | changes))


def read(folder: Path) -> dict[str, int]:
    """Keys and labels, as a run sees them."""
    shards = open_shards(folder, "train")
    reader = ShardReader(shards)
    samples = [reader.read(number) for number in range(shards.num_samples)]
    assert all(sample.image for sample in samples)
    return {sample.key: sample.label for sample in samples}


def verify(folder: Path) -> dict[str, int]:
    plan = VerifyPlan(folder=folder, split=None, num_workers=1, report=None, decode=True, write_checksums=False)
    return dict(verify_set(plan).counts)


ONE = [("a.jpg", IMAGE), ("a.cls", b"1")]


# names with dots


def test_names_with_dots_are_samples_under_the_key_before_the_first_dot(tmp_path: Path) -> None:
    stems = ("plain", "cat.v1", "d.e/235342 Track 2.0", "n01.5_3")
    put(tmp_path, [(f"{stem}.{end}", content) for stem in stems for end, content in (("JPG", IMAGE), ("cls", b"2"))])
    report = index(tmp_path)
    assert read(tmp_path) == dict.fromkeys(["x-000/plain", "x-000/cat", "x-000/d.e/235342 Track 2", "x-000/n01"], 2)
    assert describe_rest(report) == []
    assert verify(tmp_path) == {"no-checksum": 1, "duplicate": 3}


@pytest.mark.parametrize("checksums", [True, False])
@pytest.mark.parametrize(
    ("members", "image"),
    [
        ([("a.image.jpg", IMAGE), ("a.cls", b"1")], "a.image.jpg"),
        ([("a.0.png", IMAGE), ("a.label.cls", b"1")], "a.0.png"),
        ([("a.seg.png", b"mask"), ("a.jpg", IMAGE), ("a.cls", b"1"), ("a.coarse.cls", b"cat")], "a.jpg"),
        ([("a.seg.png", b"mask"), ("a.jpg", IMAGE), ("a.class.cls", b"1")], "a.jpg"),
    ],
)
def test_the_image_is_the_one_that_is_meant(tmp_path: Path, members: Members, image: str, checksums: bool) -> None:
    put(tmp_path, members)
    report = index(tmp_path, checksums=checksums)
    record = open_shards(tmp_path, "train").records[0]
    with tarfile.open(tmp_path / "x-000.tar") as tar:
        assert tar.getmember(image).offset == record["offset"]
    assert record["label"] == 1
    passed = sorted(name for name, _ in members if name not in (image, "a.cls", "a.label.cls", "a.class.cls"))
    assert sorted(report.passed.firsts.values()) == passed
    assert set(verify(tmp_path)) <= {"no-checksum", "format"}


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (
            ["a.v1.jpg", "a.v1.cls", "a.v2.jpg", "a.v2.cls"],
            r"'a\.v1' and 'a\.v2' are samples of one key, 'a': .*rename",
        ),
        (["a.jpg", "a.cls", "a.v2.jpg", "a.v2.cls"], r"'a' and 'a\.v2' are samples of one key, 'a'"),
        (["a.jpg", "a.v2.jpg", "a.v2.cls"], r"'a' and 'a\.v2' are samples of one key"),
        (
            ["a.left.jpg", "a.right.jpg", "a.cls"],
            r"has 2 images, 'a\.left' and 'a\.right', and none is called 'a' alone",
        ),
        (["a.jpg", "a.x.cls", "a.y.cls"], r"has 2 labels, 'a\.x' and 'a\.y', and none is called 'a' alone; rename the"),
    ],
)
def test_two_samples_of_one_key_are_refused(tmp_path: Path, names: list[str], problem: str) -> None:
    put(tmp_path, [(name, b"1" if name.endswith("cls") else IMAGE) for name in names])
    with pytest.raises(UserError, match=rf"x-000\.tar: byte 0: .*{problem}|x-000\.tar: byte 0: {problem}"):
        index(tmp_path)


def test_build_takes_images_whose_names_hold_dots(tmp_path: Path) -> None:
    put(tmp_path / "tars", [("cat.v1.jpg", IMAGE), ("cat.v1.cls", b"4"), *ONE])
    report = build(BuildPlan(source=tmp_path / "tars", output=tmp_path / "set", name="set", num_workers=1))
    assert report.manifest.splits["train"].num_samples == 2


# members and tars that are passed over


def test_what_is_passed_over_is_counted_and_named(tmp_path: Path) -> None:
    put(
        tmp_path,
        [*ONE, ("a.txt", b"cat"), ("b.txt", b"dog"), ("._a.jpg", b"mac"), ("__MACOSX/._a.jpg", b""), ("README", b"")],
    )
    report = index(tmp_path)
    (line,) = describe_rest(report)
    assert line == (
        "passed over  2 .txt ('a.txt' for one), 2 hidden ('._a.jpg' for one), 1 no extension ('README' for one)"
    )
    assert report.manifest.splits["train"].origin["passed_over"] == {".txt": 2, "hidden": 2, "no extension": 1}


def test_tars_that_are_not_taken_are_named(tmp_path: Path) -> None:
    put(tmp_path, ONE)
    for name in ("y-001.TAR", "z-002.tar.gz", ".hidden.tar", "._x-000.tar", "more/w-003.tar", "notes.txt"):
        put(tmp_path, ONE, name)
    report = index(tmp_path)
    assert read(tmp_path) == {"x-000/a": 1}
    assert report.not_taken == ("more/w-003.tar", "y-001.TAR", "z-002.tar.gz")
    assert describe_rest(report) == ["note         3 other tars are not part of the set, more/w-003.tar for one"]


def test_a_folder_of_packed_tars_says_what_it_holds(tmp_path: Path) -> None:
    put(tmp_path, ONE, "z-002.tar.gz")
    with pytest.raises(
        UserError, match=r"no tar '\*\.tar' for split 'train'; it holds z-002\.tar\.gz; packed tars must"
    ):
        index(tmp_path)


@pytest.mark.parametrize(
    "names", [["a_train_0.tar", "a_val_0.tar"], ["train.tar", "test.tar"], ["train/0.tar", "val/1.tar"]]
)
def test_tars_of_several_splits_are_not_one(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        put(tmp_path, ONE, name)
    with pytest.raises(
        UserError, match=r"takes in tars of several splits \(\w+, \w+\); index each by itself, with --split"
    ):
        index(tmp_path, pattern=["*.tar", "*/*.tar"])


def test_tars_of_another_split_do_not_become_train(tmp_path: Path) -> None:
    put(tmp_path, ONE, "a-val-000.tar")
    with pytest.raises(
        UserError, match=r"by their names these are tars of split 'val'; say --split val \(or --split train"
    ):
        index(tmp_path)
    assert list(index(tmp_path, split="validation").manifest.splits) == ["validation"]


# patterns


def test_a_pattern_may_hold_folders_and_blanks(tmp_path: Path) -> None:
    put(tmp_path, [("top.jpg", IMAGE), ("top.cls", b"0")], "a-000.tar")
    put(tmp_path, [("below.jpg", IMAGE), ("below.cls", b"3")], "train/a-000.tar")
    put(tmp_path, [("blank.jpg", IMAGE), ("blank.cls", b"4")], "train/my set-001.tar")
    index(tmp_path, pattern="train/*.tar")
    assert read(tmp_path) == {"a-000/below": 3, "my set-001/blank": 4}
    index(tmp_path, pattern="train/my set-{001..001}.tar")
    assert read(tmp_path) == {"my set-001/blank": 4}
    index(tmp_path, pattern="**/a-*.tar", output=tmp_path / "out")
    with pytest.raises(UserError, match=r"a-000\.tar stands twice; a sample's key holds"):
        read(tmp_path / "out")


def test_a_place_may_end_in_a_name_with_blanks(tmp_path: Path) -> None:
    put(tmp_path, [("blank.jpg", IMAGE), ("blank.cls", b"4")], "my set-000.tar")
    place, pattern = split_pattern(str(tmp_path / "my set-000.tar"))
    assert (place, pattern) == (str(tmp_path), "my set-000.tar")
    index(tmp_path, pattern=pattern)
    assert read(tmp_path) == {"my set-000/blank": 4}


def test_another_pattern_replaces_the_tars_of_a_split(tmp_path: Path) -> None:
    for number in (0, 1):
        put(tmp_path, [(f"{number}.jpg", IMAGE), (f"{number}.cls", b"1")], f"x-{number}.tar")
    index(tmp_path, pattern="x-0.tar")
    index(tmp_path, pattern="x-1.tar")
    assert read(tmp_path) == {"x-1/1": 1}


def test_names_with_brackets_and_braces_are_taken_as_they_stand(tmp_path: Path) -> None:
    put(tmp_path, ONE, "a[1]{2}.tar")
    index(tmp_path, pattern="a[1]{2}.tar")
    assert read(tmp_path) == {"a[1]{2}/a": 1}


@pytest.mark.parametrize(
    ("pattern", "problem"), [("a{1.tar", "is no pattern"), ("/abs/*.tar", "must be a pattern of names")]
)
def test_patterns_that_are_none(tmp_path: Path, pattern: str, problem: str) -> None:
    put(tmp_path, ONE)
    with pytest.raises(UserError, match=problem):
        index(tmp_path, pattern=pattern)


# labels


@pytest.mark.parametrize("content", [b"999999999", b"1440764", b"%d" % MAX_NUMBERED_CLASSES])
def test_ids_are_no_labels(tmp_path: Path, content: bytes) -> None:
    put(tmp_path, [*ONE, ("b.jpg", IMAGE), ("b.cls", content)])
    problem = (
        rf"'b\.cls' holds {content.decode()}: labels without class names are numbered from 0, up to 100000 classes"
    )
    for call in (index, lambda folder: open_source(folder).parts[0].list()):  # type: ignore[union-attr]
        with pytest.raises(UserError, match=problem):
            call(tmp_path)
    assert not (tmp_path / "_info.json").exists()


def test_a_list_of_classes_lifts_the_bound_and_is_a_bound_itself(tmp_path: Path) -> None:
    put(tmp_path, [("b.jpg", IMAGE), ("b.cls", b"100001")])
    (tmp_path / "list.txt").write_text("".join(f"id {number}x\n" for number in range(100_002)))
    index(tmp_path, classes=tmp_path / "list.txt")
    assert read(tmp_path) == {"x-000/b": 100_001}


@pytest.mark.parametrize("label_key", [None, "label"])
def test_class_names_are_looked_up_in_a_given_list(tmp_path: Path, label_key: str | None) -> None:
    label = b"dog\n" if label_key is None else b'{"label": "dog"}'
    put(tmp_path, [("a.jpg", IMAGE), ("a.cls" if label_key is None else "a.json", label)])
    with pytest.raises(
        UserError, match=r"must hold one integer.*; class names are looked up in the list given with --cla"
    ):
        index(tmp_path, label_key=label_key)
    (tmp_path / "list.txt").write_text("cat\ndog\n")
    index(tmp_path, label_key=label_key, classes=tmp_path / "list.txt")
    assert read(tmp_path) == {"x-000/a": 1}
    assert verify(tmp_path) == {"no-checksum": 1}
    (tmp_path / "other.txt").write_text("cat\ncow\n")
    with pytest.raises(UserError, match=r"or one of the 2 class names given with --classes, not b?'dog"):
        index(tmp_path, label_key=label_key, classes=tmp_path / "other.txt", output=tmp_path / "out")


def test_keys_with_dots_lead_into_objects_unless_they_are_there_themselves(tmp_path: Path) -> None:
    deep = {"a": {"b": 3}, "c.d": 4, "c": {"d": 5}}
    put(tmp_path, [("a.jpg", IMAGE), ("a.json", json.dumps(deep).encode())])
    path = tmp_path / "x-000.tar"
    for key, label in (("a.b", 3), ("c.d", 4)):
        assert index_tar(path, rule=SampleRule(label_key=key)).records["label"].tolist() == [label]
    with pytest.raises(UserError, match=r"has no key 'a\.x' for the label; it has: b"):
        index_tar(path, rule=SampleRule(label_key="a.x"))


def test_labels_in_json_where_cls_is_wanted_say_the_option(tmp_path: Path) -> None:
    put(tmp_path, [("a.jpg", IMAGE), ("a.json", b"{}")])
    with pytest.raises(
        UserError,
        match=r"the image of 'a' has no \.cls; beside it: a\.json; take labels from .* `--labels json:KEY`, or",
    ):
        index(tmp_path)


def test_a_whole_number_of_thousands_of_digits_in_json_is_refused(tmp_path: Path) -> None:
    put(tmp_path, [("a.jpg", IMAGE), ("a.json", b'{"label": ' + b"9" * 4000 + b"}")])
    with pytest.raises(UserError, match=r"must hold one integer under 'label', not a whole number of 13288 bits"):
        index(tmp_path, label_key="label")


# samples that are not whole


HALVES = [
    *ONE,
    ("no_label.jpg", IMAGE),
    ("no_image.cls", b"0"),
    ("minus.jpg", IMAGE),
    ("minus.cls", b"-1"),
    ("empty.jpg", b""),
    ("empty.cls", b"0"),
    ("void.jpg", IMAGE),
    ("void.cls", b""),
]


def test_samples_that_are_not_whole_are_left_out_on_request_counted_and_listed(tmp_path: Path) -> None:
    put(tmp_path, HALVES)
    report = index(tmp_path, incomplete="skip")
    assert read(tmp_path) == {"x-000/a": 1}
    assert report.num_incomplete == 5
    assert describe_rest(report)[:2] == [
        "left out     5 samples that are not whole",
        f"listed in    {tmp_path / 'train.incomplete.jsonl'}",
    ]
    rows = [json.loads(line) for line in (tmp_path / "train.incomplete.jsonl").read_text().splitlines()]
    assert {row["key"]: row["reason"] for row in rows} == {
        "x-000/no_label": "the image of 'no_label' has no .cls",
        "x-000/no_image": "the .cls of 'no_image' has no image .jpg .jpeg .png .webp",
        "x-000/minus": "'minus.cls' holds -1",
        "x-000/empty": "'empty.jpg' has 0 bytes",
        "x-000/void": "'void.cls' is empty, where an integer is wanted",
    }
    assert report.manifest.splits["train"].origin["num_incomplete"] == 5
    assert verify(tmp_path) == {"no-checksum": 1}


@pytest.mark.parametrize("name", ["no_label", "no_image", "empty"])
def test_without_the_request_they_are_refused_with_the_way(tmp_path: Path, name: str) -> None:
    put(tmp_path, [*ONE, *(member for member in HALVES if member[0].startswith(name))])
    with pytest.raises(UserError, match=rf"{name}.*; leave such samples out with `--incomplete skip`"):
        index(tmp_path)


def test_minus_one_is_no_class(tmp_path: Path) -> None:
    put(tmp_path, [*ONE, *(member for member in HALVES if member[0].startswith("minus"))])
    with pytest.raises(UserError, match=r"x-000\.tar: label -1 of .* stands for no class; .*`--incomplete skip`"):
        index(tmp_path)
    with pytest.raises(UserError, match=r"'minus\.jpg' has label -1, which names no class; .*`--incomplete skip`"):
        open_source(tmp_path).parts[0].list()  # type: ignore[union-attr]


def test_a_set_without_a_whole_sample_is_refused(tmp_path: Path) -> None:
    put(tmp_path, [("a.jpg", IMAGE)])
    with pytest.raises(
        UserError, match=r"no sample of split 'train' is whole; the first .*the image of 'a' has no \.cls"
    ):
        index(tmp_path, incomplete="skip")


def test_build_leaves_them_out_too(tmp_path: Path) -> None:
    put(tmp_path / "tars", HALVES)
    plan = BuildPlan(source=tmp_path / "tars", output=tmp_path / "set", name="s", num_workers=1, incomplete="skip")
    report = build(plan)
    assert report.manifest.splits["train"].num_samples == 1
    assert report.dropped == {"undecodable": 1}  # the empty image
    assert any("4 samples that are not whole were left out" in remark for remark in report.remarks)
    assert build(plan).was_complete


# images of other formats, links, packed and joined tars


def test_gif_and_bmp_are_for_build(tmp_path: Path) -> None:
    for number, kind in enumerate(("GIF", "BMP")):
        put(tmp_path / "tars", [(f"a.{kind.lower()}", encode(make_image(0), kind)), ("a.cls", b"1")], f"x-{number}.tar")
    with pytest.raises(
        UserError, match=r"the \.cls of 'a' has no image .*; beside it: a\.gif; .* build` takes \.gif and"
    ):
        index(tmp_path / "tars")
    report = build(BuildPlan(source=tmp_path / "tars", output=tmp_path / "set", name="s", num_workers=1))
    assert report.manifest.splits["train"].num_samples == 2


@pytest.mark.parametrize("ending", ["tiff", "avif", "jfif", "heic"])
def test_other_formats_are_named_with_what_to_do(tmp_path: Path, ending: str) -> None:
    put(tmp_path, [(f"a.{ending}", IMAGE), ("a.cls", b"1")])
    with pytest.raises(UserError, match=rf"beside it: a\.{ending}; convert the images to JPEG or PNG"):
        index(tmp_path)


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
def test_links_are_refused_with_the_way(tmp_path: Path, kind: bytes) -> None:
    (tmp_path / "x-000.tar").write_bytes(make_tar([*ONE, ("b.cls", b"1")], links=[("b.jpg", kind)]))
    with pytest.raises(
        UserError, match=r"'b\.jpg' is not a plain file; write the tar .*--dereference --hard-dereference"
    ):
        index(tmp_path)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (gzip.compress(make_tar(ONE)), "a gzip, not a plain tar; unpack it, as with `gunzip < IN > OUT`"),
        (gzip.compress(np.random.default_rng(0).bytes(2000)), "a gzip"),
        (b"\x28\xb5\x2f\xfd" + bytes(600), "a zstd file, not a plain tar; unpack it, as with `zstd -d"),
        (b"PK\x03\x04" + bytes(600), "a zip"),
        (b"BZh9" + b"\1" * 600, "a bzip2 file"),
        (b"\xfd7zXZ\0" + b"\1" * 600, "an xz file"),
    ],
)
def test_packed_tars_are_called_what_they_are(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / "x-000.tar").write_bytes(content)
    for call in (index, open_source):
        with pytest.raises(UserError, match=rf"x-000\.tar: byte 0: {name}"):
            call(tmp_path)  # type: ignore[operator]


def test_joined_tars_say_how_to_take_them_apart(tmp_path: Path) -> None:
    (tmp_path / "x-000.tar").write_bytes(make_tar(ONE) * 2)
    with pytest.raises(UserError, match=r"bytes after the end of the archive; .*`tar --ignore-zeros -xf`"):
        index(tmp_path)


def test_an_absurd_image_is_refused_before_it_is_read(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.jpg")
    info.size = 1 << 30
    with (tmp_path / "x-000.tar").open("wb") as file:
        file.write(info.tobuf())
        file.truncate(512 + info.size + 1024)  # a hole: nothing on disk
    with pytest.raises(UserError, match=r"'a\.jpg' has 1073741824 bytes; 256 MiB is the limit of an image"):
        index(tmp_path, checksums=True)


@pytest.mark.parametrize(
    ("split", "problem"),
    [
        ({"filenames": "x-000.tar"}, "filenames of split 'n' must be a list of names"),
        ({"filenames": ["x-000.tar"], "shard_lengths": {"a": 1}}, "shard_lengths of split 'n' must be a list of whole"),
    ],
)
def test_lists_that_are_none_are_named(tmp_path: Path, split: dict[str, Any], problem: str) -> None:
    put(tmp_path, ONE)
    (tmp_path / "_info.json").write_text(json.dumps({"splits": {"train": {"name": "n", **split}}}))
    for call in (index, open_source):
        with pytest.raises(UserError, match=problem):
            call(tmp_path)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("key", "value"), [("filenames", [3]), ("shard_bytes", ["x"]), ("shard_lengths", [1.5]), ("shard_sha256", [7])]
)
def test_values_of_another_type_in_a_manifest_are_named(tmp_path: Path, key: str, value: list[Any]) -> None:
    put(tmp_path, ONE)
    index(tmp_path)
    info = json.loads((tmp_path / "_info.json").read_text())
    info["splits"]["train"][key] = value
    (tmp_path / "_info.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match=rf"splits\.train\.{key}: holds '{value[0]}', which is none of its values"):
        read(tmp_path)


def test_json_nested_too_deeply_is_an_error_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "_info.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"_info\.json: is not readable as JSON"):
        index(tmp_path)


# no class from a shard's name


@pytest.mark.parametrize("label", ["txt", "caption", "idx"])
def test_a_shards_name_is_no_class(tmp_path: Path, label: str) -> None:
    for number in (0, 1):
        put(tmp_path, [("k.jpg", IMAGE), (f"k.{label}", b"1")], f"shard-{number:06d}.tar")
    with pytest.raises(
        UserError,
        match=rf"'shard-000000' may be a shard's; .*--layout folder-of-tars; .*--labels json:KEY; shard-000000\.tar "
        rf"begins with .*1 \.{label}",
    ):
        open_source(tmp_path)
    asked = open_source(tmp_path, layout="folder-of-tars")
    assert asked.classes == ("shard-000000", "shard-000001")


@pytest.mark.parametrize("packed", ["tar", "tar.gz"])
def test_nor_is_that_of_a_shard_within_an_archive(tmp_path: Path, packed: str) -> None:
    outer = make_tar([(f"data/shard-{number}.tar", make_tar(ONE[:1])) for number in (0, 1)])
    path = tmp_path / f"all.{packed}"
    path.write_bytes(outer if packed == "tar" else gzip.compress(outer))

    def open_and_read(**options: Any) -> set[str]:
        source = open_source(path, **options)
        if hasattr(source, "parts"):
            return {part.name for part in source.parts}
        return {class_name for part in source.stream() for _, class_name, _ in part.images}

    with pytest.raises(UserError, match=r"'shard-0' may be a shard's; .*--layout tar"):
        open_and_read()
    layout = "tar-of-tars" if packed == "tar" else "tar-gz"
    assert open_and_read(layout=layout) == {"shard-0", "shard-1"}


def test_names_of_given_classes_are_classes(tmp_path: Path) -> None:
    for name in ("cat.tar", "dog.tar"):
        put(tmp_path / "tars", [("k.jpg", IMAGE)], name)
    (tmp_path / "list.txt").write_text("dog\ncat\n")
    plan = BuildPlan(
        source=tmp_path / "tars", output=tmp_path / "set", name="s", num_workers=1, classes=str(tmp_path / "list.txt")
    )
    assert build(plan).manifest.splits["train"].class_counts == (1, 1)


@pytest.mark.parametrize("packed", ["tar", "tar.gz"])
def test_a_folder_in_a_tar_of_samples_is_no_class(tmp_path: Path, packed: str) -> None:
    images = [(f"train/{number}.jpg", IMAGE) for number in range(9)]
    labels = [(f"train/{number}.cls", b"1") for number in range(9)]
    content = make_tar(images + labels)  # sorted by kind: no label among the first members
    path = tmp_path / f"all.{packed}"
    path.write_bytes(content if packed == "tar" else gzip.compress(content))
    problem = r"no class is made from the folder 'train'" if packed == "tar" else r"is a label, so these are samples"
    with pytest.raises(UserError, match=problem):
        [list(part.images) for part in open_source(path).stream()]  # type: ignore[union-attr]


# folders


def test_folders_of_systems_are_no_classes(tmp_path: Path) -> None:
    for name in ("cat/1.jpg", "dog/2.jpg", "__MACOSX/cat/._1.jpg", "@eaDir/1.jpg", "lost+found/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(IMAGE)
    source = open_source(tmp_path)
    assert source.classes == ("cat", "dog")
    assert "3 files without an extension were passed over" in source.remarks[0]


@pytest.mark.parametrize("layout", ["image-folder", "tar-of-folders", "tar-gz"])
def test_small_copies_that_a_disk_keeps_are_no_images(tmp_path: Path, layout: str) -> None:
    """Synology's disks: an @eaDir in each folder, in it a folder for each image with thumbnails."""
    for name in ("cat/1.jpg", "dog/2.jpg", "cat/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", "cat/deep/@eaDir/3.jpg"):
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).write_bytes(IMAGE)
    path = tmp_path / "source"
    if layout != "image-folder":
        path = tmp_path / ("s.tar" if layout == "tar-of-folders" else "s.tar.gz")
        with tarfile.open(path, "w" if layout == "tar-of-folders" else "w:gz") as tar:
            tar.add(tmp_path / "source", ".")
    report = build(BuildPlan(source=path, output=tmp_path / "set", name="s", num_workers=1))
    assert report.manifest.splits["train"].class_counts == (1, 1)


def test_small_images_are_kept_and_told(tmp_path: Path) -> None:
    for number, size in enumerate([(1, 1), (3, 200), (40, 40)]):
        path = tmp_path / "source" / "cat" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(make_image(number, width=size[0], height=size[1])))
    report = build(BuildPlan(source=tmp_path / "source", output=tmp_path / "set", name="s", num_workers=1))
    assert report.manifest.splits["train"].num_samples == 3
    assert report.remarks[-1].startswith("2 images have an edge of fewer than 32 pixels and are in the set")
    assert "--min-short-edge 32 leaves them out" in report.remarks[-1]
    assert verify(tmp_path / "set") == {"small": 2}
