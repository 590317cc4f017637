"""`make chaos`: kill a run again and again, damage its files, and demand the undisturbed run's every number.

Real DeepSpeed ZeRO-1 with EMA on two CPU ranks over real shards. As root the run has a small disk of its own (tmpfs),
that is filled up and made read-only; else those two are left out, and said to be.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

import tqdm

from hornet.certificate import Life as CertifiedLife
from hornet.certificate import compare
from tests.chaos import damage as ways
from tests.chaos.lives import MOMENTS, Life, Run, identify
from tests.integration.conftest import PRETRAIN, build_shards, launch, write_config

STEPS_PER_KILL = 6
DISK_MEGABYTES = 96
DAMAGE_RATE = 0.3


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="all chances follow from it, but the timing")
    parser.add_argument("--output", type=Path, help="where the figures go as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        figures = rage(Path(folder), kills=options.kills, seed=options.seed)
    if options.output is not None:
        options.output.write_text(json.dumps(figures, indent=1) + "\n")
    print(format_figures(figures))


def rage(folder: Path, *, kills: int, seed: int, damage_rate: float = DAMAGE_RATE) -> dict:
    """Run undisturbed, then with so many kills; return the figures. Raises BrokenLawError."""
    random = Random(seed)
    print(f"chaos: {kills} kills, seed {seed}", flush=True)
    shards = build_shards(folder)
    num_epochs = -(-kills * STEPS_PER_KILL // 6)  # 52 samples make 6 batches of 8
    changes = {
        "zero__stage": 1,
        "optimizer__ema_decay": 0.99,
        "schedule__num_epochs": num_epochs,
        "cadence__save_every_steps": 3,
        "cadence__evaluate_every_steps": 12,
        "checkpoints__newest": 3,
        "data__max_bad_sample_rate": 0.0,
    }
    config = write_config(folder, PRETRAIN, shards=shards, **changes)
    started = time.monotonic()
    launch("pretrain.py", "--config", config, "run.name=undisturbed")
    undisturbed_seconds = time.monotonic() - started
    disk = folder / "runs/disk"
    disk.mkdir()
    has_disk = os.geteuid() == 0 and mount(disk)
    chaotic = write_config(folder, PRETRAIN, shards=shards, **changes, run__root=str(disk), run__name="chaotic")
    run = Run(chaotic, disk / "chaotic", undisturbed=folder / "runs/undisturbed", random=random)
    try:
        lives, damages = disturb(run, kills=kills, damage_rate=damage_rate, shards=shards, has_disk=has_disk)
        lives.append(run.live_on())
        found = compare(
            folder / "runs/undisturbed", run.path, CertifiedLife(name="chaotic", num_ranks=2, kill_after=None)
        )
    finally:
        if has_disk:
            subprocess.run(["umount", "--lazy", str(disk)], check=False)
    if not found["is_the_same_run"]:
        raise AssertionError(f"the end is another one: {found}")
    return summarise(lives, damages, found, seed=seed, undisturbed_seconds=undisturbed_seconds, has_disk=has_disk)


def disturb(
    run: Run, *, kills: int, damage_rate: float, shards: Path, has_disk: bool
) -> tuple[list[Life], list[tuple[ways.Damage, str]]]:
    """Kill so many times, with damage in between; return the lives and what was said to the damage."""
    lives: list[Life] = []
    damages: list[tuple[ways.Damage, str]] = []
    random = run.random
    for number in tqdm.trange(kills, unit="kill", mininterval=5, file=sys.stderr):
        moment = MOMENTS[number % len(MOMENTS)]
        victims = random.choice(["both", "both", "0", "1"])
        lives.append(run.live_and_die(moment, victims=victims))
        if run.is_finished:
            raise AssertionError(f"finished after {number + 1} kills: STEPS_PER_KILL is too low")
        if random.random() >= damage_rate or not run.find_newest():
            continue
        on_disk = [ways.fill_disk, ways.make_read_only] if has_disk else []
        way = random.choice([None, None, ways.truncate_shard, ways.flip_shard, *on_disk])
        if way is not None:
            damage = way(run.path if way in on_disk else shards, random)
            damages.append((damage, run.live_on(damage).said))
        elif len(good := run.list_good()) > 1:
            run.damaged.add(identify(good[-1]))
            # What the next life says of it is not asked for, since it may be killed before; where it begins is.
            damages.append((ways.hurt_checkpoint(good[-1], random), "the checkpoint before was taken"))
    return lives, damages


def mount(disk: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m", "tmpfs", str(disk)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def summarise(
    lives: list[Life],
    damages: list[tuple[ways.Damage, str]],
    found: dict,
    *,
    seed: int,
    undisturbed_seconds: float,
    has_disk: bool,
) -> dict:
    """The figures, as JSON values."""
    kills = [life for life in lives if life.moment != "end"]
    lost = {name: [life.last_step - life.resumed_step for life in kills if life.moment == name] for name in MOMENTS}
    firsts = [life.seconds_to_first_step for life in kills if life.seconds_to_first_step is not None]
    said = {}
    for damage, sentence in damages:
        said.setdefault(damage.name, sentence)
    return {
        "seed": seed,
        "kills": len(kills),
        "by_moment": {moment: len(steps) for moment, steps in lost.items()},
        "by_victims": Counter(life.victims for life in kills),
        "steps": found["steps"][0],
        "trained_steps": sum(life.last_step - life.resumed_step for life in lives),
        "damage": Counter(damage.name for damage, _ in damages),
        "said": said,
        "has_disk": has_disk,
        "undisturbed_seconds": undisturbed_seconds,
        "seconds_to_first_step": statistics.median(firsts) if firsts else None,
        "largest_loss_difference": found["loss_difference"],
        "are_weights_equal": found["are_weights_equal"],
        "num_elements": found["num_elements"],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }


def format_figures(figures: dict) -> str:
    """The figures for people."""
    moments = ", ".join(f"{count} at {moment}" for moment, count in figures["by_moment"].items())
    lines = [
        f"{figures['kills']} kills ({moments}), {figures['steps']} steps, {figures['trained_steps']} trained in all",
        f"from the start of a life to its first step: {figures['seconds_to_first_step'] or 0:.1f} s (median)",
        *(f"{count:4} x {name}: {figures['said'][name]}" for name, count in figures["damage"].items()),
        "" if figures["has_disk"] else "not tried, no right to mount: disk full, disk read-only",
        f"{figures['num_elements'] / 1e6:.1f} M numbers of the last checkpoint, losses, batches: the undisturbed run's",
    ]
    return "\n".join(line for line in lines if line)


if __name__ == "__main__":
    main()
