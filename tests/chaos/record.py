"""What happened in a chaos test: its attempts and the damage between them, written down as it goes."""

from __future__ import annotations

import os
import platform
import statistics
from collections import Counter
from pathlib import Path

from hornet.durable import write_json
from tests.chaos.attempts import MOMENTS, Attempt
from tests.chaos.damage import Damage


class Record:
    """The attempts so far. With `output` the figures are on disk after each: a run cut short tells too."""

    def __init__(self, *, seed: int, has_disk: bool, undisturbed_seconds: float, output: Path | None = None) -> None:
        self.has_disk = has_disk
        self._seed, self._undisturbed_seconds, self._output = seed, undisturbed_seconds, output
        self._attempts: list[Attempt] = []
        self._damages: list[tuple[str, str]] = []
        self._end: dict = {}

    def add(self, attempt: Attempt | None = None, *, damage: Damage | None = None, said: str = "") -> None:
        """Note an attempt, or damage and what the run said to it, or both."""
        if attempt is not None:
            self._attempts.append(attempt)
        if damage is not None:
            self._damages.append((damage.name, said))
        self._write()

    def end(self, found: dict) -> None:
        """Note how the last checkpoint compares with the undisturbed run's (hornet.drills.certificate.compare)."""
        self._end = {
            "steps": found["steps"][0],
            "largest_loss_difference": found["loss_difference"],
            "are_weights_equal": found["are_weights_equal"],
            "num_elements": found["num_elements"],
        }
        self._write()

    def summarise(self) -> dict:
        """The figures so far, as JSON values."""
        kills = [attempt for attempt in self._attempts if attempt.moment != "end"]
        lost = {name: [attempt.lost_steps for attempt in kills if attempt.moment == name] for name in MOMENTS}
        firsts = [attempt.seconds_to_first_step for attempt in kills if attempt.seconds_to_first_step is not None]
        return {
            "seed": self._seed,
            "kills": len(kills),
            "attempts": len(self._attempts),
            "by_moment": {
                name: {"kills": len(steps), "mean_lost_steps": statistics.mean(steps), "most_lost_steps": max(steps)}
                for name, steps in lost.items()
                if steps
            },
            "by_victims": Counter(attempt.victims for attempt in kills),
            "trained_steps": sum(attempt.last_step - attempt.resumed_step for attempt in self._attempts),
            "damage": Counter(name for name, _ in self._damages),
            "said": dict(reversed(self._damages)),
            "has_disk": self.has_disk,
            "undisturbed_seconds": self._undisturbed_seconds,
            "seconds_to_first_step": statistics.median(firsts) if firsts else None,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
            "is_complete": bool(self._end),
            **self._end,
        }

    def _write(self) -> None:
        if self._output is not None:
            write_json(self._output, self.summarise())
