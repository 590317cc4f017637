"""What the stages for webdataset share: the set they read, who this process is, and what becomes of bad samples."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypedDict

from torch import distributed

from hornet.errors import UserError
from hornet.shards.indexing.tar_list import Tars
from hornet.shards.reader import ShardReader, UnreadableSampleError
from hornet.shards.remote.files import RemoteConfig
from hornet.shards.whole_reader import read_whole
from hornet.shards.whole_set import WholeSet, open_whole_set
from hornet.world import World, place_rank, read_world

Sample = dict[str, Any]
"""As webdataset's: `__key__`, `__url__`, bytes by extension."""

Handler = Callable[[Exception], bool]
"""As webdataset's: raises, or says whether to go on (True) or to end the iteration (False)."""


DIVIDING_MODULE = "accelerate.data_loader"
USE_STEP_LOADER = "give it StepLoader(loader, source), which it leaves as it is"


def reraise(error: Exception) -> bool:
    """End with the error of the first sample that cannot be used, as webdataset.reraise_exception."""
    raise error


class Reading(TypedDict, total=False):
    """How a stage reads: what all stages take besides the tars."""

    rank: int | None
    """This process, of `num_ranks`; None for both asks the launcher's environment."""
    num_ranks: int | None
    """Processes that read the tars together."""
    require: Collection[str]
    """Members that each sample must have, `a;b` for either."""
    handler: Handler
    """What becomes of a sample that cannot be used; ends with its error unless said."""
    index: Path | str | None
    """Folder of indexes, see `open_whole_set`."""
    checksums: bool
    """Whether to read every byte when tars are indexed, so that damage is found later."""
    remote: RemoteConfig | None
    """How tars at a URL are read."""


class Opened:
    """The set and its reader; they stay behind when a stage goes to a process by pickle, and are opened there anew."""

    def __init__(
        self,
        place: Tars,
        *,
        split: str,
        rank: int | None = None,
        num_ranks: int | None = None,
        require: Collection[str] = (),
        handler: Handler = reraise,
        index: Path | str | None = None,
        checksums: bool = False,
        remote: RemoteConfig | None = None,
        instead: str = USE_STEP_LOADER,
    ) -> None:
        """`instead` says what to do with a loader over these samples, which Accelerate shall not divide."""
        self.world = find_world(rank, num_ranks)
        self._is_told = rank is not None
        self._instead = instead
        self.handler = handler
        self._place = place
        self._options: dict[str, Any] = {"split_name": split, "index": index, "checksums": checksums, "remote": remote}
        self._require = tuple(require)
        self._whole: WholeSet | None = None

    def __getstate__(self) -> dict[str, Any]:
        self.require_undivided()
        return self.__dict__ | {"_whole": None}

    @property
    def whole(self) -> WholeSet:
        """The set with its index, opened when it is first asked for; raises UserError."""
        if self._whole is None:
            self._whole = open_whole_set(self._place, world=self.world, **self._options)
        return self._whole

    def require_undivided(self) -> None:
        """Raise UserError if what iterates or starts workers here is a loader that divides over ranks once more.

        It stands above us on the stack, in this process or in the one that this worker was forked from; a loader tells
        its dataset nothing. Nor may there be other ranks than when the set was opened, before they had met.
        """
        if not self._is_told:
            _require_all_ranks(self.world)
        frame = sys._getframe(1) if self.world.num_ranks > 1 else None
        while frame is not None:
            if frame.f_globals.get("__name__") == DIVIDING_MODULE:
                raise UserError(
                    "two samplers on top of each other: Accelerate's prepare was given a DataLoader over samples that "
                    f"are divided over {self.world.num_ranks} ranks already, and would divide them again; "
                    + self._instead
                )
            frame = frame.f_back

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
    if rank is not None and num_ranks is not None:
        return place_rank(rank, num_ranks)
    world = read_world()
    _require_all_ranks(world)
    return world


def _require_all_ranks(world: World) -> None:
    """Raise UserError if torch knows more or fewer ranks than the launcher's environment."""
    if not distributed.is_available() or not distributed.is_initialized():
        return
    found = distributed.get_world_size()
    if found != world.num_ranks:
        raise UserError(
            f"torch.distributed has {found} ranks, the launcher's environment says {world.num_ranks}, so samples "
            "would come twice; give rank=torch.distributed.get_rank() and num_ranks=torch.distributed.get_world_size()"
        )
