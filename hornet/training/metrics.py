"""The numbers of a run: metrics.jsonl, norms.jsonl, trackers and the progress line."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.io import encode_png
from tqdm import tqdm

from hornet.batch import Batch
from hornet.digest import batch_digest
from hornet.errors import UserError
from hornet.hardware import find_peak_flops
from hornet.quantities import format_seconds
from hornet.runs.directory import RunDirectory
from hornet.training.checkpoints.state import RunState
from hornet.training.components import Components
from hornet.training.data_steps import count_data_steps
from hornet.training.evaluate import format_evaluation, list_measures
from hornet.training.loop import StepRecord
from hornet.training.process_group import errors_shared, sum_over_ranks
from hornet.training.stragglers import Stragglers
from hornet.training.trackers import open_trackers
from hornet.world import World

CURVES = (
    *("loss", "lr", "grad_norm", "images_per_second", "mfu", "memory_bytes"),
    *("data_seconds", "forward_seconds", "backward_seconds", "optimizer_seconds", "step_seconds"),
)
"""What trackers are shown of a row of metrics."""


class MetricsRecorder:
    """Writes a row of metrics per logged step, and ends a run that cannot go on. Collective on logged steps."""

    def __init__(
        self, run: RunDirectory, components: Components, *, world: World, first_step: int, device: torch.device
    ) -> None:
        self._run = run
        self._components = components
        self._world = world
        self._device = device
        self._stragglers = Stragglers(components.engine.clock)
        self._peak_flops = find_peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
        self._num_steps = components.schedule.num_steps
        self._is_begun = False
        self._reset()
        self._arm(first_step)
        with errors_shared():
            self._trackers = open_trackers(components.tracking, run, first_step=first_step, world=world)
        self._bar: tqdm[Any] | None = None
        if world.is_main and sys.stderr.isatty():
            self._bar = tqdm(total=self._num_steps, initial=first_step, unit="step", dynamic_ncols=True)

    def record(self, record: StepRecord, state: RunState, *, is_logged: bool) -> None:
        """See hornet.training.loop.Recorder."""
        if not self._is_begun:
            self._is_begun = True
            with errors_shared():
                self._run.write_status("running", step=record.step, num_steps=self._num_steps)
        self._step_seconds += record.step_seconds
        self._num_steps_since += 1
        for batch in record.batches:
            for bad_sample in batch.bad_samples:
                self._run.append_bad_sample(bad_sample)
        if self._bar is not None:
            self._bar.update()
        if self._is_norm_due(record.step) and record.result.was_applied:
            self._record_norms(record)
        self._arm(record.step)
        if is_logged:
            row = self._reduce(record, state)
            with errors_shared():
                self._run.append("metrics", row)
                self._run.write_status("running", step=record.step, num_steps=self._num_steps)
            self._show(row)
            self._check_bad_samples(state, images_seen=row["images_seen"])

    def show_evaluation(self, row: Mapping[str, Any]) -> None:
        """Write a row of evaluations.jsonl, its curves and a line for people."""
        self._run.append("evaluations", row)
        curves = [*list_measures(row), *(["loss"] if "loss" in row else [])]
        self._track({f"evaluation_{row['weights']}/{key}": row[key] for key in curves}, row["step"])
        self.say(f"step {row['step']}: {row['weights']} weights: {format_evaluation(row)}")

    def show_image(self, name: str, image_chw: Tensor, *, step: int) -> None:
        """Write an image (3, H, W) of values in 0..1 to runs/NAME/images, and show it. Only on rank 0."""
        pixels = (image_chw * 255).round().byte()
        path = f"images/{name.replace('/', '_')}_step_{step:08d}.png"
        self._run.write_file(path, encode_png(pixels).numpy().tobytes())
        for tracker in self._trackers:
            tracker.add_image(name, image_chw, step=step)

    def say(self, line: str) -> None:
        """Print a line for people beside the progress bar; rank 0 alone speaks."""
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        elif self._world.is_main:
            print(line, flush=True)

    def close(self) -> None:
        """Flush the trackers and end the progress bar."""
        if self._bar is not None:
            self._bar.close()
        for tracker in self._trackers:
            tracker.close()

    def _is_norm_due(self, step: int) -> bool:
        every = self._components.cadence.norms_every_steps
        return every is not None and step % every == 0

    def _arm(self, step: int) -> None:
        """Have the step after `step` measured, if its norms are due."""
        self._components.engine.norms.arm(self._is_norm_due(step + 1))

    def _record_norms(self, record: StepRecord) -> None:
        names = list(self._components.parameter_shapes)
        parts = self._components.engine.norms.read(names, grad_norm=record.result.grad_norm)
        with errors_shared():
            self._run.append("norms", {"step": record.step, "parts": parts})
        curves = {f"{key}/{part}": values[key] for part, values in parts.items() for key in values}
        self._track({name: value for name, value in curves.items() if value is not None}, record.step)

    def _track(self, scalars: Mapping[str, float], step: int) -> None:
        for tracker in self._trackers:
            tracker.add_scalars(scalars, step=step)

    def _reset(self) -> None:
        self._step_seconds = 0.0
        self._num_steps_since = 0

    def _reduce(self, record: StepRecord, state: RunState) -> dict[str, Any]:
        hashes = sum_over_ranks(sum_key_hashes(record.batches))
        compared = self._stragglers.report(num_steps=self._num_steps_since, step_seconds=self._step_seconds)
        self._reset()
        if compared.warning is not None:
            self.say(compared.warning)
        images_per_second = self._components.global_batch_size / compared.fields["step_seconds"]
        return {
            "time": time.time(),
            "step": record.step,
            "epoch": count_data_steps(record.step, state.skipped_batches) / self._components.steps_per_epoch,
            "images_seen": record.step * self._components.global_batch_size,
            "loss": record.mean_loss,
            "lr": record.lr,
            "weight_decay": self._components.weight_decay,
            "grad_norm": record.result.grad_norm,
            "images_per_second": images_per_second,
            "mfu": self._compute_utilisation(images_per_second),
            **compared.fields,
            "memory_bytes": measure_memory(self._device),
            "skipped": state.num_skipped_steps,
            "num_bad_samples": state.num_bad_samples,
            "batch_digest": batch_digest(hashes),
        }

    def _compute_utilisation(self, images_per_second: float) -> float | None:
        """Return the model FLOPs utilisation, of the dense bf16 rate; None where the device's is not known."""
        if self._peak_flops is None:
            return None
        return images_per_second * self._components.flops_per_image / (self._peak_flops * self._world.num_ranks)

    def _show(self, row: Mapping[str, Any]) -> None:
        self._track({f"train/{key}": row[key] for key in CURVES if row[key] is not None}, row["step"])
        if self._bar is not None:
            self._bar.set_postfix(
                loss=f"{row['loss']:.4f}", lr=f"{row['lr']:.2e}", img_s=f"{row['images_per_second']:.0f}"
            )
            return
        seconds_left = (self._num_steps - row["step"]) * row["step_seconds"]
        utilisation = "" if row["mfu"] is None else f"MFU {100 * row['mfu']:.1f} %  "
        self.say(
            f"step {row['step']}/{self._num_steps}  epoch {row['epoch']:.2f}  loss {row['loss']:.4f}  "
            f"lr {row['lr']:.2e}  grad norm {row['grad_norm']:.2f}  {row['images_per_second']:.0f} img/s  "
            f"{utilisation}{format_seconds(seconds_left)} left"
        )

    def _check_bad_samples(self, state: RunState, *, images_seen: int) -> None:
        # Judged against a whole epoch at least, so that one bad image among the first hundred does not end a run.
        judged = max(images_seen, self._components.steps_per_epoch * self._components.global_batch_size)
        if state.num_bad_samples > self._components.max_bad_sample_rate * judged:
            raise UserError(
                f"{state.num_bad_samples} bad samples in {images_seen} images exceed data.max_bad_sample_rate="
                f"{self._components.max_bad_sample_rate:g} of {judged:.0f}; they are listed in "
                f"{self._run.path / 'bad_samples'}"
            )


def sum_key_hashes(batches: Sequence[Batch]) -> Tensor:
    """Return the 0-dim int64 sum (wrapping, that is modulo 2**64) of the batches' key hashes."""
    return torch.stack([batch.key_hashes.sum() for batch in batches]).sum()


def measure_memory(device: torch.device) -> int:
    """Return the peak memory of this process on the device; on the CPU its peak resident size."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
