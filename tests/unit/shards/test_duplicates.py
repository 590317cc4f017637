"""Near-duplicates: copies are found, strangers are not, blank images are kept apart, a stopped run goes on."""

from __future__ import annotations

import builtins
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from hornet.errors import UserError
from hornet.pages.set.pairs import write_pairs_page
from hornet.shards.reader import RawSample, ShardReader
from hornet.shards.shard_set import open_shards
from hornet.shards.views import hash_matching
from hornet.shards.views import image_hash as image_hash
from hornet.shards.views.duplicates import (
    DuplicatesPlan,
    DuplicatesReport,
    describe_duplicates,
    find_duplicates,
)
from hornet.shards.views.hash_matching import count_bits, find_nearest
from hornet.shards.views.image_hash import FLAT, USABLE, hash_image
from hornet.shards.views.subset import SubsetPlan, make_subset
from tests.unit.shards.making import NOT_AN_IMAGE, encode, index, write_shard

NUM_IMAGES = 12


def scene(seed: int, *, size: tuple[int, int] = (300, 240)) -> Image.Image:
    """Blurred blobs with some grain: frequencies as in photographs, unlike those of another seed."""
    rng = np.random.default_rng(seed)
    layers = np.zeros((size[1], size[0], 3))
    for cells, weight in ((3, 110), (7, 60), (18, 35), (60, 12)):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        layers += weight / 217 * np.asarray(noise.resize(size, Image.Resampling.BICUBIC), dtype=float)
    return Image.fromarray(layers.astype(np.uint8))


def jpeg(image: Image.Image, quality: int = 92) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


BLANK = jpeg(Image.new("RGB", (80, 60), (250, 250, 250)))
OTHER_BLANK = jpeg(Image.new("RGB", (90, 70), (251, 250, 249)))

