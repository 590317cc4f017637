"""What happened in a chaos test: its lives and the damage between them, written down as it goes."""

from __future__ import annotations

import os
import platform
import statistics
from collections import Counter
from pathlib import Path

from hornet.durable import write_json
from tests.chaos.damage import Damage
from tests.chaos.lives import MOMENTS, Life


class Record:
    """The lives so far. With `output` the figures are on disk after each of them, so that a run cut short tells too."""

    def __init__(self, *, seed: int, has_disk: bool, undisturbed_seconds: float, output: Path | None = None) -> None:
        self.has_disk = has_disk
        self._seed, self._undisturbed_seconds, self._output = seed, undisturbed_seconds, output
        self._lives: list[Life] = []
        self._damages: list[tuple[str, str]] = []
        self._end: dict = {}

    def add(self, life: Life | None = None, *, damage: Damage | None = None, said: str = "") -> None:
        """Note a life, or damage and what the run said to it, or both."""
        if life is not None:
            self._lives.append(life)
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
        kills = [life for life in self._lives if life.moment != "end"]
        lost = {name: [life.lost_steps for life in kills if life.moment == name] for name in MOMENTS}
        firsts = [life.seconds_to_first_step for life in kills if life.seconds_to_first_step is not None]
        return {
            "seed": self._seed,
            "kills": len(kills),
            "lives": len(self._lives),
            "by_moment": {
                name: {"kills": len(steps), "mean_lost_steps": statistics.mean(steps), "most_lost_steps": max(steps)}
                for name, steps in lost.items()
                if steps
            },
            "by_victims": Counter(life.victims for life in kills),
            "trained_steps": sum(life.last_step - life.resumed_step for life in self._lives),
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
