"""Weights for the world outside: a folder of files (export_formats.py) that appears whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from torch import nn

from hornet import __version__
from hornet.durable import sync_files, write_text
from hornet.errors import UserError
from hornet.model.build import build_model, get_classifier_names, list_parameters
from hornet.model.config import ModelConfig
from hornet.stages.card import make_card
from hornet.stages.config import ExportConfig
from hornet.stages.export_formats import LOADERS, WRITERS, Outgoing
from hornet.stages.latency import Latency, measure_latency
from hornet.stages.pretrained import Pretrained, adapt, choose_network, load_weights, read_pretrained


def export_weights(config: ExportConfig) -> dict[str, str]:
    """Write the files into `config.output`; return what each is, by its name.

    Raises UserError if the folder is there already, the weights do not fit, or a file does not compute what they do.
    """
    if config.output.exists():
        raise UserError(f"{config.output}: is there already; remove it, or name another folder")
    pretrained = read_pretrained(config.source, weights=config.weights, label_space=config.label_space)
    model_config = choose_network(config, pretrained.description)
    model = build_network(config, pretrained, model_config)
    described = describe(config, pretrained, model, model_config)
    config.output.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=config.output.parent, prefix=f".{config.output.name}."))
    try:
        outgoing = Outgoing(model, folder=folder, described=described)
        written: dict[str, str] = {}
        for kind in config.formats:
            written |= WRITERS[kind](outgoing)
        write_text(folder / "README.md", make_card(config, pretrained, described, written, module=model_config.module))
        sync_files(folder.iterdir())
        folder.chmod(0o755)  # mkdtemp's is for its owner alone
        folder.rename(config.output)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return written | {"README.md": "model card"}


def measure_exported(config: ExportConfig) -> list[Latency]:
    """Time the network and every file of an export that computes by itself; PyTorch is the first."""
    pretrained = read_pretrained(config.source, weights=config.weights, label_space=config.label_space)
    model = build_network(config, pretrained, choose_network(config, pretrained.description))
    files = {name: load(config.output / name) for name, load in LOADERS.items() if (config.output / name).exists()}
    return measure_latency(
        {"PyTorch": model, **files},
        image_size=config.image_size,
        batch_sizes=(1, 16),
        seconds=5,
        read_clock=time.perf_counter,
    )


def build_network(config: ExportConfig, pretrained: Pretrained, model_config: ModelConfig) -> nn.Module:
    """Return the network with its weights, in eval mode."""

    def build(num_classes: int) -> nn.Module:
        size = config.image_size
        return build_model(model_config, num_classes=num_classes, image_size=size, seed=0, size_key="image_size").eval()

    model = build(1 if pretrained.label_space is None else len(pretrained.label_space))
    head = adapt(pretrained, model).state_dict.get(get_classifier_names(model)[0])
    if head is None or head.dim() == 0:
        raise UserError(f"{pretrained.source}: holds no head, so it cannot classify; finetune it first")
    if pretrained.label_space is None:  # as many classes as it has rows
        model = build(len(head))
    load_weights(pretrained.state_dict, model, source=pretrained.source)
    return model


def describe(
    config: ExportConfig, pretrained: Pretrained, model: nn.Module, model_config: ModelConfig
) -> dict[str, Any]:
    """Return what timm's config.json says of the weights, and how images are brought to them."""
    known = pretrained.description
    classifier = get_classifier_names(model)[0]
    num_classes, width = model.get_parameter(classifier).shape[:2]
    first_conv = (getattr(model, "pretrained_cfg", None) or {}).get("first_conv")
    arguments = dict(model_config.arguments or {})
    if "img_size" in list_parameters(type(model)):
        arguments["img_size"] = config.image_size
    space = pretrained.label_space
    return {
        "architecture": model_config.name,
        "num_classes": num_classes,
        "num_features": getattr(model, "num_features", width),  # networks of users' own need not say it
        **({} if space is None else {"label_names": list(space.classes)}),
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [3, config.image_size, config.image_size],
            "interpolation": config.interpolation,
            "crop_pct": 1.0 if config.crop_fraction is None else config.crop_fraction,
            "crop_mode": "squash" if config.crop_fraction is None else "center",
            "mean": list(known.get("mean", config.mean)),
            "std": list(known.get("std", config.std)),
            "num_classes": num_classes,
            "classifier": classifier.rpartition(".")[0],
            **({} if first_conv is None else {"first_conv": first_conv}),  # which timm fits to other in_chans
            "license": config.license,
        },
        "made_by": f"hornet {__version__}",
    }