COPIES: dict[str, Callable[[Image.Image], bytes]] = {
    "coarse JPEG": lambda image: jpeg(image, 25),
    "half size": lambda image: jpeg(image.resize((150, 120))),
    "squashed": lambda image: encode(image.resize((100, 100))),
    "darker": lambda image: jpeg(ImageEnhance.Brightness(image).enhance(0.8)),
    "grey": lambda image: jpeg(image.convert("L").convert("RGB")),
    "trimmed": lambda image: jpeg(image.crop((3, 2, 297, 238))),
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Training: strangers 0 to 11, a copy in each way of validation images 100 to 105, one file, blanks, damage."""
    train, validation = tmp_path_factory.mktemp("train"), tmp_path_factory.mktemp("validation")
    samples = [(f"stranger{number}", "jpg", jpeg(scene(number)), 0) for number in range(NUM_IMAGES)]
    write_shard(train / "t-00.tar", samples)
    rows = [(f"copy{n}", "jpg", make(scene(100 + n)), 1) for n, make in enumerate(COPIES.values())]
    rows += [("same", "jpg", jpeg(scene(108)), 2), ("blank", "jpg", OTHER_BLANK, 2), ("blank_same", "jpg", BLANK, 2)]
    write_shard(train / "t-01.tar", [*rows, ("broken", "jpg", NOT_AN_IMAGE, 2)])
    others = [(f"v{number}", "jpg", jpeg(scene(number)), number % 3) for number in range(100, 110)]
    write_shard(validation / "v-00.tar", [*others, ("blank", "jpg", BLANK, 2)])
    return index(train), index(validation, split="validation")


def search(sets: tuple[Path, Path], output: Path, **options: Any) -> DuplicatesReport:
    values: dict[str, Any] = {"train_split": "train", "validation_split": "validation", "distance": 48}
    values |= {"train": sets[0], "validation": sets[1], "output": output, "num_workers": 1}
    return find_duplicates(DuplicatesPlan(**(values | options)))


def read_rows(path: Path) -> dict[str, Any]:
    return {row["key"]: row for row in map(json.loads, path.read_text().splitlines())}


# Matching


def find_naively(rows: list[int], columns: list[int], distance: int) -> list[tuple[int, int]]:
    """Whole numbers of 256 bits, one pair after the other."""
    found = []
    for row in rows:
        distances = [(row ^ column).bit_count() for column in columns]
        best = min(distances, default=999)
        found.append((distances.index(best), best) if best <= distance else (-1, -1))
    return found


def to_words(numbers: list[int]) -> Any:
    return np.array([list(np.frombuffer(n.to_bytes(32, "little"), "<u8")) for n in numbers], np.uint64).reshape(-1, 4)


@given(st.integers(0, 2**32), st.sampled_from([0, 3, 20, 48, 70, 100, 128]), st.booleans())
def test_matching_misses_nothing(seed: int, distance: int, has_numpy_2: bool) -> None:
    rng = np.random.default_rng(seed)
    columns = [int.from_bytes(rng.bytes(32)) for _ in range(int(rng.integers(1, 90)))]
    rows = []
    for _ in range(40):  # half of them some bits away from a column, the others anywhere
        row = columns[int(rng.integers(len(columns)))] if rng.random() < 0.5 else int.from_bytes(rng.bytes(32))
        for bit in rng.choice(256, int(rng.integers(0, 110)), replace=False).tolist():
            row ^= 1 << bit
        rows.append(row)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hash_matching, "COLUMNS_AT_ONCE", 17)
        if not has_numpy_2:
            patch.delattr(np, "bitwise_count", raising=False)
        nearest, distances = find_nearest(to_words(rows), to_words(columns), distance=distance)
    assert list(zip(nearest.tolist(), distances.tolist(), strict=True)) == find_naively(rows, columns, distance)


def test_bits_are_counted_without_numpy_2_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    words = np.array([[0, 1], [2**64 - 1, 0xF0F0]], np.uint64)
    assert count_bits(words).tolist() == [[0, 1], [64, 8]]


# Hashes


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_near_and_strangers_far(name: str) -> None:
    for seed in range(8):
        (original, state), (copy, _) = hash_image(jpeg(scene(seed))), hash_image(COPIES[name](scene(seed)))
        stranger, _ = hash_image(jpeg(scene(seed + 50)))
        assert state == USABLE
        assert count_bits(original ^ copy).sum() <= 48
        assert count_bits(original ^ stranger).sum() > 80


def test_a_large_jpeg_decoded_small_has_nearly_the_hash_of_the_whole() -> None:
    image = scene(3, size=(1100, 1050))
    (drafted, _), (whole, _) = hash_image(jpeg(image)), hash_image(encode(image))
    assert count_bits(drafted ^ whole).sum() <= 8


def test_blank_and_plain_images_are_flat() -> None:
    assert hash_image(BLANK)[1] == FLAT
    plain = np.full((60, 80, 3), 128, np.uint8)
    plain[::2] += 2
    assert hash_image(encode(Image.fromarray(plain)))[1] == FLAT


# The command's work


def test_list_names_copies_and_equal_files_only(sets: tuple[Path, Path], tmp_path: Path) -> None:
    report = search(sets, tmp_path / "exclude.jsonl")
    rows = read_rows(tmp_path / "exclude.jsonl")
    matches = {key: row["matches"] for key, row in rows.items()}
    expected = {f"t-01/copy{number}": f"v-00/v{100 + number}" for number in range(len(COPIES))}
    assert matches == expected | {"t-01/same": "v-00/v108", "t-01/blank_same": "v-00/blank"}
    assert {key for key, row in rows.items() if row["same_bytes"]} == {"t-01/same", "t-01/blank_same"}
    assert rows["t-01/same"]["distance"] == 0
    assert report.num_flat == (2, 1)
    assert report.num_damaged == (1, 0)
    text = describe_duplicates(report)
    assert "found        8 near 8 others: 2 of equal bytes, 6 that look alike" in text
    flat = [json.loads(line) for line in (tmp_path / "exclude-flat.jsonl").read_text().splitlines()]
    assert [(row["split"], row["shard"]) for row in flat] == [("train", "t-01.tar")] * 2 + [("validation", "v-00.tar")]


def test_the_list_is_what_subset_takes_without_reading_headers(
    sets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search(sets, tmp_path / "exclude.jsonl")
    monkeypatch.setattr("hornet.shards.views.exclusion._read_stems", None)
    plan: dict[str, Any] = dict.fromkeys(("split", "fraction", "per_class", "classes"))
    plan |= {"name": "clean", "seed": 0, "allow_empty_classes": False, "allow_unmatched": False}
    make_subset(SubsetPlan(source=sets[0], output=tmp_path / "clean", exclude=tmp_path / "exclude.jsonl", **plan))
    shards = open_shards(tmp_path / "clean", "train")
    reader = ShardReader(shards)
    keys = {reader.read(sample).key for sample in range(shards.num_samples)}
    assert keys == {f"t-00/stranger{n}" for n in range(NUM_IMAGES)} | {"t-01/blank", "t-01/broken"}


def test_indexes_without_checksums_change_nothing(
    sets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unknown checksums are all alike; comparing the bytes behind them would be reading every pair of images."""
    quick = tuple(index(folder, split=split, output=tmp_path / split, checksums=False) for folder, split in named(sets))
    reads: list[int] = []
    read = ShardReader.read

    def count(reader: ShardReader, sample: int) -> RawSample:
        reads.append(sample)
        return read(reader, sample)

    monkeypatch.setattr(ShardReader, "read", count)
    search(sets, tmp_path / "exclude.jsonl")
    expected, num_reads = read_rows(tmp_path / "exclude.jsonl"), len(reads)
    reads.clear()
    search(quick, tmp_path / "quick.jsonl")  # type: ignore[arg-type]
    assert read_rows(tmp_path / "quick.jsonl") == expected
    assert len(reads) == num_reads


def named(sets: tuple[Path, Path]) -> list[tuple[Path, str]]:
    return list(zip(sets, ("train", "validation"), strict=True))


def test_workers_change_nothing(sets: tuple[Path, Path], tmp_path: Path) -> None:
    for workers in (1, 2):
        search(sets, tmp_path / f"{workers}.jsonl", num_workers=workers)
    assert (tmp_path / "1.jsonl").read_bytes() == (tmp_path / "2.jsonl").read_bytes()


def test_a_stopped_run_goes_on(sets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "exclude.jsonl"
    search(sets, output)
    first = output.read_bytes()
    kept = sorted((tmp_path / "exclude-hashes").rglob("*.npy"))
    assert [path.name for path in kept] == ["t-00.npy", "t-01.npy", "v-00.npy"]
    assert all("phash16-imagehash-" in path.parent.name for path in kept)
    kept[0].unlink()
    kept[1].write_bytes(kept[1].read_bytes()[:-5])
    hashed: list[int] = []
    hash_shard = image_hash._hash_shard
    monkeypatch.setattr(image_hash, "_hash_shard", lambda number: hashed.append(number) or hash_shard(number))
    search(sets, output)
    assert hashed == [0, 1]
    assert output.read_bytes() == first


def test_page_shows_pairs(sets: tuple[Path, Path], tmp_path: Path) -> None:
    write_pairs_page(search(sets, tmp_path / "e.jsonl"), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count('class="pair"') == 8
    assert page.count("<figure") == 16
    assert page.index("equal bytes</p>") < page.index("of 256 bits differ")
    assert "<script" not in page


def test_page_without_pairs(sets: tuple[Path, Path], tmp_path: Path) -> None:
    report = search((sets[1], sets[0]), tmp_path / "e.jsonl", train_split="validation", validation_split="train")
    assert len(report.matches) == 8  # found from the other side too
    empty = DuplicatesReport(**(vars(report) | {"matches": ()}))
    write_pairs_page(empty, tmp_path / "page.html")
    assert "0 of 0 pairs" in (tmp_path / "page.html").read_text()


def test_a_split_is_not_compared_with_itself(sets: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"split 'train' is compared with itself; name two different splits"):
        search((sets[0], sets[0]), tmp_path / "e.jsonl", validation_split="train")


def test_distance_has_limits(sets: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--distance: must be from 0 to 128, not 129"):
        search(sets, tmp_path / "e.jsonl", distance=129)


def test_a_missing_library_names_the_command(
    sets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_import = builtins.__import__

    def refuse(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "imagehash":
            raise ImportError("No module named 'imagehash'")
        return really_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r"imagehash and scipy .*run `pip install imagehash scipy`"):
        search(sets, tmp_path / "e.jsonl")
