"""Layout `parquet`: image sets as the Hugging Face hub keeps them, a struct of bytes and path beside a label."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hornet.errors import UserError
from hornet.shards.build.source import StreamedPart
from hornet.shards.label_space import LabelSpace

BATCH_ROWS = 64  # of images of 90 kB: 6 MB at once


@dataclass(kw_only=True)
class ParquetFiles:
    """A StreamedSource over the files of one split."""

    paths: tuple[Path, ...]
    classes: tuple[str, ...] | None
    """Names of the labels; None to number them."""
    own_names: tuple[str, ...] | None = None
    """What the files themselves call the labels."""
    remarks: tuple[str, ...] = field(default=())

    def stream(self) -> Iterator[StreamedPart]:
        """See StreamedSource; raises UserError, with the row, for images that are not there."""
        for path in self.paths:
            yield StreamedPart(name=path.stem, images=self._images(path))

    def _images(self, path: Path) -> Iterator[tuple[str, str, bytes]]:
        file = _open(path)
        image_column, label_column = find_columns(file.schema_arrow, path)
        if _read_names(file.schema_arrow, label_column) != self.own_names:
            raise UserError(f"{path}: names its classes otherwise than {self.paths[0]}; give files of one set")
        row = 0
        for batch in _read_batches(file, [image_column, label_column], path):
            for image, number in zip(
                batch.column(image_column).to_pylist(), batch.column(label_column).to_pylist(), strict=True
            ):
                content = (image or {}).get("bytes")
                if not content:
                    raise UserError(f"{path}: row {row} holds no image (only a path, or nothing); embed the bytes")
                name = (image.get("path") or "").rpartition("/")[2]
                yield name or f"{row:08d}.jpg", self._name_class(number, path, row), content
                row += 1

    def _name_class(self, label: int | None, path: Path, row: int) -> str:
        if label is None or label < 0:
            raise UserError(f"{path}: row {row} has label {label}; a split without labels cannot be built from")
        if self.classes is None:
            return f"class_{label:05d}"
        if label >= len(self.classes):
            raise UserError(f"{path}: row {row} has label {label}, the label space has {len(self.classes)} classes")
        return self.classes[label]


def open_parquet(path: Path, *, split: str | None, label_space: LabelSpace | None) -> ParquetFiles:
    """Open a file or a folder of them; raises UserError.

    The names in the files say what the labels mean. `label_space` does so where there are none, or where it has as
    many classes and none of those names (descriptions, not synsets); without either the labels are numbered.
    """
    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    found = {file: _split_of(file) for file in files}
    splits = sorted(set(found.values()))
    if split is None and len(splits) > 1:
        raise UserError(f"{path}: choose one of its splits with --source-split: {', '.join(splits)}")
    chosen = tuple(file for file in files if split in (None, found[file]))
    if not chosen:
        known = f"; it has: {', '.join(splits)}" if splits else ""
        raise UserError(f"{path}: holds no parquet files" + (f" of split {split!r}{known}" if split else ""))
    schema = _open(chosen[0]).schema_arrow
    _, label = find_columns(schema, chosen[0])
    own_names = _read_names(schema, label)
    classes, remarks = _choose_classes(own_names, label_space, where=str(chosen[0]))
    return ParquetFiles(paths=chosen, classes=classes, own_names=own_names, remarks=remarks)


def _choose_classes(
    names: tuple[str, ...] | None, label_space: LabelSpace | None, *, where: str
) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    if names is None:
        return (None if label_space is None else label_space.classes), ()
    if label_space is not None and len(names) == len(label_space) and not set(names) & set(label_space.classes):
        remark = f"{where}: label 0, {names[0]!r} there, is taken for {label_space.classes[0]!r}, and so on by number"
        return label_space.classes, (remark,)
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(
            f"{where}: gives one name to several labels ({repeated[0]!r}); name the classes in the order of the labels "
            "with --classes"
        )
    return names, ()


def _read_batches(file: Any, columns: list[str], path: Path) -> Iterator[Any]:
    from pyarrow import ArrowException

    try:
        yield from file.iter_batches(batch_size=BATCH_ROWS, columns=columns)
    except (OSError, ArrowException) as error:
        raise UserError(f"{path}: is damaged ({error}); copy it again") from error


def find_columns(schema: Any, path: Path) -> tuple[str, str]:
    """Return the names of the image's and the label's column; raises UserError if they are not unmistakable."""
    import pyarrow

    images = [
        column.name
        for column in schema
        if pyarrow.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0
    ]
    labels = [column.name for column in schema if pyarrow.types.is_integer(column.type)]
    if len(labels) > 1:
        described = [name for name in labels if _read_names(schema, name)]
        labels = described if len(described) == 1 else ["label"] if "label" in labels else labels
    if len(images) != 1 or len(labels) != 1:
        raise UserError(
            f"{path}: must have one column of images (a struct with `bytes`) and one of whole numbers named `label`; "
            f"it has {', '.join(f'{column.name}: {column.type}' for column in schema)}"
        )
    return images[0], labels[0]


def _open(path: Path) -> Any:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise UserError("parquet is read with pyarrow, which is not installed; run `pip install pyarrow`") from error
    try:
        # Pieces of a column, not whole row groups, which may hold gigabytes.
        return parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
    except (OSError, ArrowException) as error:
        raise UserError(f"{path}: cannot be read as parquet ({error}); copy it again") from error


def _read_names(schema: Any, label: str) -> tuple[str, ...] | None:
    """Return the class names that the datasets library keeps in a file's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
        names = names if isinstance(names, list) else list(names.values())
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return tuple(str(name) for name in names) or None


def _split_of(path: Path) -> str:
    """Return `train` of train-00000-of-00010.parquet and of train/0000.parquet."""
    head = path.stem.partition("-")[0]
    return path.parent.name if head.isdigit() else head
