"""Listings on disk: parts in order, killed and gone on, refused when they are not of this source."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from hornet.errors import UserError
from hornet.shards.build import listing as module
from hornet.shards.build.listing import DamagedParts, ListedImage, Listing, make_listing
from hornet.shards.build.source import Entry, PartListing, SeekableSource, StreamedPart


@dataclass(frozen=True)
class Folder:
    name: str
    path: Path = Path("/source")

    def list(self) -> PartListing:
        entries = tuple(
            Entry(name=f"{self.name}-{n}.jpg", class_name=f"class {n % 2}", offset=100 * n, size=n + 1)
            for n in range(len(self.name))
        )
        damage = "broken: byte 7: cut" if self.name == "broken" else None
        return PartListing(entries=entries, remarks=(f"remark on {self.name}",), damage=damage)


@dataclass
class Stream:
    contents: dict[str, list[bytes]]
    dies_after: int | None = None
    paths: tuple[Path, ...] = ()
    classes: None = None
    remarks: tuple[str, ...] = ()

    def stream(self) -> Iterator[StreamedPart]:
        for number, (name, contents) in enumerate(self.contents.items()):
            if number == self.dies_after:
                raise KeyboardInterrupt
            yield StreamedPart(
                name=name,
                images=((f"{n}.jpg", name, content) for n, content in reversed(list(enumerate(contents)))),
            )


def make(
    tmp_path: Path,
    source: object,
    *,
    identity: str = "source",
    workers: int = 1,
    damaged_parts: DamagedParts = "refuse",
) -> Listing:
    return make_listing(
        source,  # type: ignore[arg-type]
        tmp_path / "listing",
        spool=tmp_path / "spool.bin",
        identity={"source": identity},
        num_workers=workers,
        damaged_parts=damaged_parts,
    )


def read_all(listing: Listing) -> list[ListedImage]:
    listing.open()
    return [listing.read(number) for number in range(listing.num_images)]


@pytest.mark.parametrize("workers", [1, 3])
def test_parts_are_listed_in_order_whatever_the_workers(tmp_path: Path, workers: int) -> None:
    parts = tuple(Folder(name) for name in ("a", "bbb", "", "cc"))
    listing = make(tmp_path, SeekableSource(parts=parts), workers=workers)
    assert [(listed.part, listed.name, listed.offset, listed.size) for listed in read_all(listing)] == [
        (0, "a-0.jpg", 0, 1),
        (1, "bbb-0.jpg", 0, 1),
        (1, "bbb-1.jpg", 100, 2),
        (1, "bbb-2.jpg", 200, 3),
        (3, "cc-0.jpg", 0, 1),
        (3, "cc-1.jpg", 100, 2),
    ]
    assert listing.progress.classes == ["class 0", "class 1"]
    assert listing.column("class_id").tolist() == [0, 0, 1, 0, 0, 1]
    assert listing.progress.remarks[1] == "remark on bbb"


def test_a_streamed_source_is_spooled_and_goes_on_after_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMMIT_SECONDS", 0.0)
    contents = {name: [f"{name}{n}".encode() for n in range(4)] for name in ("x", "y", "z")}
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, Stream(contents, dies_after=2))
    with (tmp_path / "spool.bin").open("ab") as file:
        file.write(b"half a part of the killed attempt")
    listing = make(tmp_path, Stream(contents))
    spool = (tmp_path / "spool.bin").read_bytes()
    found = [(listed.name, spool[listed.offset : listed.offset + listed.size]) for listed in read_all(listing)]
    assert found == [(f"{n}.jpg", content) for name in contents for n, content in enumerate(contents[name])]
    assert len(spool) == sum(len(content) for parts in contents.values() for content in parts)


@pytest.mark.parametrize("dies_after", [2, None])
@pytest.mark.parametrize("left", [None, b"x"])
def test_a_spool_that_has_gone_is_filled_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_after: int | None, left: bytes | None
) -> None:
    monkeypatch.setattr(module, "COMMIT_SECONDS", 0.0)
    contents = {name: [f"{name}{n}".encode() for n in range(4)] for name in ("x", "y", "z")}
    with suppress(KeyboardInterrupt):
        make(tmp_path, Stream(contents, dies_after=dies_after))
    (tmp_path / "spool.bin").unlink()  # it was on the disk of another node, or a clean-up took it
    if left is not None:
        (tmp_path / "spool.bin").write_bytes(left)
    listing = make(tmp_path, Stream(contents))
    spool = (tmp_path / "spool.bin").read_bytes()
    found = [(listed.name, spool[listed.offset : listed.offset + listed.size]) for listed in read_all(listing)]
    assert found == [(f"{n}.jpg", content) for name in contents for n, content in enumerate(contents[name])]


def test_a_complete_listing_is_not_made_again(tmp_path: Path) -> None:
    first = make(tmp_path, SeekableSource(parts=(Folder("aa"),)))
    again = make(tmp_path, SeekableSource(parts=(Folder("broken"),)))
    assert again.num_images == first.num_images == 2


def test_another_source_is_listed_anew(tmp_path: Path) -> None:
    make(tmp_path, SeekableSource(parts=(Folder("aa"),)))
    assert make(tmp_path, SeekableSource(parts=(Folder("bbb"),)), identity="other").num_images == 3


def test_a_listing_that_the_first_release_began_goes_on(tmp_path: Path) -> None:
    source = SeekableSource(parts=(Folder("aa"), Folder("bbb")))
    made = read_all(make(tmp_path, source))
    record = tmp_path / "listing/listing.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps({"num_items": content.pop("num_images"), **content}))
    assert read_all(make(tmp_path, SeekableSource(parts=(Folder("broken"),)))) == made


@pytest.mark.parametrize("workers", [1, 2])
def test_a_damaged_part_ends_the_listing_with_its_sentence(tmp_path: Path, workers: int) -> None:
    source = SeekableSource(parts=(Folder("a"), Folder("broken")))
    with pytest.raises(UserError, match="broken: byte 7: cut; copy it again, or take the 6 images before the damage"):
        make(tmp_path, source, workers=workers)
    listing = make(tmp_path, source, workers=workers, damaged_parts="salvage")
    assert listing.num_images == 7
    assert listing.progress.remarks[-1] == "broken: byte 7: cut: only the 6 images before are taken"


def test_parts_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two parts of the source are named 'a_b'"):
        make(tmp_path, SeekableSource(parts=(Folder("a.b"), Folder("a/b"))))


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    make(tmp_path, SeekableSource(parts=(Folder("aa"),)))
    (tmp_path / "listing" / "listing.json").write_text("{")
    with pytest.raises(UserError, match=r"listing\.json: is damaged .*; remove .* and start again"):
        make(tmp_path, SeekableSource(parts=(Folder("aa"),)))


def test_columns_are_read_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_ROWS", 4)
    listing = make(tmp_path, SeekableSource(parts=(Folder("a" * 11),)))
    assert np.array_equal(listing.column("size"), np.arange(1, 12))
