"""Check one node before training starts there: `ok NODE`, or `bad NODE: what is wrong`; exits 0 either way.

What it looks at: as many GPUs as the job uses, with their memory free; the clock; the run directory and the temporary
folder writable with space left; the shards readable; the same versions as on the node that runs the job script.
"""

import argparse
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("torch", "deepspeed", "accelerate", "timm", "numpy")
MAX_USED_MIB = 1024  # of a GPU's memory: more is somebody else's, or a process that should be dead
MAX_CLOCK_SECONDS = 180.0  # as long as the job script waits: a slow start, or nvidia-smi, is no wrong clock
MIN_FREE_GB = 1.0


def main() -> None:
    """Print one line: `ok`, or what is wrong with this node."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--node", default=platform.node(), help="what to call this node")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs the job uses here; 0 leaves them out")
    parser.add_argument("--now", type=float, help="the job script's clock, in seconds since 1970")
    parser.add_argument("--run-path", type=Path, help="the run directory")
    parser.add_argument("--shards", default="", help="the training set's folder or its tars; with :// left out")
    parser.add_argument("--versions", help="what --print-versions said on the job script's node")
    parser.add_argument("--print-versions", action="store_true", help="print the versions of this node and end")
    options = parser.parse_args()
    if options.print_versions:
        print(describe_versions())
        return
    problems = [*check_gpus(options.gpus), *check_clock(options.now), *check_shards(options.shards)]
    for folder in (options.run_path, Path(tempfile.gettempdir())):
        problems += check_folder(folder) if folder is not None else []
    if options.versions is not None and options.versions != describe_versions():
        problems.append(f"has {describe_versions()}, the first node {options.versions}")
    print(f"bad {options.node}: {'; '.join(problems)}" if problems else f"ok {options.node}", flush=True)


def describe_versions() -> str:
    """Return Python's and the libraries' versions in one word."""
    return ",".join([f"python={platform.python_version()}", *(f"{name}={find_version(name)}" for name in LIBRARIES)])


def find_version(name: str) -> str:
    """Return a library's version, or "none"."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def check_gpus(num_gpus: int) -> Iterator[str]:
    """Yield what is wrong with this node's GPUs."""
    if num_gpus == 0:
        return
    command = ["nvidia-smi", "--query-gpu=memory.used,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        yield f"nvidia-smi does not answer ({error})"
        return
    used = [int(line.split(",")[0]) for line in done.stdout.splitlines() if line.strip()]
    if len(used) < num_gpus:
        yield f"{len(used)} GPUs, {num_gpus} needed"
    for index, mib in enumerate(used[:num_gpus]):
        if mib > MAX_USED_MIB:
            yield f"GPU {index} has {mib} MiB in use"


def check_clock(now: float | None) -> Iterator[str]:
    """Yield whether this node's clock is off; `now` was read when the check was started."""
    if now is not None and not -1 <= time.time() - now <= MAX_CLOCK_SECONDS:
        yield f"the clock is {time.time() - now:+.0f} s from the first node's"


def check_folder(folder: Path) -> Iterator[str]:
    """Yield whether `folder` cannot be written, or is nearly full."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".preflight-"):
            pass
        free_gb = shutil.disk_usage(folder).free / 1e9
    except OSError as error:
        yield f"{folder} cannot be written ({error.strerror})"
        return
    if free_gb < MIN_FREE_GB:
        yield f"{folder} has {free_gb:.2f} GB free"


def check_shards(shards: str) -> Iterator[str]:
    """Yield whether the training set is not there."""
    if not shards or "://" in shards:
        return
    folder = Path(shards)
    if not folder.is_dir() and any(mark in shards for mark in ("{", "*", "?", "[", "::", ".tar")):
        yield from check_tars(shards)
    elif not (folder.is_dir() and os.access(folder, os.R_OK | os.X_OK)):
        yield f"{folder} is not readable"
    elif next(folder.rglob("*.tar"), None) is None:
        yield f"{folder} holds no tars"


def check_tars(pattern: str) -> Iterator[str]:
    """Yield whether tars that are named by a pattern are not there; the first and the last stand for all."""
    from hornet.errors import UserError  # only here, so that a broken node still answers
    from hornet.shards.indexing.tar_list import list_tars

    try:
        tars = list_tars(pattern)
    except UserError as error:
        yield str(error)
        return
    for shard in sorted({tars.shards[0], tars.shards[-1]}):
        path = Path(tars.folder.locate(shard))
        if not os.access(path, os.R_OK):
            yield f"{path} is not readable"


if __name__ == "__main__":
    main()
