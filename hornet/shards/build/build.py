"""Raw images, in any layout -> shards, index, manifest: one command that is started again until it is done.

list the source -> give labels, choose splits, shuffle (`selection.py`) -> write shards in parallel (`writing.py`) ->
manifest (`finish.py`). Each step leaves its result in OUTPUT/.build, so a killed build loses at most the shards it was
writing.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from hornet.durable import hash_file, replacing, write_json
from hornet.errors import UserError
from hornet.runs.lock import Lock
from hornet.shards.build.arrangement import Arrangement, arrange
from hornet.shards.build.finish import finish_build
from hornet.shards.build.listing import ROWS_NAME
from hornet.shards.build.plan import BuildPlan, BuildReport
from hornet.shards.build.selection import Uint32Array
from hornet.shards.build.source import Source
from hornet.shards.build.sources import open_source
from hornet.shards.build.writing import RECORDS, ShardTask, build_shard, is_finished, order_path, start_process
from hornet.shards.imagenet import find_label_space
from hornet.shards.manifest import MANIFEST_NAME, Manifest, read_manifest
from hornet.shards.processes import count_cores, map_in_processes

PLAN_NAME = "plan.json"
LOCK_NAME = ".build.lock"
LOCK_SECONDS = 5.0  # how long workers of a killed build may take to notice


def build(plan: BuildPlan) -> BuildReport:
    """Build the split, or both if some images are for validation. The same source and plan give the same bytes.

    Raises UserError, with what is wrong and what to do.
    """
    try:
        return _build(plan)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        place = error.filename or plan.output
        raise UserError(
            f"{place}: {error.strerror}; make room and start the command again, finished shards stay"
        ) from error


def _build(plan: BuildPlan) -> BuildReport:
    there = _read_output(plan)
    complete = there is not None and plan.split in there.splits  # its source may be gone by now
    source = None if complete else open_plan_source(plan)
    with _lock(plan.output):
        there = _read_output(plan)  # another split may have come while we waited
        if there is not None and (source is None or plan.split in there.splits):
            return _report_complete(plan, there)
        assert source is not None
        arrangement = _arrange(plan, source, there)
        write_plan(plan, arrangement)
        _write_shards(plan, arrangement)
        report = finish_build(plan, arrangement)
        _clean(plan)
    return report


def open_and_arrange(plan: BuildPlan, source: Source) -> Arrangement:
    """List the source and decide what goes where, without writing shards."""
    with _lock(plan.output):
        return _arrange(plan, source, _read_output(plan))


def open_plan_source(plan: BuildPlan) -> Source:
    """Return what the plan names as its source, in the layout that it has; raises UserError."""
    if plan.source.is_dir() and plan.output.resolve().is_relative_to(plan.source.resolve()):
        raise UserError(f"{plan.output}: lies within the source; choose an output folder outside of {plan.source}")
    given = find_label_space(plan.classes) if plan.classes else None
    return open_source(
        plan.source,
        layout=plan.layout,
        devkit=plan.devkit,
        split=plan.source_split,
        annotations=plan.annotations,
        images=plan.image_folder,
        labels=plan.source_labels,
        label_space=given,
        incomplete=plan.incomplete,
    )


def _read_output(plan: BuildPlan) -> Manifest | None:
    if not (plan.output / MANIFEST_NAME).exists():
        return None
    manifest = read_manifest(plan.output)
    for split in plan.splits[1:]:
        if split in manifest.splits and plan.split not in manifest.splits:
            raise UserError(f"{manifest.path}: split {split!r} is already there; choose another output folder")
    return manifest


def _report_complete(plan: BuildPlan, manifest: Manifest) -> BuildReport:
    """Report success if the same command ended before, so that scripts may simply repeat it."""
    given = find_label_space(plan.classes) if plan.classes else manifest.label_space
    same_classes = given.fingerprint == manifest.label_space.fingerprint
    if manifest.splits[plan.split].origin.get("plan") != plan.describe() or not same_classes:
        raise UserError(
            f"{manifest.path}: split {plan.split!r} is already there, and was made from another source or with other "
            "options; choose another --split or output folder"
        )
    kept = _read_plan(plan)
    if kept.items() >= _describe_plan(plan).items():
        _clean(plan)
    with suppress(OSError):  # what is left is of a build of another split, which will go on, or empty after a kill
        plan.work.rmdir()
    return BuildReport(manifest=manifest, was_complete=True)


@contextmanager
def _lock(output: Path) -> Iterator[None]:
    """Let one build at a time work in a folder, also where the file system has no locks (Lustre without `flock`)."""
    output.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(_lock_by_system(output))
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
                raise
            try:
                stack.enter_context(Lock(output))
            except UserError as other:
                if isinstance(other.__cause__, OSError):  # the folder cannot be written
                    raise
                raise _describe_other(output) from other
        yield


@contextmanager
def _lock_by_system(output: Path) -> Iterator[None]:
    """Hold a file's lock; workers of a killed build hold it until they notice."""
    path = output / LOCK_NAME
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        file = path.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.fstat(file.fileno()).st_ino == path.stat().st_ino:  # not one that was removed
                break
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                file.close()
                raise _describe_other(output) from error
            time.sleep(0.1)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        file.close()
    with file:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _describe_other(output: Path) -> UserError:
    return UserError(f"{output}: another build is at work there; wait for it, or stop it")


