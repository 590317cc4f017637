"""Tars of samples with all kinds of members, by webdataset's own writer."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import webdataset

from tests.unit.shards.making import encode, make_image


def make_fields(number: int) -> dict[str, object]:
    """Caption, mask, and more members the larger the number's rest."""
    fields: dict[str, object] = {
        "__key__": f"part{number % 3}/s{number:04d}",
        "jpg": encode(make_image(number), "JPEG"),
        "txt": f"caption {number}".encode(),
        "json": json.dumps({"number": number}).encode(),
    }
    if number % 4 == 1:
        fields["seg.png"] = encode(make_image(number + 1000))
    if number % 4 == 2:
        fields |= {"left.BIN": b"left", "empty.txt": b"", "cls": b"3"}
    return fields


def write_whole_tars(folder: Path, lengths: tuple[int, ...] = (7, 12, 5, 9, 7), *, first: int = 0) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    paths, number = [], first
    for shard, length in enumerate(lengths):
        path = folder / f"any-{shard:02d}.tar"
        with webdataset.TarWriter(str(path), encoder=False) as writer:
            for _ in range(length):
                writer.write(make_fields(number))
                number += 1
        paths.append(str(path))
    return paths


def read_by_webdataset(paths: list[str]) -> list[dict[str, object]]:
    return list(webdataset.tarfile_to_samples()({"url": path} for path in paths))


def key(sample: dict[str, object]) -> str:
    return f"{sample['__url__']} {sample['__key__']}"


def keys_of(samples: Iterable[dict[str, object]]) -> list[str]:
    return [key(sample) for sample in samples]
