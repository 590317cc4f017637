"""A window of steps under torch's profiler: a trace for chrome://tracing or Perfetto, and a table of the operations."""

from __future__ import annotations

import torch

from hornet.runs.directory import RunDirectory
from hornet.training.config import ProfileConfig
from hornet.world import World

NUM_OPERATIONS = 40
"""Rows of the table."""


class StepProfiler:
    """Profiles the configured window. Not collective."""

    def __init__(self, config: ProfileConfig, run: RunDirectory, *, world: World, device: torch.device) -> None:
        is_wanted = world.is_main and config.first_step is not None
        self._start_after = (config.first_step or 0) - 1 if is_wanted else None
        self._stop_after = (config.first_step or 0) - 1 + config.num_steps
        self._run = run
        self._device = device
        self._profile: torch.profiler.profile | None = None

    def count(self, step: int) -> None:
        """Take note that `step` steps are done; the window's end writes its files."""
        if self._profile is not None and step >= self._stop_after:
            self.close()
        elif step == self._start_after:
            activities = [torch.profiler.ProfilerActivity.CPU]
            if self._device.type == "cuda":
                activities.append(torch.profiler.ProfilerActivity.CUDA)
            self._profile = torch.profiler.profile(activities=activities)
            self._profile.start()

    def close(self) -> None:
        """End the window, if one is open, and write runs/NAME/profile: a trace and a table."""
        if self._profile is None:
            return
        profile, self._profile = self._profile, None
        profile.stop()
        first = (self._start_after or 0) + 1
        order = "self_device_time_total" if self._device.type == "cuda" else "self_cpu_time_total"
        table = profile.key_averages().table(sort_by=order, row_limit=NUM_OPERATIONS)
        name = f"profile/steps_{first:08d}"
        self._run.write_file(f"{name}.txt", table.encode())
        profile.export_chrome_trace(str(self._run.path / f"{name}.json.gz"))
        print(f"profiled from step {first} on: {self._run.path / name}.txt and .json.gz", flush=True)