def write_plan(plan: BuildPlan, arrangement: Arrangement) -> None:
    """Keep the plan and the orders for the processes; refuse other options than those of shards that are there."""
    listing = hash_file(arrangement.workplace.work / "listing" / ROWS_NAME)
    space = arrangement.labels.label_space.fingerprint
    wanted = _describe_plan(plan) | {"listing": listing, "label_space": space}
    _refuse_other(plan, wanted)
    for split, order in arrangement.orders.items():
        _write_order(order_path(arrangement.workplace.work, split), order)
    write_json(plan.work / PLAN_NAME, wanted)


def _describe_plan(plan: BuildPlan) -> dict[str, Any]:
    described: dict[str, Any] = json.loads(json.dumps(plan.describe()))
    return described


def _read_plan(plan: BuildPlan) -> dict[str, Any]:
    """Return what is kept of the build that the working folder belongs to; empty if none has come so far."""
    path = plan.work / PLAN_NAME
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def _refuse_other(plan: BuildPlan, wanted: Mapping[str, Any]) -> None:
    """Raise UserError if the working folder holds shards of a build that was asked for otherwise."""
    found = _read_plan(plan)
    if not found or not any(plan.work.glob(RECORDS)):
        return
    changed = [key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key)]
    if changed:
        raise UserError(
            f"{plan.work}: holds shards of a build that was stopped and had other options or another "
            f"source ({', '.join(f'{key}: {found.get(key)}, now {wanted.get(key)}' for key in sorted(changed))}); "
            "go on with those, or remove the folder and its tars"
        )


def _arrange(plan: BuildPlan, source: Source, there: Manifest | None) -> Arrangement:
    """List and decide, but not over the work of another build, which may have taken hours."""
    known = _read_plan(plan)
    _refuse_other(plan, _describe_plan(plan) | {key: known.get(key) for key in ("listing", "label_space")})
    return arrange(plan, source, there)


def _write_order(path: Path, order: Uint32Array) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, order, allow_pickle=False)


def _write_shards(plan: BuildPlan, arrangement: Arrangement) -> None:
    workplace = arrangement.workplace
    todo = [task for task in arrangement.tasks if not is_finished(workplace, task)]
    total = sum(len(order) for order in arrangement.orders.values())
    left = sum(len(_list_items(plan, arrangement, task)) for task in todo)
    _check_space(plan, arrangement, todo)
    done = get_context("fork").Value("q", 0)
    workers = plan.num_workers or count_cores()
    with tqdm(total=total, initial=total - left, desc="building", unit=" images", disable=None) as bar:
        finished = map_in_processes(
            build_shard,
            todo,
            num_workers=workers,
            initializer=start_process,
            arguments=(workplace, done),
            poll=lambda: _show(bar, total - left + done.get_obj().value),  # no lock: a dead worker may hold it
        )
        for _ in finished:
            pass


def _show(bar: tqdm[Any], num_done: int) -> None:
    bar.update(num_done - bar.n)


def _list_items(plan: BuildPlan, arrangement: Arrangement, task: ShardTask) -> Uint32Array:
    first = task.number * plan.samples_per_shard
    return arrangement.orders[task.split][first : first + plan.samples_per_shard]


def _check_space(plan: BuildPlan, arrangement: Arrangement, todo: Sequence[ShardTask]) -> None:
    """Refuse to begin what cannot fit. Only images that are taken count: a small label space may drop nearly all."""
    sizes = arrangement.listing.column("size")
    num_bytes = sum(int(sizes[_list_items(plan, arrangement, task)].sum()) for task in todo)
    needed = num_bytes // 2 if plan.image.max_short_edge else num_bytes
    free = shutil.disk_usage(plan.output).free
    if needed > free:
        raise UserError(
            f"{plan.output}: the shards need about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; make room, "
            "then start again"
        )


def _clean(plan: BuildPlan) -> None:
    """Remove what only an unfinished build needs, with the half-written files of killed attempts."""
    for pattern in (f".{glob.escape(plan.name)}-*.tmp", f".{MANIFEST_NAME}.*.tmp", ".*.index.npy.*.tmp"):
        for path in plan.output.glob(pattern):
            path.unlink()
    plan.spool_path.unlink(missing_ok=True)
    for path in plan.work.glob("*"):
        if path.name != PLAN_NAME:  # the last to go: it says whose work this is
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(plan.work, ignore_errors=True)
