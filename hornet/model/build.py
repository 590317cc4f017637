"""A model from a run's settings: any classification network that timm knows, ours and users' own among them.

What is special about a network is asked of it by its methods, never by its type: `set_grad_checkpointing`,
`get_classifier`, `group_matcher` and `no_weight_decay` are timm's; `use_kernels` and `count_multiply_adds` ours.
A ConvNeXt alone is known by its type: it is given the layers of its original (layer_groups.py).
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Callable
from typing import Any

import timm
import torch
from torch import nn

import hornet.model.variants  # noqa: F401  # registers the names with timm
from hornet.errors import UserError
from hornet.model.config import OWN_LAYER_SCALE, RESERVED, ModelConfig
from hornet.model.cost import require_logits
from hornet.model.layer_groups import give_published_layers
from hornet.model.own_module import explain_absent, look_in_working_folder
from hornet.model.resize import choose_resize

MAX_NUM_GRAPHS = 128
"""Graphs that torch.compile may make of the network: one an image size, and one more where it also trains."""

LAYER_SCALE = "layer_scale_init"
LAYER_SCALE_NAMES = (LAYER_SCALE, "ls_init_value", "init_values")
"""What constructors call it: HorNet, timm's ConvNeXt, timm's ViT and its kin."""

_UNEXPECTED = re.compile(r"unexpected keyword argument(?:\(s\))?:? (.*)")


def build_model(
    config: ModelConfig, *, num_classes: int, image_size: int, seed: int, size_key: str = "data.transform.image_size"
) -> nn.Module:
    """Build the network on the CPU, for images of `image_size` pixels a side, which the setting `size_key` says.

    `seed` alone decides its initial weights, on every rank alike. Raises UserError, naming the setting, for a network
    that does not exist, does not classify, or cannot do what is asked of it.
    """
    require_known(config)
    model = _create(config, num_classes=num_classes, image_size=image_size, seed=seed)
    require_logits(model, name=config.name, num_classes=num_classes, image_size=image_size, key=size_key)
    _scale_head(model, config.head_init_scale)
    give_published_layers(model)
    if not choose_resize(model, config.resize) and config.resize != "bilinear":
        raise UserError(f"model.resize: {config.name} has no global filters to be resized; leave it out")
    use_kernels = getattr(model, "use_kernels", None)
    if use_kernels is not None:
        use_kernels(config.kernels)
    elif config.kernels != "plain":
        raise UserError(f"model.kernels: {config.name} has no {config.kernels} kernels; choose plain")
    if config.activation_checkpointing:
        _checkpoint_activations(model, config.name)
    if config.compile:
        from torch._dynamo import config as compiler  # seconds to import

        # Torch's own limit is 8, and the next image size would end the process.
        compiler.recompile_limit = max(compiler.recompile_limit, MAX_NUM_GRAPHS)
        # At the first call. The forward alone, since engines hang hooks on the network that cannot be compiled; in
        # place, so that names and checkpoints stay as they are.
        model.forward = torch.compile(model.forward, fullgraph=True)
    return model


def require_known(config: ModelConfig) -> None:
    """Import `model.module`, and raise UserError, with the nearest names, if timm then knows no such network."""
    if config.module is not None:
        _import_module(config.module)
    if not timm.is_model(config.name):
        near = difflib.get_close_matches(config.name, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "`timm.list_models()` lists them."
        raise UserError(
            f"model.name: no network is called {config.name!r}; {hint} A network of your own is registered by the "
            "module that model.module names"
        )


def _scale_head(model: nn.Module, scale: float) -> None:
    """Multiply the weights of the last layer; raises UserError if there is no single one."""
    names = get_classifier_names(model)
    with torch.no_grad():
        for name in names:
            model.get_parameter(name).mul_(scale)


def list_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return every parameter's shape by name."""
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _import_module(name: str) -> None:
    look_in_working_folder()
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there, and lacks another
        raise UserError(explain_absent(error.name)) from error


