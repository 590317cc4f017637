"""What a start asks for in vain, found without torch, to be told with what is wrong with the config itself.

Sets, splits, weights and modules that are not there; batches that cannot be divided or filled; a finished run that is
asked to be another; an environment that says too little of the launch.

Files are looked at on one node: ranks of several, which may see other disks, tell each other later. What is no folder
of this machine, a URL or tars named by a pattern, is looked at later too, since it has to be fetched or indexed. A
finished run needs its inputs no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hornet.config import Check
from hornet.data.division import check_division, find_batch_problems
from hornet.data.order import require_whole_batch
from hornet.errors import UserError
from hornet.model.config import find_module_problems
from hornet.model.own_module import require_module
from hornet.runs.begun import go_on_as_begun, refuse_changes
from hornet.runs.directory import read_summary
from hornet.shards.indexing.tar_list import is_tar_list
from hornet.shards.manifest import MANIFEST_NAME, is_url, read_manifest
from hornet.world import World, read_world


def check_launch(_: Any) -> Iterator[str]:
    """Yield what the launcher's environment leaves open."""
    try:
        read_world()
    except UserError as error:
        yield f"environment: {error}"


def check_changes(config: Any) -> Iterator[str]:
    """Yield what a finished run was begun with that is asked for otherwise now."""
    folder = _find_run(config)
    if folder is None or not _is_finished(config) or not _sees_what_all_see():
        return
    try:
        read_summary(folder)
        refuse_changes(go_on_as_begun(config, folder)[0], folder)
    except UserError as error:
        yield str(error)


def check_set(config: Any, *, section: str) -> Iterator[str]:
    """Yield whether a set, or a split of it that is asked for, is not there."""
    data, probe = getattr(config, section, None), getattr(config, "probe", None)
    if data is None or _is_finished(config) or not _sees_what_all_see():
        return
    place = str(data.shards)
    if is_url(place) or is_tar_list(place) or _is_folder_of_sets(config, Path(place)):
        return
    try:
        manifest = read_manifest(Path(place))
    except UserError as error:
        yield f"{section}.shards: {error}"
        return
    try:
        split = manifest.split(data.split)
    except UserError as error:
        yield f"{section}.split: {error}"
    else:
        if section == "data":
            yield from _check_epoch(config, split.num_samples)
    if probe is not None:
        try:
            manifest.split(probe.split)
        except UserError as error:
            yield f"probe.split: {error}"


def _check_epoch(config: Any, num_samples: int) -> Iterator[str]:
    global_batch_size, partial_batch = config.global_batch_size, config.data.partial_batch
    try:
        require_whole_batch(num_samples, global_batch_size=global_batch_size, partial_batch=partial_batch)
    except UserError as error:
        yield str(error)


def check_batch(config: Any) -> Iterator[str]:
    """Yield whether the global batch is not whole micro batches on every rank of this launch."""
    world = _read_world()
    sizes = config.global_batch_size, config.micro_batch_size
    if world is None or _is_finished(config) or any(find_batch_problems(*sizes)):  # told as broken rules
        return
    try:
        micro_batch_size = 1 if sizes[1] == "auto" else sizes[1]
        check_division(sizes[0], num_ranks=world.num_ranks, micro_batch_size=micro_batch_size)
    except UserError as error:
        yield str(error)


def check_weights(config: Any) -> Iterator[str]:
    """Yield whether the weights that a new run starts from are not there."""
    start, run = getattr(config, "start", None), _find_run(config)
    if start is None or (run is not None and run.exists()) or not _sees_what_all_see():
        return
    if _is_absent(start.from_):
        yield f"start.from: {start.from_} does not exist; give a run directory, a checkpoint in one or a weight file"


def check_module(config: Any) -> Iterator[str]:
    """Yield whether the module of a network of one's own is not there."""
    module = getattr(config, "module", getattr(getattr(config, "model", None), "module", None))
    if module is None or any(find_module_problems(module)) or _is_finished(config) or not _sees_what_all_see():
        return
    try:
        require_module(module)
    except UserError as error:
        yield str(error)


INPUTS: Sequence[Check] = (partial(check_set, section="data"), check_weights, check_module)
"""Of a trial of a config, on whatever ranks."""

TRAINING: Sequence[Check] = (
    check_launch,
    check_changes,
    *INPUTS,
    partial(check_set, section="evaluation"),
    check_batch,
)
"""Of a run that is to start or to go on."""

EVALUATION: Sequence[Check] = (check_launch, partial(check_set, section="evaluation"), check_module)
"""Of a command that looks at finished weights with a labelled set."""


def _read_world() -> World | None:
    try:
        return read_world()
    except UserError:  # check_launch tells it
        return None


def _sees_what_all_see() -> bool:
    world = _read_world()
    return world is None or world.num_ranks == world.num_local_ranks


def _find_run(config: Any) -> Path | None:
    """Return the run directory; None if the command has none, or its name could not be read."""
    run = getattr(config, "run", None)
    name = getattr(run, "name", None)
    return None if run is None or name is None else run.root.absolute() / name


def _is_finished(config: Any) -> bool:
    folder = _find_run(config)
    return folder is not None and (folder / "summary.json").exists()


def _is_folder_of_sets(config: Any, place: Path) -> bool:
    """Whether CORRUPTION/SEVERITY lie in it, as hornet/stages/corruptions.py reads them."""
    return getattr(config, "corruptions", False) and place.is_dir() and not (place / MANIFEST_NAME).exists()


def _is_absent(path: Path) -> bool:
    """Whether nothing is there, not even a link that leads nowhere; what may not be looked at is not absent."""
    try:
        path.lstat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False
