"""Samples of which a second member is wanted beside the image: a mask, or objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hornet.data.config import EvaluatedSetConfig, TrainedSetConfig
from hornet.errors import UserError
from hornet.shards.decode import UndecodableImageError
from hornet.shards.indexing.tar_list import is_tar_list
from hornet.shards.reader import ShardReader, UnreadableSampleError
from hornet.shards.sample_parts import IMAGE_EXTENSIONS
from hornet.shards.shard_set import ShardSet, open_shards
from hornet.shards.whole_reader import read_whole
from hornet.shards.whole_set import WholeSet, open_whole_set
from hornet.world import World

Made = TypeVar("Made")


def read_pair(
    reader: ShardReader,
    whole: WholeSet,
    sample: int,
    transform: Callable[[bytes, bytes], Made],
    *,
    extension: str,
    what: str,
) -> tuple[str, Made]:
    """Return a sample's key and what `transform` makes of its image and its member of an `extension`, `what` that is.

    Raises UnreadableSampleError.
    """
    fields = read_whole(reader, whole, sample)
    key = f"{whole.shards.stem_of(sample)}/{fields['__key__']!s}"
    image = next((fields[name] for name in IMAGE_EXTENSIONS if name in fields), None)
    member = fields.get(extension)
    if not isinstance(image, bytes) or not isinstance(member, bytes):
        held = ", ".join(f".{name}" for name in fields if not name.startswith("__"))
        missing = "image" if image is None else f"{what} (.{extension})"
        raise UnreadableSampleError(key, f"has no {missing}, only {held}")
    try:
        return key, transform(image, member)
    except UndecodableImageError as error:
        raise UnreadableSampleError(key, str(error)) from error


def open_pairs(
    config: TrainedSetConfig | EvaluatedSetConfig, *, key: str, world: World, extension: str, what: str
) -> tuple[ShardSet, WholeSet]:
    """Return a set, whose label space names the classes of its `what`, and its samples with all their members.

    `what` are the members of an `extension`, and `key` is where the config stands in the run's. Raises UserError, also
    if the first sample has none: damaged ones are replaced later, and of another kind of set it would be all of them.
    """
    remedy = f"give the folder of a set that `launch/shards.py build` made of images and {what}"
    if is_tar_list(config.shards):
        raise UserError(
            f"{key}.shards: {config.shards} names tars, but {what} need the names of their classes; {remedy}"
        )
    shards = open_shards(config.shards, config.split, remote=config.remote, world=world)
    whole = open_whole_set(
        config.shards, split_name=config.split, index=config.index, remote=config.remote, world=world
    )
    held = _list_members(whole)
    if held and extension not in held:
        raise UserError(
            f"{key}.shards: {config.shards} holds no {what} (.{extension}) beside its images, only "
            f"{', '.join(f'.{name}' for name in held)}; {remedy}"
        )
    return shards, whole


def _list_members(whole: WholeSet) -> list[str]:
    """Return the extensions of the first sample's members; empty if it cannot be read."""
    reader = ShardReader(whole.shards)
    try:
        reader.prepare([0])
        return [name for name in read_whole(reader, whole, 0) if not name.startswith("__")]
    except UnreadableSampleError:
        return []
    finally:
        reader.close()
