"""Folders of images to shards: what is read back by webdataset, timm and our own stream."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import webdataset
from timm.data import create_dataset

from hornet.data.decode import decode_image
from hornet.data.prepare import image_folder
from hornet.data.prepare.image_folder import BuildPlan, BuildReport, build_from_folder, encode_file, list_files
from hornet.data.shards import ShardReader, open_shards
from hornet.errors import UserError
from tests.unit.data.making import encode, picture

FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


def put(source: Path, name: str, content: bytes | None = None) -> bytes:
    path = source / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image_format = FORMATS.get(path.suffix.lstrip(".").lower(), "JPEG")
    content = encode(picture(len(name)), image_format) if content is None else content
    path.write_bytes(content)
    return content


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two classes with 7 and 5 images in three formats."""
    for number in range(12):
        extension = list(FORMATS)[number % 3]
        class_name = "dog" if number < 7 else "cat"
        content = encode(picture(number), FORMATS[extension])
        put(tmp_path / "source", f"{class_name}/{class_name}_{number}.{extension}", content)
    return tmp_path / "source"


def build(
    source: Path, output: Path, *, split: str = "train", samples_per_shard: int = 5, seed: int = 0
) -> BuildReport:
    return build_from_folder(
        BuildPlan(
            source=source, output=output, name="pets", split=split, samples_per_shard=samples_per_shard, seed=seed
        )
    )


def test_all_images_arrive_with_their_bytes_and_labels(source: Path, tmp_path: Path) -> None:
    report = build(source, tmp_path / "out")
    shards = open_shards(tmp_path / "out", "train")
    raw = [ShardReader(shards).read(sample) for sample in range(12)]
    assert {sample.key.partition("/")[2]: (sample.label, sample.image) for sample in raw} == {
        path.stem: (["cat", "dog"].index(path.parent.name), path.read_bytes()) for path in source.glob("*/*")
    }
    assert shards.label_space.classes == ("cat", "dog")
    assert shards.split.shard_lengths == (5, 5, 2)
    assert report.dropped == ()
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"_info.json", "train.index.npy"} | {f"pets-train-00000{n}.tar" for n in range(3)}


def test_webdataset_reads_the_shards(source: Path, tmp_path: Path) -> None:
    build(source, tmp_path / "out")
    tars = sorted(str(path) for path in (tmp_path / "out").glob("*.tar"))
    samples = list(webdataset.WebDataset(tars, shardshuffle=False, empty_check=False))
    assert len(samples) == 12
    for sample in samples:
        (extension,) = set(sample) & set(FORMATS)
        class_name = ["cat", "dog"][int(sample["cls"])]
        assert sample[extension] == (source / class_name / f"{sample['__key__']}.{extension}").read_bytes()


def test_timm_reads_the_set(tmp_path: Path) -> None:
    for number in range(6):
        put(tmp_path / "source", f"{'ab'[number % 2]}/{number}.jpg")
    build(tmp_path / "source", tmp_path / "out")
    dataset = create_dataset("wds/pets", root=str(tmp_path / "out"), split="train", is_training=False)
    assert len(dataset) == 6
    assert sorted(label for _, label in dataset) == [0, 0, 0, 1, 1, 1]


def test_the_same_input_gives_the_same_bytes(source: Path, tmp_path: Path) -> None:
    build(source, tmp_path / "first")
    for path in source.glob("*/*"):
        path.touch()
    build(source, tmp_path / "second")
    names = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "second").iterdir())
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_classes_are_mixed_over_the_shards_by_the_seed(source: Path, tmp_path: Path) -> None:
    def labels(seed: int) -> list[int]:
        build(source, tmp_path / f"out{seed}", seed=seed)
        found: list[int] = open_shards(tmp_path / f"out{seed}", "train").records["label"].tolist()
        return found

    first, second = labels(0), labels(1)
    assert first != sorted(first)
    assert first != second


def test_the_member_is_named_after_the_format_not_the_files_name() -> None:
    png = encode(picture(1), "PNG")
    assert encode_file(png) == ("png", png)  # as n02105855_2933.JPEG of ILSVRC, which is a PNG


@pytest.mark.parametrize("image_format", ["GIF", "BMP"])
def test_other_formats_are_written_anew_without_loss(image_format: str) -> None:
    content = encode(picture(1), image_format)
    extension, written = encode_file(content)
    assert extension == "png"
    assert np.array_equal(np.asarray(decode_image(written)), np.asarray(decode_image(content)))