def _create(config: ModelConfig, *, num_classes: int, image_size: int, seed: int) -> nn.Module:
    """Call the constructor with what the config says; what is only a default is left out where it is not taken."""
    own = dict(config.arguments or {})
    said: dict[str, Any] = {
        "img_size": image_size,
        "drop_path_rate": config.drop_path_rate,
        **own,
        **translate_layer_scale(config),
    }
    arguments = {"num_classes": num_classes, **said}
    can_leave_out = {"img_size"}  # any size is taken, or none but its own: require_logits tells
    if config.drop_path_rate == 0:
        can_leave_out.add("drop_path_rate")
    while True:
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model: nn.Module = timm.create_model(config.name, **arguments)
            return model
        except UserError:
            raise
        except Exception as error:  # a constructor may raise anything for arguments of the wrong kind
            unexpected = _list_unexpected(error)
            left_out = can_leave_out.intersection(unexpected)
            if left_out:
                can_leave_out -= left_out
                arguments = {name: value for name, value in arguments.items() if name not in left_out}
                continue
            for name in unexpected:
                if name in arguments:
                    raise UserError(_explain_unexpected(name, config, has_own=name in own)) from error
            if not own and not isinstance(error, TypeError | ValueError | AssertionError):
                raise
            given = f" and {', '.join(f'{key}={value!r}' for key, value in own.items())}" if own else ""
            raise UserError(
                f"model.name: {config.name} cannot be built for images of {image_size} pixels{given}: "
                f"{str(error) or type(error).__name__}"
            ) from error


def translate_layer_scale(config: ModelConfig) -> dict[str, float]:
    """Return `model.layer_scale_init` under the name that the network has for it; empty at the default.

    Raises UserError if `model.arguments` says it too.
    """
    if config.layer_scale_init == OWN_LAYER_SCALE:
        return {}
    known = _list_arguments(config.name)
    name = next((name for name in LAYER_SCALE_NAMES if name in known), LAYER_SCALE)
    if name in (config.arguments or {}):
        raise UserError(f"model.arguments.{name}: model.{LAYER_SCALE} says it too; leave out one of them")
    return {name: config.layer_scale_init}


def _list_unexpected(error: Exception) -> list[str]:
    """Return the arguments that a call says it does not take: Python's sentence, and timm's with several in a list."""
    found = _UNEXPECTED.search(str(error)) if isinstance(error, TypeError) else None
    return re.findall(r"'(\w+)'", found[1]) if found else []


def _explain_unexpected(name: str, config: ModelConfig, *, has_own: bool) -> str:
    known = _list_arguments(config.name)
    listed = f"; it takes {', '.join(known)}" if known else ""
    if has_own:
        return f"model.arguments: {config.name} takes no {name}{listed}"
    if name == "num_classes":
        return f"model.name: {config.name} takes no num_classes, and has to have as many as there are labels"
    if name == "drop_path_rate":
        return f"model.drop_path_rate: {config.name} has no stochastic depth; set it to 0"
    return f"model.{name}: {config.name} has no such setting; leave it out, and see model.arguments{listed}"


def _list_arguments(name: str) -> list[str]:
    """Return what the class of a network takes, without what other settings say; empty if it does not tell."""
    try:
        with torch.device("meta"):
            network = timm.create_model(name, num_classes=1)
    except Exception:  # it has to be given something: what it takes is not known
        return []
    return [argument for argument in list_parameters(type(network)) if argument not in RESERVED]


def list_parameters(kind: type[nn.Module]) -> list[str]:
    """Return the names of what a class's constructor takes.

    What a class hands on as **arguments is what the class takes that it is made of.
    """
    known: dict[str, None] = {}
    for part in kind.__mro__:
        if "__init__" not in vars(part):
            continue
        parameters = list(inspect.signature(vars(part)["__init__"]).parameters.values())[1:]
        passed_on = [p for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        known |= {p.name: None for p in parameters if p not in passed_on}
        if not passed_on:
            break
    return list(known)


def _checkpoint_activations(model: nn.Module, name: str) -> None:
    refusal = f"model.activation_checkpointing: {name} cannot compute its activations again; set it to false"
    switch = getattr(model, "set_grad_checkpointing", None)
    if switch is None:
        raise UserError(refusal)
    try:
        switch(True)
    except (AssertionError, NotImplementedError) as error:
        raise UserError(refusal) from error


def get_classifier_names(model: nn.Module) -> tuple[str, ...]:
    """Return the state dict's names of the last layer's weight and, if there is one, its bias.

    Raises UserError if the network has no single last layer.
    """
    find: Callable[[], Any] = getattr(model, "get_classifier", lambda: None)
    classifier = find()
    prefixes = [prefix for prefix, module in model.named_modules() if module is classifier]
    if len(prefixes) != 1 or not hasattr(classifier, "weight"):
        raise UserError(
            f"model.name: {type(model).__name__} has no single last layer that classifies (timm's get_classifier); "
            "choose a network with one"
        )
    return tuple(f"{prefixes[0]}.{part}" for part, _ in classifier.named_parameters(recurse=False))
