"""The numbers of a run: metrics.jsonl, TensorBoard and the progress line."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from hornet.batch import Batch
from hornet.digest import batch_digest
from hornet.errors import UserError
from hornet.run_directory import RunDirectory
from hornet.training.data_steps import count_data_steps
from hornet.training.evaluate import format_evaluation
from hornet.training.loop import RunState, StepRecord
from hornet.training.process_group import errors_shared, sum_over_ranks
from hornet.training.stragglers import Stragglers
from hornet.world import World


class MetricsRecorder:
    """Writes a row of metrics per logged step, and ends a run that cannot go on. Collective on logged steps."""

    def __init__(
        self,
        run: RunDirectory,
        *,
        world: World,
        first_step: int,
        num_steps: int,
        steps_per_epoch: float,
        global_batch_size: int,
        weight_decay: float,
        max_bad_sample_rate: float,
        device: torch.device,
        stragglers: Stragglers,
    ) -> None:
        self._run = run
        self._world = world
        self._device = device
        self._stragglers = stragglers
        self._steps_per_epoch = steps_per_epoch
        self._global_batch_size = global_batch_size
        self._weight_decay = weight_decay
        self._max_bad_sample_rate = max_bad_sample_rate
        self._reset()
        self.board: SummaryWriter | None = None
        self._bar: tqdm[Any] | None = None
        if world.is_main:
            self.board = SummaryWriter(str(run.tensorboard), purge_step=first_step + 1)
            if sys.stderr.isatty():
                self._bar = tqdm(total=num_steps, initial=first_step, unit="step", dynamic_ncols=True)
        self._num_steps = num_steps

    def record(self, record: StepRecord, state: RunState, *, is_logged: bool) -> None:
        """See hornet.training.loop.Recorder."""
        self._data_seconds += record.data_seconds
        self._step_seconds += record.step_seconds
        self._num_steps_since += 1
        for batch in record.batches:
            for bad_sample in batch.bad_samples:
                self._num_bad += 1
                self._run.append_bad_sample(bad_sample)
        if self._bar is not None:
            self._bar.update()
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
        if self.board is None:
            return
        for key in ("top1", "top5", "loss"):
            self.board.add_scalar(f"evaluation_{row['weights']}/{key}", row[key], row["step"])
        self._say(f"step {row['step']}: {row['weights']} weights: {format_evaluation(row)}")

    def close(self) -> None:
        """Flush TensorBoard and end the progress bar."""
        if self._bar is not None:
            self._bar.close()
        if self.board is not None:
            self.board.close()

    def _reset(self) -> None:
        self._data_seconds = self._step_seconds = 0.0
        self._num_steps_since = self._num_bad = 0

    def _reduce(self, record: StepRecord, state: RunState) -> dict[str, Any]:
        mine = torch.tensor([float(record.result.loss), self._data_seconds, self._step_seconds], dtype=torch.float64)
        loss, data_seconds, step_seconds = (sum_over_ranks(mine) / self._world.num_ranks).tolist()
        hashes, num_bad = sum_over_ranks(torch.stack([sum_key_hashes(record.batches), torch.tensor(self._num_bad)]))
        state.num_bad_samples += int(num_bad)
        steps = self._num_steps_since
        self._reset()
        compared = self._stragglers.report(num_steps=steps)
        if compared.warning is not None and self._world.is_main:
            self._say(compared.warning)
        return {
            "step": record.step,
            "epoch": count_data_steps(record.step, state.skipped_batches) / self._steps_per_epoch,
            "images_seen": record.step * self._global_batch_size,
            "loss": loss,
            "lr": record.lr,
            "weight_decay": self._weight_decay,
            "grad_norm": record.result.grad_norm,
            "images_per_second": steps * self._global_batch_size / step_seconds,
            "data_seconds": data_seconds / steps,
            "step_seconds": step_seconds / steps,
            **compared.fields,
            "memory_bytes": measure_memory(self._device),
            "skipped": state.num_skipped_steps,
            "num_bad_samples": state.num_bad_samples,
            "batch_digest": batch_digest(hashes),
        }

    def _show(self, row: Mapping[str, Any]) -> None:
        if self.board is None:
            return
        for key in ("loss", "lr", "grad_norm", "images_per_second", "data_seconds", "step_seconds", "memory_bytes"):
            self.board.add_scalar(f"train/{key}", row[key], row["step"])
        if self._bar is not None:
            self._bar.set_postfix(
                loss=f"{row['loss']:.4f}", lr=f"{row['lr']:.2e}", img_s=f"{row['images_per_second']:.0f}"
            )
            return
        seconds_left = (self._num_steps - row["step"]) * row["step_seconds"]
        self._say(
            f"step {row['step']}/{self._num_steps}  epoch {row['epoch']:.2f}  loss {row['loss']:.4f}  "
            f"lr {row['lr']:.2e}  grad norm {row['grad_norm']:.2f}  {row['images_per_second']:.0f} img/s  "
            f"{format_seconds(seconds_left)} left"
        )

    def _say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            print(line, flush=True)

    def _check_bad_samples(self, state: RunState, *, images_seen: int) -> None:
        # Judged against a whole epoch at least, so that one bad image among the first hundred does not end a run.
        judged = max(images_seen, self._steps_per_epoch * self._global_batch_size)
        if state.num_bad_samples > self._max_bad_sample_rate * judged:
            raise UserError(
                f"{state.num_bad_samples} bad samples in {images_seen} images exceed data.max_bad_sample_rate="
                f"{self._max_bad_sample_rate:g} of {judged:.0f}; they are listed in {self._run.path / 'bad_samples'}"
            )


def sum_key_hashes(batches: Sequence[Batch]) -> Tensor:
    """Return the 0-dim int64 sum (wrapping, that is modulo 2**64) of the batches' key hashes."""
    return torch.stack([batch.key_hashes.sum() for batch in batches]).sum()


def measure_memory(device: torch.device) -> int:
    """Return the peak memory of this process on the device; on the CPU its peak resident size."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def format_seconds(seconds: float) -> str:
    """Return a duration for people: 45 s, 3 min 20 s, 5 h 12 min, 2 d 3 h."""
    for unit, size, smaller, smaller_size in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} {int(seconds % size // smaller_size)} {smaller}"
    return f"{seconds:.0f} s"