def test_stems_are_unique_and_hold_no_dots(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "b/1.jpg", "b/1.png", "b/deep/1.webp", "c.d/x.y.jpg", "c.d/.hidden.jpg"):
        put(tmp_path, name)
    files = list_files(tmp_path, ["a", "b", "c.d"])
    assert [(Path(file.path).name, file.label, file.stem) for file in files] == [
        ("1.jpg", 0, "a/1"),
        ("1.jpg", 1, "b/1"),
        ("1.png", 1, "b/1_2"),
        ("1.webp", 1, "b/1_3"),
        ("x.y.jpg", 2, "x_y"),
    ]


def test_long_names_survive(tmp_path: Path) -> None:
    name = "n" * 180
    put(tmp_path / "source", f"a/{name}.jpg")
    build(tmp_path / "source", tmp_path / "out")
    assert ShardReader(open_shards(tmp_path / "out", "train")).read(0).key == f"pets-train-000000/{name}"
    (sample,) = webdataset.WebDataset(
        str(tmp_path / "out" / "pets-train-000000.tar"), shardshuffle=False, empty_check=False
    )
    assert sample["__key__"] == name


def test_undecodable_files_are_dropped_and_listed(source: Path, tmp_path: Path) -> None:
    put(source, "cat/broken.jpg", b"no picture")
    put(source, "cat/cut.jpg", encode(picture(1, width=99, height=99), "JPEG")[:-200])
    report = build(source, tmp_path / "out")
    listed = [json.loads(line) for line in (tmp_path / "out" / "pets-train-dropped.jsonl").read_text().splitlines()]
    assert report.dropped_list == tmp_path / "out" / "pets-train-dropped.jsonl"
    assert sorted(Path(row["path"]).name for row in listed) == ["broken.jpg", "cut.jpg"]
    assert all(row["reason"].startswith("not decodable (") for row in listed)
    assert len(report.dropped) == 2
    assert open_shards(tmp_path / "out", "train").num_samples == 12


def test_a_source_of_nothing_but_broken_files_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "source", "cat/broken.jpg", b"no picture")
    with pytest.raises(UserError, match=r"none of its 1 files is a readable image; see .*pets-train-dropped\.jsonl"):
        build(tmp_path / "source", tmp_path / "out")
    assert not (tmp_path / "out" / "_info.json").exists()


def test_splits_share_a_folder_and_a_label_space(source: Path, tmp_path: Path) -> None:
    build(source, tmp_path / "out")
    build(source, tmp_path / "out", split="validation")
    assert open_shards(tmp_path / "out", "train").num_samples == 12
    assert open_shards(tmp_path / "out", "validation").split.shards[0] == "pets-validation-000000.tar"


def test_another_label_space_is_refused_with_both_fingerprints(source: Path, tmp_path: Path) -> None:
    there = build(source, tmp_path / "out").manifest.label_space.fingerprint
    put(source, "emu/1.jpg")
    with pytest.raises(
        UserError, match=rf"\(2 classes, fingerprint {there}\) is not that of .* \(3 classes, fingerprint \w+\)"
    ):
        build(source, tmp_path / "out", split="validation")


def test_a_split_is_not_overwritten(source: Path, tmp_path: Path) -> None:
    build(source, tmp_path / "out")
    with pytest.raises(UserError, match="split 'train' is already there; choose another --split or output folder"):
        build(source, tmp_path / "out")


def test_a_stopped_build_leaves_no_manifest_and_can_be_started_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode_whole, seen = image_folder.encode_file, []

    def stop_at_the_eighth(content: bytes) -> tuple[str, bytes]:
        seen.append(content)
        if len(seen) == 8:
            raise KeyboardInterrupt
        return encode_whole(content)

    with monkeypatch.context() as patch:
        patch.setattr(image_folder, "encode_file", stop_at_the_eighth)
        with pytest.raises(KeyboardInterrupt):
            build(source, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["pets-train-000000.tar"]
    build(source, tmp_path / "out")
    build(source, tmp_path / "undisturbed")
    for path in (tmp_path / "undisturbed").iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ([], r"source: is not a folder; give the one that holds a folder for each class"),
        (["1.jpg"], r"source: holds no class folders; images are expected in .*/CLASS/NAME\.jpg"),
        (["cat/.hidden"], r"source: its 1 class folders hold no files"),
    ],
)
def test_a_wrong_source_is_explained(tmp_path: Path, names: list[str], problem: str) -> None:
    for name in names:
        put(tmp_path / "source", name)
    with pytest.raises(UserError, match=problem):
        build(tmp_path / "source", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="samples per shard: must be at least 1, not 0"):
        build(tmp_path, tmp_path, samples_per_shard=0)
    with pytest.raises(UserError, match="split: must be usable in a file name, not 'a/b'"):
        build(tmp_path, tmp_path, split="a/b")
