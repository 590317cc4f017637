"""What can happen to files between two attempts of a run; each way says what it did, and how to mend it."""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random


@dataclass(frozen=True, kw_only=True)
class Damage:
    """Something that was done to the files of a run."""

    name: str
    detail: str
    complaint: str | None = None
    """What the next attempt must end with, exit code 2; None if it must go on all the same."""
    may_train: bool = False
    """Whether that attempt may record steps before it ends."""
    mend: Callable[[], object] = lambda: None
    """Undoes it, after the next attempt."""


def list_whole(run: Path) -> list[Path]:
    """The checkpoints that are under their final names, oldest first."""
    return sorted(path for path in run.glob("checkpoints/step_*") if re.fullmatch(r"step_\d+", path.name))


def hurt_checkpoint(folder: Path, random: Random) -> Damage:
    """Truncate, flip or remove a file of a checkpoint."""
    path = random.choice(sorted(folder.iterdir()))
    way = random.choice(["truncate", "flip a bit", "remove"])
    if way == "truncate":
        with path.open("r+b") as file:
            file.truncate(random.randrange(path.stat().st_size))
    elif way == "flip a bit":
        flip(path, random.randrange(path.stat().st_size))
    else:
        path.unlink()
    return Damage(name=f"checkpoint: {way}", detail=f"{folder.name}/{path.name}")


def fill_disk(run: Path, _random: Random) -> Damage:
    """Leave room on the run's own disk (a tmpfs) for less than a checkpoint."""
    for leftover in run.glob("checkpoints/*.partial"):
        shutil.rmtree(leftover)  # the run would clear it away, and have room again
    ballast = run.parent / "ballast"
    room = 300_000
    with ballast.open("wb") as file:
        try:
            while True:
                file.write(bytes(50_000))
                file.flush()
        except OSError:
            pass
    with ballast.open("r+b") as file:
        file.truncate(max(0, ballast.stat().st_size - room))
    complaint = r"could not be saved.*earlier checkpoints are untouched|No space left|cannot be written"
    detail = f"{room / 1e3:.0f} kB left"
    return Damage(name="disk full", detail=detail, complaint=complaint, may_train=True, mend=ballast.unlink)


def make_read_only(run: Path, _random: Random) -> Damage:
    """Mount the run's own disk (a tmpfs) so that nothing can be written."""
    place = run.parent
    remount(place, "ro")
    complaint = r"Read-only file system"
    return Damage(name="disk read-only", detail=str(place), complaint=complaint, mend=partial(remount, place, "rw"))


def truncate_shard(shards: Path, random: Random) -> Damage:
    """Cut a tar short."""
    path, content = pick_tar(shards, random)
    path.write_bytes(content[: random.randrange(len(content))])
    complaint = re.escape(f"{path}: has ") + ".*it was cut"
    return Damage(
        name="shard: truncate", detail=path.name, complaint=complaint, mend=partial(path.write_bytes, content)
    )


def flip_shard(shards: Path, random: Random) -> Damage:
    """Flip a bit in each image of a tar: the next one that is read must be noticed."""
    path, content = pick_tar(shards, random)
    with tarfile.open(path) as tar:
        members = [member for member in tar if member.name.endswith((".jpg", ".png"))]
    for member in members:
        flip(path, member.offset_data + random.randrange(member.size))
    complaint = r"bad samples? .*data\.max_bad_sample_rate"
    return Damage(
        name="shard: flip bits",
        detail=path.name,
        complaint=complaint,
        may_train=True,
        mend=partial(path.write_bytes, content),
    )


def pick_tar(shards: Path, random: Random) -> tuple[Path, bytes]:
    path = random.choice(sorted(shards.glob("*train*.tar")))
    return path, path.read_bytes()


def flip(path: Path, offset: int) -> None:
    """Flip the lowest bit of one byte."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def remount(place: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(place)], check=True)
