"""What a plan rests on, whatever the number of GPUs: the config, the set, the network, the speed of one GPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hornet.data.order import Order
from hornet.planning.activations import Precision
from hornet.planning.network import NetworkPlan, plan_network
from hornet.planning.question import Question
from hornet.planning.samples import Samples
from hornet.planning.speed import Speed, choose_speed
from hornet.stages.config import StageConfig
from hornet.training.engines.zero_config import ZeroConfig
from hornet.training.schedule import plan_schedule


@dataclass(frozen=True, kw_only=True)
class Basis:
    """What all of a plan's parts share."""

    config: StageConfig
    question: Question
    zero: ZeroConfig | None
    """ZeRO's settings of a pretraining run; None for finetuning, which is data parallel."""
    precision: Precision
    samples: Samples
    num_steps: int
    network: NetworkPlan
    speed: Speed

    @property
    def has_ema(self) -> bool:
        """Whether a moving average of the weights is kept."""
        return self.config.optimizer.ema_decay is not None

    @property
    def stage(self) -> int:
        """The ZeRO stage; data parallelism shards nothing."""
        return 0 if self.zero is None else self.zero.stage


def find_basis(
    config: StageConfig,
    question: Question,
    samples: Samples,
    *,
    zero: ZeroConfig | None,
    precision: Precision,
    run: Path | None,
) -> Basis:
    """Look up and measure; `run` is one whose speed was measured.

    Raises UserError if nobody knows the speed, or if the set is smaller than a batch.
    """
    order = Order(
        shard_lengths=[samples.num_samples],  # how many there are in each tar does not change the steps
        seed=config.run.seed,
        shuffle_window_shards=config.data.shuffle_window_shards,
        global_batch_size=config.global_batch_size,
        partial_batch=config.data.partial_batch,
    )
    network = plan_network(
        config.model,
        num_classes=samples.num_classes,
        image_size=config.data.transform.image_size,
        precision=precision,
    )
    return Basis(
        config=config,
        question=question,
        zero=zero,
        precision=precision,
        samples=samples,
        num_steps=plan_schedule(config.schedule, steps_per_epoch=order.steps_per_epoch).num_steps,
        network=network,
        speed=choose_speed(question, network=network, precision=precision, run=run),
    )
