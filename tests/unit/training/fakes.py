"""Stand-ins of a few lines for an engine and its batches."""

import contextlib
import math

import torch

from hornet.batch import BadSample, Batch
from hornet.training.components import Components
from hornet.training.config import CadenceConfig, GuardConfig, ProfileConfig, RetentionConfig, TrackingConfig
from hornet.training.loop import StepMessage, StepResult
from hornet.training.norms import NormWatch
from hornet.training.schedule import Schedule
from hornet.training.step_clock import StepClock


def make_batch(keys=(1, 2), bad=()):
    size = len(keys)
    return Batch(
        images_bchw=torch.zeros(size, 3, 4, 4, dtype=torch.uint8),
        labels=torch.zeros(size, dtype=torch.int64),
        erase_boxes=torch.zeros(size, 4, dtype=torch.int32),
        key_hashes=torch.tensor(keys, dtype=torch.int64),
        keys=tuple(f"s/{key}" for key in keys),
        is_real=torch.ones(size, dtype=torch.bool),
        bad_samples=tuple(bad),
    )


def make_bad_sample(key="s/1"):
    return BadSample(shard="s.tar", offset=512, key=key, epoch=0, reason="cut", substitute="s/2")


def exchange(loss, grad_norm, batches):
    """The message of a rank that is alone."""
    num_bad = sum(len(batch.bad_samples) for batch in batches)
    return StepMessage(mean_loss=loss, grad_norm=grad_norm, num_bad_samples=num_bad)


class TrustingGuard:
    """Accepts every step whose gradient is finite."""

    window_steps = 128

    def accepts(self, message):
        return math.isfinite(message.grad_norm)

    def review(self, record, state):
        pass


class CountingEngine:
    """Its one weight is the number of steps run."""

    def __init__(self, *, fail_saving=None, finite=lambda step: True):
        self.weight = 0
        self.lrs = []
        self.fail_saving = fail_saving
        self.finite = finite
        self.clock = StepClock(torch.device("cpu"))
        self.norms = NormWatch(torch.optim.SGD([torch.zeros(1)]), [])

    def run_step(self, batches, *, step, lr, accept):
        assert batches, "the loop fetches the batches of a step first"
        self.weight += 1
        self.lrs.append(lr)
        loss = torch.tensor(1.0 / (step + 1))
        norm = 2.0 if self.finite(step) else math.inf
        return StepResult(loss=loss, grad_norm=norm, was_applied=accept(loss, norm))

    def save(self, folder, writer):
        if self.fail_saving is not None:
            raise self.fail_saving
        writer.take(folder / "weight.pt", {"weight": torch.tensor(self.weight)})

    def load(self, folder):
        self.weight = int(torch.load(folder / "weight.pt")["weight"])

    def evaluation_model(self, weights):
        return contextlib.nullcontext(torch.nn.Identity())

    def read_parameters(self, names):
        return {}


def make_components(engine, **changes):
    """A run of 10 steps of 4 images."""
    settings = {
        "engine": engine,
        "identity": {},
        "description": {},
        "about": {},
        "parameter_shapes": {},
        "flops_per_image": 1e9,
        "iterate": lambda first, count: iter(()),
        "num_micro_steps": 2,
        "steps_per_epoch": 5.0,
        "global_batch_size": 4,
        "schedule": Schedule(num_steps=10, num_warmup_steps=0, peak_lr=1.0, min_lr=0.0),
        "cadence": CadenceConfig(norms_every_steps=None),
        "checkpoints": RetentionConfig(),
        "weight_decay": 0.05,
        "max_bad_sample_rate": 0.1,
        "guard": GuardConfig(),
        "evaluate": None,
        "keeps_image_results": False,
        "evaluated_weights": ("raw",),
        "tracking": TrackingConfig(),
        "profile": ProfileConfig(),
        "filters": (),
        "render_images": lambda batch, step: torch.zeros(3, 4, 4),
    }
    return Components(**(settings | changes))
