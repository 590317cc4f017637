"""`make chaos`: kill a run again and again, damage its files, and demand the undisturbed run's every number.

Real DeepSpeed ZeRO-1 with EMA on two CPU ranks over real shards. As root the run has a small disk of its own (tmpfs),
that is filled up and made read-only; else those two are left out, and said to be.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

import tqdm

from hornet.drills.certificate import Attempt as CertifiedAttempt
from hornet.drills.certificate import compare
from tests.chaos import damage as ways
from tests.chaos.attempts import MOMENTS, BrokenLawError, Run, identify
from tests.chaos.record import Record
from tests.integration.conftest import PRETRAIN, build_shards, launch, write_config

STEPS_PER_KILL = 6
"""An attempt saves every 3 steps; on average it gets less far than this before it is killed."""
STEPS_PER_EPOCH = 6  # 52 samples make 6 batches of 8
SECONDS_PER_STEP = 10.0  # of patience with the undisturbed run
STALL_SECONDS = 40
"""No launcher ends a rank whose neighbour was killed while they met; the watchdog does, after this time."""
DISK_MEGABYTES = 256
DAMAGE_RATE = 0.3


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="all chances follow from it, but the timing")
    parser.add_argument("--output", type=Path, help="where the figures go as JSON")
    options = parser.parse_args()
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    print(f"in {folder}, which stays if a law is broken", flush=True)
    figures = rage(folder, kills=options.kills, seed=options.seed, output=options.output)
    shutil.rmtree(folder)
    print(format_figures(figures))


def rage(folder: Path, *, kills: int, seed: int, damage_rate: float = DAMAGE_RATE, output: Path | None = None) -> dict:
    """Run undisturbed, then with so many kills; return the figures, written as they come. Raises BrokenLawError."""
    random = Random(seed)
    print(f"chaos: {kills} kills, seed {seed}", flush=True)
    shards = build_shards(folder)
    num_epochs = 2 + -(-kills * STEPS_PER_KILL // STEPS_PER_EPOCH)
    changes = {
        "zero__stage": 1,
        "optimizer__ema_decay": 0.99,
        "schedule__num_epochs": num_epochs,
        "cadence__save_every_steps": 3,
        "cadence__evaluate_every_steps": 12,
        "checkpoints__newest": 3,
        "data__max_bad_sample_rate": 0.0,
        "run__stall_seconds": STALL_SECONDS,
    }
    config = write_config(folder, PRETRAIN, shards=shards, **changes)
    started = time.monotonic()
    patience = 120 + num_epochs * STEPS_PER_EPOCH * SECONDS_PER_STEP
    launch("pretrain.py", "--config", config, "run.name=undisturbed", timeout=patience)
    undisturbed_seconds = time.monotonic() - started
    disk = folder / "runs/disk"
    disk.mkdir(parents=True)
    has_disk = os.geteuid() == 0 and mount(disk)
    chaotic = write_config(folder, PRETRAIN, shards=shards, **changes, run__root=str(disk), run__name="chaotic")
    run = Run(chaotic, disk / "chaotic", undisturbed=folder / "runs/undisturbed", random=random)
    record = Record(seed=seed, has_disk=has_disk, undisturbed_seconds=undisturbed_seconds, output=output)
    try:
        disturb(run, record, kills=kills, damage_rate=damage_rate, shards=shards)
        record.add(run.live_on())
        found = compare(
            folder / "runs/undisturbed", run.path, CertifiedAttempt(name="chaotic", num_ranks=2, kill_after=None)
        )
        if not found["is_the_same_run"]:
            raise BrokenLawError(f"the end is another one: {found}")
    except BaseException:  # its disk goes with the mount
        shutil.copytree(disk, folder / "broken")
        raise
    finally:
        if has_disk:
            subprocess.run(["umount", "--lazy", str(disk)], check=False)
    record.end(found)
    return record.summarise()


def disturb(run: Run, record: Record, *, kills: int, damage_rate: float, shards: Path) -> None:
    """Kill so many times, with damage in between; all of it goes into the record."""
    random = run.random
    for number in tqdm.trange(kills, unit="kill", mininterval=5, file=sys.stderr):
        moment = MOMENTS[number % len(MOMENTS)]
        victims = random.choice(["both", "both", "0", "1"])
        record.add(run.live_and_die(moment, victims=victims))
        if run.is_finished:
            raise AssertionError(f"finished after {number + 1} kills: STEPS_PER_KILL is too low")
        if random.random() >= damage_rate or not run.find_newest():
            continue
        on_disk = [ways.fill_disk, ways.make_read_only] if record.has_disk else []
        way = random.choice([None, None, ways.truncate_shard, ways.flip_shard, *on_disk])
        if way is not None:
            damage = way(run.path if way in on_disk else shards, random)
            attempt = run.live_on(damage)
            record.add(attempt, damage=damage, said=attempt.said)
        elif len(good := run.list_good()) > 1:
            run.damaged.add(identify(good[-1]))
            # What the next attempt says of it is not asked for, since it may be killed before; where it begins is.
            record.add(damage=ways.hurt_checkpoint(good[-1], random), said="the checkpoint before was taken")


def mount(disk: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m", "tmpfs", str(disk)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def format_figures(figures: dict) -> str:
    """The figures for people."""
    lines = [f"{'killed at':12}{'kills':>7}{'steps lost: mean':>18}{'most':>6}"]
    for moment, row in figures["by_moment"].items():
        lines.append(f"{moment:12}{row['kills']:7}{row['mean_lost_steps']:18.1f}{row['most_lost_steps']:6}")
    first = figures["seconds_to_first_step"]
    lines += [
        f"{figures['attempts']} attempts; {figures['steps']} steps, {figures['trained_steps']} trained in all",
        "" if first is None else f"from the start of an attempt to its first step: {first:.1f} s (median)",
        *(f"{count:4} x {name}: {figures['said'][name]}" for name, count in figures["damage"].items()),
        "" if figures["has_disk"] else "not tried, no right to mount: disk full, disk read-only",
        f"{figures['num_elements'] / 1e6:.1f} M numbers of the last checkpoint, losses, batches: the undisturbed run's",
    ]
    return "\n".join(line for line in lines if line)


if __name__ == "__main__":
    main()
