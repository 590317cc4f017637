"""What a pretraining run is: shards -> stream -> mixing -> HorNet under DeepSpeed ZeRO -> run directory."""

from __future__ import annotations

from hornet.data.loader import TrainStream, open_evaluation_stream, open_train_stream
from hornet.model.build import build_model, list_shapes
from hornet.run_directory import RunDirectory
from hornet.seeding import derive_seed
from hornet.task import Classification, describe_weights, require_same_labels
from hornet.training.engines.deepspeed import DeepSpeedEngine
from hornet.training.process_group import choose_device, open_process_group
from hornet.training.schedule import plan_schedule
from hornet.training.session import Parts, find_start, report_finished, run_session
from hornet.world import World
from pretrain.config import PretrainConfig


def pretrain(config: PretrainConfig, *, world: World) -> None:
    """Run, or resume, a pretraining run to its end. Every rank calls it.

    Start order: this run's own newest whole checkpoint, else fresh weights from the seed.
    """
    run = RunDirectory(config.run, world=world)
    if report_finished(run, world=world):
        return
    device = choose_device(world)
    with open_process_group(world, device=device):
        stream = open_train_stream(
            config.data,
            world=world,
            seed=config.run.seed,
            global_batch_size=config.global_batch_size,
            micro_batch_size=config.micro_batch_size,
        )
        labelled = open_evaluation_stream(config.evaluation, world=world) if config.evaluation is not None else None
        if labelled is not None:
            require_same_labels(labelled.label_space, stream.label_space)
        checkpoint = find_start(run, config, world=world)
        task = Classification(
            mixing=config.mixing,
            num_classes=len(stream.label_space),
            labelled=labelled,
            seed=config.run.seed,
            num_micro_steps=stream.num_micro_steps,
            world=world,
            device=device,
        )
        parts = assemble(config, stream=stream, task=task)
        run_session(run, parts, checkpoint=checkpoint, world=world, device=device)


def assemble(config: PretrainConfig, *, stream: TrainStream, task: Classification) -> Parts:
    """Bring model, data and engine together."""
    model = build_model(
        config.model,
        num_classes=task.num_classes,
        image_size=config.data.transform.image_size,
        seed=derive_seed("weights", config.run.seed),
    )
    parameter_shapes = list_shapes(model)  # before ZeRO-3 takes the parameters apart
    engine = DeepSpeedEngine(
        model,
        config=config.zero,
        optimizer=config.optimizer,
        global_batch_size=config.global_batch_size,
        micro_batch_size=config.micro_batch_size,
        compute_loss=task.compute_loss,
        derive_step_seed=task.derive_step_seed,
        device=task.device,
    )
    return Parts(
        engine=engine,
        identity={
            "engine": "deepspeed",
            "zero_stage": config.zero.stage,
            "num_ranks": task.world.num_ranks,
            "model": config.model.name,
            "label_space": stream.label_space.fingerprint,
            "stream": stream.manifest_fingerprint,
            "order_version": stream.order_version,
        },
        description=describe_weights(
            model=config.model.name,
            image_size=config.data.transform.image_size,
            mixing=config.mixing,
            label_space=stream.label_space,
        ),
        parameter_shapes=parameter_shapes,
        iterate=stream.iterate,
        num_micro_steps=stream.num_micro_steps,
        steps_per_epoch=stream.steps_per_epoch,
        global_batch_size=config.global_batch_size,
        schedule=plan_schedule(config.schedule, steps_per_epoch=stream.steps_per_epoch),
        cadence=config.cadence,
        weight_decay=config.optimizer.weight_decay,
        max_bad_sample_rate=config.data.max_bad_sample_rate,
        evaluate=None if task.labelled is None else task.evaluate,
        evaluated_weights=("raw",) if config.optimizer.ema_decay is None else ("raw", "ema"),
        draw_images=task.draw_images,
    )
