"""What a finetuning run is: pretrained weights, resized -> the same loop at a higher resolution, under Accelerate."""

from __future__ import annotations

from finetune.config import FinetuneConfig
from finetune.start import fit_weights
from hornet.data.label_space import LabelSpace
from hornet.data.loader import TrainStream, open_evaluation_stream, open_train_stream
from hornet.model.build import build_model, list_shapes
from hornet.pretrained import read_pretrained
from hornet.run_directory import RunDirectory
from hornet.seeding import derive_seed
from hornet.task import Classification, describe_weights, require_same_labels
from hornet.training.engines.accelerate import AccelerateEngine
from hornet.training.process_group import choose_device, open_process_group
from hornet.training.schedule import plan_schedule
from hornet.training.session import Parts, find_start, report_finished, run_session
from hornet.world import World


def finetune(config: FinetuneConfig, *, world: World) -> None:
    """Run, or resume, a finetuning run to its end. Every rank calls it.

    Start order: this run's own newest whole checkpoint, else the weights of `start.from`.
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
        labelled = open_evaluation_stream(config.evaluation, world=world)
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
        parts = assemble(config, stream=stream, task=task, is_fresh=checkpoint is None)
        run_session(run, parts, checkpoint=checkpoint, world=world, device=device)


def assemble(config: FinetuneConfig, *, stream: TrainStream, task: Classification, is_fresh: bool) -> Parts:
    """Bring weights, model, data and engine together."""
    label_space: LabelSpace = stream.label_space
    model = build_model(
        config.model,
        num_classes=len(label_space),
        image_size=config.data.transform.image_size,
        seed=derive_seed("weights", config.run.seed),
    )
    if is_fresh:
        start = read_pretrained(config.start.from_, weights=config.start.weights, label_space=config.start.label_space)
        report = fit_weights(start, model, label_space=label_space)
        if task.world.is_main:
            print("\n".join(report), flush=True)
    engine = AccelerateEngine(
        model,
        precision=config.precision,
        optimizer=config.optimizer,
        compute_loss=task.compute_loss,
        derive_step_seed=task.derive_step_seed,
        device=task.device,
        is_main=task.world.is_main,
    )
    return Parts(
        engine=engine,
        identity={
            "engine": "accelerate",
            "model": config.model.name,
            "label_space": label_space.fingerprint,
            "stream": stream.manifest_fingerprint,
            "order_version": stream.order_version,
        },
        description=describe_weights(
            model=config.model.name,
            image_size=config.data.transform.image_size,
            mixing=config.mixing,
            label_space=label_space,
        ),
        parameter_shapes=list_shapes(model),
        iterate=stream.iterate,
        num_micro_steps=stream.num_micro_steps,
        steps_per_epoch=stream.steps_per_epoch,
        global_batch_size=config.global_batch_size,
        schedule=plan_schedule(config.schedule, steps_per_epoch=stream.steps_per_epoch),
        cadence=config.cadence,
        weight_decay=config.optimizer.weight_decay,
        max_bad_sample_rate=config.data.max_bad_sample_rate,
        evaluate=task.evaluate,
        evaluated_weights=("raw",) if config.optimizer.ema_decay is None else ("raw", "ema"),
        draw_images=task.draw_images,
    )
