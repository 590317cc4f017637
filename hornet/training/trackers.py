"""Where people watch a run: TensorBoard, and Weights & Biases for those who ask for it."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import psutil
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from hornet.errors import UserError
from hornet.runs.directory import RunDirectory
from hornet.training.config import TrackingConfig
from hornet.world import World

CLOSE_SECONDS = 60.0
"""How long a run that ends waits for a tracker's server: less than SLURM gives it before the time limit."""


class Tracker(Protocol):
    """Shows a run to people. Only rank 0 has any."""

    def add_scalars(self, scalars: Mapping[str, float], *, step: int) -> None:
        """Take numbers by name; names are grouped by what stands before their slash."""
        ...

    def add_image(self, name: str, image_chw: Tensor, *, step: int) -> None:
        """Take an image (3, H, W) of values in 0..1."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


def open_trackers(config: TrackingConfig, run: RunDirectory, *, first_step: int, world: World) -> Sequence[Tracker]:
    """Open what `config` asks for; none on ranks other than 0.

    Raises UserError if a package or a login is missing.
    """
    trackers: list[Tracker] = []
    if world.is_main and config.tensorboard:
        trackers.append(TensorBoardTracker(run, first_step=first_step))
    if world.is_main and config.wandb_project is not None:
        trackers.append(WandbTracker(run, project=config.wandb_project))
    return trackers


class TensorBoardTracker:
    """Event files in runs/NAME/tensorboard; what lies beyond the step an attempt goes on from is hidden."""

    def __init__(self, run: RunDirectory, *, first_step: int) -> None:
        self._writer = SummaryWriter(str(run.tensorboard), purge_step=first_step + 1)

    def add_scalars(self, scalars: Mapping[str, float], *, step: int) -> None:
        """See Tracker."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def add_image(self, name: str, image_chw: Tensor, *, step: int) -> None:
        """See Tracker."""
        self._writer.add_image(name, image_chw, step)

    def close(self) -> None:
        """See Tracker."""
        self._writer.close()


def add_evaluation(folder: Path, scalars: Mapping[str, float], *, step: int) -> None:
    """Write numbers of an evaluation by itself to a folder below a run's, which TensorBoard shows as another run.

    In the run's own files what is written later is hidden when the run goes on from an earlier step.
    """
    with SummaryWriter(str(folder)) as writer:
        for name, value in scalars.items():
            writer.add_scalar(name, value, step)


class WandbTracker:
    """One run of Weights & Biases over all attempts of ours: its name is kept in runs/NAME/wandb_id.

    Where it cannot begin, the user is told; a run that was begun is not ended by a server that is away, or by wandb's
    own process that has crashed, or was killed for memory.
    """

    def __init__(self, run: RunDirectory, *, project: str) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UserError(
                f"tracking.wandb_project is {project}, but the package wandb is not installed; run "
                "`pip install wandb`, or set tracking.wandb_project to null"
            ) from error
        self._image = wandb.Image
        self._teardown = wandb.teardown
        self._folder = run.path
        path = run.path / "wandb_id"
        has_begun = path.exists()
        known = path.read_text() if has_begun else secrets.token_hex(4)
        begin = partial(wandb.init, project=project, name=run.config.name, id=known, dir=str(run.path), resume="allow")
        try:
            self._run = begin()
        except wandb.Error as error:  # no login, no such project, no network
            reason = str(error).splitlines()[0]
            self._end_service()
            if not has_begun:
                raise UserError(
                    f"tracking.wandb_project is {project}, but Weights & Biases does not begin a run: {reason}; log in "
                    "once (wandb login), or set WANDB_MODE=offline, which keeps the run on disk, or "
                    "tracking.wandb_project to null"
                ) from error
            print(
                f"warning: Weights & Biases does not go on with the run: {reason}; this attempt is kept in "
                f"{run.path / 'wandb'}, for wandb sync",
                flush=True,
            )
            self._run = begin(mode="offline")
        if not has_begun:
            run.write_file(path.name, known.encode())
        # Of our own step, not of wandb's, which may not go back when an attempt repeats steps.
        self._run.define_metric("*", step_metric="step")
        self._is_lost = False

    def add_scalars(self, scalars: Mapping[str, float], *, step: int) -> None:
        """See Tracker."""
        self._log({"step": step, **scalars})

    def add_image(self, name: str, image_chw: Tensor, *, step: int) -> None:
        """See Tracker."""
        pixels: Any = (image_chw * 255).byte().permute(1, 2, 0).numpy()
        self._log({"step": step, name: self._image(pixels)})

    def close(self) -> None:
        """See Tracker. Wandb itself would wait for its server without end, and a run that is to stop with it."""
        if self._is_lost:
            return
        timer = threading.Timer(CLOSE_SECONDS, _kill_service)
        timer.start()
        try:
            self._run.finish()
        except Exception as error:  # of its own, once its service has gone
            self._end_service()
            print(
                f"warning: Weights & Biases has not taken all within {CLOSE_SECONDS:g} s ({type(error).__name__}); the "
                f"rest lies in {self._folder / 'wandb'}, for wandb sync",
                flush=True,
            )
        finally:
            timer.cancel()

    def _log(self, row: dict[str, Any]) -> None:
        if self._is_lost:
            return
        try:
            self._run.log(row)
        except Exception as error:
            self._is_lost = True
            self._end_service()
            print(
                f"warning: Weights & Biases has ended by itself ({type(error).__name__}: {error}) and hears no more of "
                f"this attempt; what it has heard lies in {self._folder / 'wandb'}, for wandb sync",
                flush=True,
            )

    def _end_service(self) -> None:
        """End what would keep this process from ending while the server is away."""
        _kill_service()
        with suppress(Exception, SystemExit):  # it is gone, and wandb would end with its exit code
            self._teardown()


def _kill_service() -> None:
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if child.name() == "wandb-core":
                child.kill()
