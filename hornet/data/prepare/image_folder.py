"""A folder with one folder of images for each class -> shards, index, manifest.

Classes are numbered in the order of their sorted names, as torchvision's ImageFolder does.
"""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from hornet.data.decode import FORMATS, UndecodableImageError, decode_image
from hornet.data.index import ShardIndex, index_tar
from hornet.data.label_space import LabelSpace
from hornet.data.manifest import Manifest
from hornet.data.order import permute
from hornet.data.prepare.split_writing import EncodedSample, add_split, open_set, write_tar
from hornet.durable import write_text
from hornet.errors import UserError

COPIED_FORMATS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
"""Whose bytes go into the tar unchanged (MPO is a JPEG with more pictures behind); others are written anew as PNG."""


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """What to build."""

    source: Path
    """Folder of class folders."""
    output: Path
    """Folder for tars, index and manifest; made if it is not there, may hold other splits of the set."""
    name: str
    """The set's name: first part of the tars' names."""
    split: str
    """The split's name: second part."""
    samples_per_shard: int
    """In each tar but the last."""
    seed: int
    """Of the shuffle over all files."""

    def __post_init__(self) -> None:
        if self.samples_per_shard < 1:
            raise UserError(f"samples per shard: must be at least 1, not {self.samples_per_shard}")
        for key in ("name", "split"):
            value = getattr(self, key)
            if not value or "/" in value or value.startswith((".", "_")):
                raise UserError(f"{key}: must be usable in a file name, not {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One image of the source."""

    path: str
    """Full path."""
    label: int
    """Number of its class."""
    stem: str
    """Name of its members in the tar, unique in the split."""


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What was built."""

    manifest: Manifest
    """As written."""
    dropped: tuple[tuple[str, str], ...]
    """Path and reason of each file that is no readable image."""
    dropped_list: Path | None
    """JSON lines of the same; None if nothing was dropped."""


def build_from_folder(plan: BuildPlan) -> BuildReport:
    """Build one split. The same files and seed give the same bytes.

    Raises UserError if the source has no classes or no images, the split is already there, or the output holds a set of
    another label space.
    """
    classes = _list_classes(plan.source)
    label_space = LabelSpace(name=plan.name, classes=tuple(classes))
    manifest = open_set(plan.output, name=plan.name, label_space=label_space)
    if plan.split in manifest.splits:
        raise UserError(
            f"{manifest.path}: split {plan.split!r} is already there; choose another --split or output folder"
        )
    files = list_files(plan.source, classes)
    if not files:
        raise UserError(f"{plan.source}: its {len(classes)} class folders hold no files")
    plan.output.mkdir(parents=True, exist_ok=True)
    dropped: list[tuple[str, str]] = []
    order = permute(len(files), "build", plan.seed).tolist()
    progress = tqdm((files[position] for position in order), total=len(files), unit=" images", disable=None)
    shards, indexes = _write_shards(plan, _encode(progress, dropped))
    dropped_list = _write_dropped(plan, dropped)
    if not shards:
        raise UserError(f"{plan.source}: none of its {len(files)} files is a readable image; see {dropped_list}")
    manifest = add_split(
        manifest, split=plan.split, shard_folder=".", shards=shards, indexes=indexes, origin={"command": "build"}
    )
    return BuildReport(manifest=manifest, dropped=tuple(dropped), dropped_list=dropped_list)


def list_files(source: Path, classes: Sequence[str]) -> list[SourceFile]:
    """List the files below each class folder, in sorted order, hidden ones left out, with unique stems."""
    found = [
        (os.path.join(folder, name), label)  # noqa: PTH118  (14 million: Path objects are slow)
        for label, class_name in enumerate(classes)
        for folder, name in _walk(source / class_name)
    ]
    stems = [_plain(os.path.splitext(os.path.basename(path))[0]) for path, _ in found]  # noqa: PTH119, PTH122
    counts = Counter(stems)
    taken: set[str] = set()
    files = []
    for (path, label), stem in zip(found, stems, strict=True):
        base = stem if counts[stem] == 1 else f"{_plain(classes[label])}/{stem}"
        unique, number = base, 1
        while unique in taken:
            number += 1
            unique = f"{base}_{number}"
        taken.add(unique)
        files.append(SourceFile(path=path, label=label, stem=unique))
    return files


def encode_file(content: bytes) -> tuple[str, bytes]:
    """Return the extension and the bytes that go into the tar; raises UndecodableImageError.

    The whole image is decoded once, so that nothing undecodable gets into a shard.
    """
    picture = decode_image(content)
    image_format = Image.open(io.BytesIO(content), formats=FORMATS).format or ""
    if image_format in COPIED_FORMATS:
        return COPIED_FORMATS[image_format], content
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "png", buffer.getvalue()


def _list_classes(source: Path) -> list[str]:
    if not source.is_dir():
        raise UserError(f"{source}: is not a folder; give the one that holds a folder for each class")
    classes = sorted(entry.name for entry in source.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise UserError(f"{source}: holds no class folders; images are expected in {source}/CLASS/NAME.jpg")
    return classes


def _walk(folder: Path) -> Iterator[tuple[str, str]]:
    for root, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        yield from ((root, name) for name in sorted(names) if not name.startswith("."))


def _plain(name: str) -> str:
    """Replace dots: a stem ends at its first one."""
    return name.replace(".", "_")


def _encode(files: Iterable[SourceFile], dropped: list[tuple[str, str]]) -> Iterator[EncodedSample]:
    for file in files:
        try:
            extension, image = encode_file(Path(file.path).read_bytes())
        except (UndecodableImageError, OSError) as error:
            dropped.append((file.path, str(error)))
            continue
        yield EncodedSample(stem=file.stem, extension=extension, image=image, label=file.label)


def _write_shards(plan: BuildPlan, samples: Iterator[EncodedSample]) -> tuple[list[str], list[ShardIndex]]:
    shards: list[str] = []
    indexes: list[ShardIndex] = []
    for first in samples:
        shard = f"{plan.name}-{plan.split}-{len(shards):06d}.tar"
        write_tar(plan.output / shard, chain([first], islice(samples, plan.samples_per_shard - 1)))
        shards.append(shard)
        indexes.append(index_tar(plan.output / shard))
    return shards, indexes


def _write_dropped(plan: BuildPlan, dropped: Sequence[tuple[str, str]]) -> Path | None:
    if not dropped:
        return None
    path = plan.output / f"{plan.name}-{plan.split}-dropped.jsonl"
    lines = [json.dumps({"path": source, "reason": reason}) for source, reason in dropped]
    write_text(path, "\n".join(lines) + "\n")
    return path
