"""Evaluating weights by themselves, apart from any training run."""

from __future__ import annotations

import sys

import torch

from hornet.data.config import MixingConfig
from hornet.data.loader import open_evaluation_stream
from hornet.data.shared_memory import require_shared_memory
from hornet.errors import UserError
from hornet.model.build import build_model, get_classifier_names
from hornet.model.config import ModelConfig
from hornet.stages.classification import Classification, require_same_labels
from hornet.stages.config import EvaluateConfig
from hornet.stages.pretrained import adapt, load_weights, read_pretrained, require_head_of
from hornet.training.evaluate import Evaluation
from hornet.training.process_group import choose_device, errors_shared, open_process_group
from hornet.world import World


def evaluate_weights(config: EvaluateConfig, *, world: World) -> Evaluation:
    """Evaluate weights on a labelled set, over any number of ranks. Every rank calls it.

    Raises UserError if the weights do not fit the model or the set's label space.
    """
    device = choose_device(world)
    with open_process_group(world, device=device, purpose=f"an evaluation of {config.source}"):
        pretrained = read_pretrained(config.source, weights=config.weights, label_space=config.label_space)
        if world.is_main:
            print(f"reading {pretrained.source}", file=sys.stderr, flush=True)  # stdout may be one JSON object
        with errors_shared():
            labelled = open_evaluation_stream(config.evaluation, world=world)
            require_shared_memory([labelled.count_shared_bytes()], num_local_ranks=world.num_local_ranks)
        if pretrained.label_space is not None:
            require_same_labels(labelled.label_space, pretrained.label_space)
        known = pretrained.description
        name = config.model or known.get("model")
        its_own = known if name == known.get("model") else {}
        module = config.module or its_own.get("module")
        arguments = its_own.get("arguments") if config.arguments is None else config.arguments
        if module is not None and config.module is None and world.is_main:
            print(f"importing {module}, which the checkpoint names", file=sys.stderr, flush=True)
        if name is None:
            raise UserError(f"model: is missing; {config.source} does not say which model its weights are of")
        model = build_model(
            ModelConfig(name=name, module=module, arguments=arguments),
            num_classes=len(labelled.label_space),
            image_size=config.evaluation.image_size,
            seed=0,
            size_key="evaluation.image_size",
        )
        pretrained = adapt(pretrained, model)
        label_space = pretrained.label_space or labelled.label_space
        require_head_of(pretrained, label_space, name=get_classifier_names(model)[0])
        load_weights(pretrained.state_dict, model.to(device).eval(), source=pretrained.source)
        mixing = MixingConfig(mean=tuple(known["mean"]), std=tuple(known["std"])) if known else config.mixing
        task = Classification(
            mixing=mixing,
            label_space=labelled.label_space,
            labelled=labelled,
            seed=0,
            num_micro_steps=1,
            world=world,
            device=device,
            beat=lambda: None,
        )
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            return task.evaluate(model)
