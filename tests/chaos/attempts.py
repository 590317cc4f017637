"""The attempts of a run: started, killed at a moment of chance, and looked at afterwards."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.chaos.damage import Damage, list_whole
from tests.integration.conftest import Ranks

MOMENTS = ("start", "load", "step", "save", "evaluation")
START_SECONDS = 5.0
"""An attempt that is to be killed while it starts is killed within this time."""
LOAD_SECONDS = 1.5
"""An attempt that is to be killed while it loads is killed within this time after its starting point was found."""
KEPT = 3  # checkpoints.newest
COMPARED = ("batch_digest", "loss", "grad_norm", "lr")


class BrokenLawError(AssertionError):
    """A run did what it must never do."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What became of one attempt."""

    moment: str
    """When it was killed; "end" if it ended by itself."""
    victims: str
    """Which ranks were killed: both, 0, 1."""
    resumed_step: int
    """Where it began, 0 for the beginning."""
    last_step: int
    """The last step it recorded."""
    lost_steps: int = 0
    """Of these, the ones beyond the newest whole checkpoint that it left."""
    seconds_to_first_step: float | None
    """From the start of the (forked) ranks; None if it recorded none."""
    said: str = ""
    """The line in which it complained, if it had to."""


class Run:
    """A training run and the laws it must keep."""

    def __init__(self, config: Path, path: Path, *, undisturbed: Path, random: Random) -> None:
        self.config, self.path, self.random = config, path, random
        self.expected = read_whole_rows(undisturbed, "metrics")
        self.damaged: set[tuple[int, int]] = set()
        """Steps and inodes of checkpoints that something was done to; their steps may be saved again."""

    @property
    def is_finished(self) -> bool:
        return (self.path / "summary.json").exists()

    def list_good(self) -> list[Path]:
        """Checkpoints that nothing was done to, oldest first."""
        return [folder for folder in list_whole(self.path) if identify(folder) not in self.damaged]

    def find_newest(self) -> int:
        """The step to go on from, 0 without a checkpoint."""
        return max((identify(folder)[0] for folder in self.list_good()), default=0)

    def live_and_die(self, moment: str, *, victims: str) -> Attempt:
        """Start, kill `victims` at a moment of chance, and check the laws."""
        begin = self.find_newest()
        is_asynchronous = self.random.random() < 0.7
        overrides = [f"checkpoints.asynchronous={str(is_asynchronous).lower()}"]
        before = {word: self.count("events", f'"{word}"') for word in ("starting", "running")}
        ranks = Ranks("pretrain.py", "--config", self.config, *overrides)
        first = self.await_moment(moment, ranks, before=before)
        for rank, process in enumerate(ranks.processes):
            if victims in ("both", str(rank)):
                process.send_signal(9)
        codes, outputs = ranks.wait()
        if 0 in codes and not self.is_finished:
            raise BrokenLawError(f"ranks {victims} were killed, and the codes are {codes}")
        self.check(outputs, begin=begin)
        last = begin if first is None else len(read_whole_rows(self.path, "metrics"))
        return Attempt(
            moment=moment,
            victims=victims,
            resumed_step=begin,
            last_step=last,
            lost_steps=max(0, last - self.find_newest()),
            seconds_to_first_step=first,
        )

    def await_moment(self, moment: str, ranks: Ranks, *, before: dict[str, int]) -> float | None:
        """Wait for it; return the seconds until the first step, None if it has not come yet."""
        started, seconds = time.monotonic(), self.random.uniform(0, START_SECONDS)
        num_steps, later = self.random.randint(1, 6), self.random.uniform(0, 0.15)
        load_seconds, found_at = self.random.uniform(0, LOAD_SECONDS), None
        while self.count("events", '"running"') == before["running"]:
            if any(process.poll() is not None for process in ranks.processes):
                return None
            if moment == "start" and time.monotonic() - started > seconds:
                return None
            if moment == "load" and found_at is None and self.count("events", '"starting"') > before["starting"]:
                found_at = time.monotonic()
            if found_at is not None and time.monotonic() - found_at > load_seconds:
                return None
            time.sleep(0.005)
        first = time.monotonic() - started
        num_rows, num_evaluations = self.count("metrics"), self.count("evaluations")
        half_written = set(self.path.glob("checkpoints/*.partial"))
        while all(process.poll() is None for process in ranks.processes) and not (
            moment in ("start", "load")
            or (moment == "step" and self.count("metrics") >= num_rows + num_steps)
            or (moment == "save" and set(self.path.glob("checkpoints/*.partial")) - half_written)
            or (moment == "evaluation" and self.count("evaluations") > num_evaluations)
        ):
            time.sleep(0.005)
        time.sleep(later)
        return first

    def live_on(self, damage: Damage | None = None) -> Attempt:
        """Live to the end; after `damage` that makes going on impossible the attempt must end with its sentence."""
        begin = self.find_newest()
        before = self.count("metrics")
        ranks = Ranks("pretrain.py", "--config", self.config)
        codes, outputs = ranks.wait()
        said, last = "", len(read_whole_rows(self.path, "metrics"))
        if damage is None and codes != [0, 0]:
            raise BrokenLawError(f"it should have finished, but ended with {codes}:\n" + "\n".join(outputs))
        if damage is not None:
            damage.mend()
            found = re.search(f"^.*(?:{damage.complaint}).*$", "\n".join(outputs), re.MULTILINE)
            if codes != [2, 2] or found is None:
                text = "\n".join(outputs)
                raise BrokenLawError(f"{damage.name} ({damage.detail}) ended with {codes}, or not as it must:\n{text}")
            if not damage.may_train and self.count("metrics") > before:
                raise BrokenLawError(f"{damage.name} ({damage.detail}), and it trained on")
            said, last = found.group(), begin if not damage.may_train else max(begin, last)
        self.check(outputs, begin=begin)
        return Attempt(
            moment="end", victims="", resumed_step=begin, last_step=last, seconds_to_first_step=None, said=said
        )

    def check(self, outputs: list[str], *, begin: int) -> None:
        """The laws that hold after any attempt. Raises BrokenLawError."""
        resumed = re.search(r"resuming .* from step (\d+)", outputs[0])
        if resumed and int(resumed.group(1)) != begin:
            raise BrokenLawError(
                f"went on from step {resumed.group(1)}, the newest whole checkpoint is that of {begin}"
            )
        if begin and re.search("^starting ", outputs[0], re.MULTILINE):
            raise BrokenLawError(f"started afresh, though there was a checkpoint of step {begin}")
        rows = read_whole_rows(self.path, "metrics")
        if [row["step"] for row in rows] != list(range(1, len(rows) + 1)):
            raise BrokenLawError(f"steps are missing or doubled in {self.path / 'metrics.jsonl'}")
        if len(rows) < begin:
            raise BrokenLawError(f"{len(rows)} steps are on record, and there was a checkpoint of step {begin}")
        # A step with substitutes for bad samples is on record, but ended its attempt: the last one, in no checkpoint.
        is_refused = bool(rows) and rows[-1].get("num_bad_samples", 0) > 0 and self.find_newest() < rows[-1]["step"]
        for row, expected in zip(rows[:-1] if is_refused else rows, self.expected, strict=False):
            for key in COMPARED:
                if row[key] != expected[key]:
                    raise BrokenLawError(f"step {row['step']}: {key} is {row[key]}, undisturbed it is {expected[key]}")
        folders = list_whole(self.path)
        self.damaged &= {identify(folder) for folder in folders}
        leftovers = list(self.path.glob("checkpoints/*.partial"))
        if len(folders) > KEPT + 1 + len(self.damaged) or len(leftovers) > 2:
            raise BrokenLawError(f"checkpoints pile up: {folders}, {leftovers}")

    def count(self, name: str, word: str = "\n") -> int:
        """How often a word is in one of the run's lists; lines, if no word is given."""
        path = self.path / f"{name}.jsonl"
        return path.read_text().count(word) if path.exists() else 0


def identify(folder: Path) -> tuple[int, int]:
    """A checkpoint's step and inode."""
    return int(folder.name.removeprefix("step_")), folder.stat().st_ino


def read_whole_rows(run: Path, name: str) -> list[dict]:
    """Rows of one of a run's lists, without the last one if a kill has torn it."""
    path = run / f"{name}.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
