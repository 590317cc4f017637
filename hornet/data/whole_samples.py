"""What the stages for webdataset share: the set they read, who this process is, and what becomes of bad samples."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from torch import distributed

from hornet.errors import UserError
from hornet.shards.indexing.tar_list import Tars
from hornet.shards.reader import ShardReader, UnreadableSampleError
from hornet.shards.whole_reader import read_whole
from hornet.shards.whole_set import WholeSet, open_whole_set
from hornet.world import World, place_rank, read_world

Sample = dict[str, Any]
"""As webdataset's: `__key__`, `__url__`, bytes by extension."""

Handler = Callable[[Exception], bool]
"""As webdataset's: raises, or says whether to go on (True) or to end the iteration (False)."""


def reraise(error: Exception) -> bool:
    """End with the error of the first sample that cannot be used, as webdataset.reraise_exception."""
    raise error


class Opened:
    """The set and its reader; they stay behind when a stage goes to a process by pickle, and are opened there anew."""

    def __init__(self, place: Tars, *, require: Collection[str], **options: Any) -> None:
        self._place = place
        self._options = options
        self._require = tuple(require)
        self._whole: WholeSet | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_whole": None}

    @property
    def whole(self) -> WholeSet:
        """The set."""
        if self._whole is None:
            self._whole = open_whole_set(self._place, **self._options)
        return self._whole

    def read(self, reader: ShardReader, sample: int) -> Sample:
        """Return a sample that has all members that are required; raises UserError if it cannot be used."""
        try:
            found: Sample = dict(read_whole(reader, self.whole, sample))
        except UnreadableSampleError as error:
            raise UserError(
                f"{error}; copy the tar again, or give a handler that goes on, such as webdataset.warn_and_continue"
            ) from error
        missing = [names for names in self._require if not any(name in found for name in names.split(";"))]
        if missing:
            held = ", ".join(sorted(name for name in found if not name.startswith("__")))
            raise UserError(
                f"{found['__url__']}: sample {found['__key__']!r} has no member .{missing[0]}, only {held}; correct "
                "the tar, or give a handler that goes on, such as webdataset.warn_and_continue"
            )
        return found


def find_world(rank: int | None, num_ranks: int | None) -> World:
    """Return the place of this process: as given, else as its launcher says. Raises UserError if torch knows others."""
    if (rank is None) != (num_ranks is None):
        raise UserError("rank and num_ranks: give both, or neither, and the launcher's environment is asked")
    world = read_world() if rank is None or num_ranks is None else place_rank(rank, num_ranks)
    if distributed.is_available() and distributed.is_initialized():
        found = distributed.get_world_size()
        if rank is None and found != world.num_ranks:
            raise UserError(
                f"torch.distributed has {found} ranks, the launcher's environment says {world.num_ranks}, so samples "
                "would come twice; give rank=torch.distributed.get_rank() and num_ranks=torch.distributed."
                "get_world_size()"
            )
    return world
