"""Pretrained weights -> the starting weights of a finetuning run: filters resized, head mapped by class name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from hornet.errors import UserError
from hornet.model.build import get_classifier_names
from hornet.model.resize import FILTER_SUFFIX, get_resize
from hornet.model.sizes import Resize
from hornet.shards.label_report import explain_mismatch, guess_by_size
from hornet.shards.label_space import LabelSpace, map_classes
from hornet.stages.pretrained import DTYPES, Pretrained, adapt, load_weights
from hornet.stages.recognise import guess_label_space, recognise

NORM = ("norm.weight", "norm.bias")


def fit_weights(start: Pretrained, model: nn.Module, *, label_space: LabelSpace) -> list[str]:
    """Load `start` into `model`, resized and mapped; return lines that say what was changed.

    The head's rows follow the class names where both label spaces are known; rows of classes that the start lacks, or
    all rows if nothing is known or nothing matches, keep the model's fresh values.
    The final norm keeps its fresh values if the start is a backbone that has neither it nor a head.
    Raises UserError if the weights are of another network.
    """
    start, shapes = adapt(start, model), {name: tensor.shape for name, tensor in start.state_dict.items()}
    names = get_classifier_names(model)
    fresh = {name: tensor.detach().clone() for name, tensor in model.state_dict().items() if name in names + NORM}
    head, remark = map_head(start, {name: fresh[name] for name in names}, label_space=label_space)
    is_backbone = not any(name in start.state_dict for name in names + NORM)
    norm = {name: fresh[name] for name in NORM if name in fresh} if is_backbone else {}
    load_weights({**start.state_dict, **norm, **head}, model, source=start.source)
    resized = [name for name in shapes if name in start.state_dict and start.state_dict[name].shape != shapes[name]]
    report = [_describe_resized(resized, how=get_resize(model))] if resized else []
    report += ["norm: a fresh one before the head, since the start is a backbone without"] if norm else []
    return [f"starting from {start.source}", *report, remark]


def name_released(start: Pretrained) -> tuple[Pretrained, list[str]]:
    """Say what the head of a HorNet's file means, if nobody has and only one known label space is of its size.

    The released weights have 1,000 rows (imagenet-1k) or 10,459 (hornet-22k). Others are returned as they are.
    """
    if start.label_space is not None:
        return start, []
    try:
        found = recognise(start.state_dict, source=start.source)
    except UserError:
        return start, []
    space = guess_label_space(found.num_rows)
    if space is None:
        return start, []
    remark = f"{found.model} for {found.image_size} pixels, whose {found.num_rows} rows are taken for {space.name}"
    return replace(start, label_space=space), [f"{remark} (start.label_space says otherwise)"]


def _is_head_like(old: Tensor, new: Tensor, *, num_rows: int) -> bool:
    """Whether rows of `old`, as many as its weight has, can become rows of `new`."""
    return old.dtype in DTYPES and old.shape == (num_rows, *new.shape[1:])


def _describe_resized(names: list[str], *, how: Resize) -> str:
    if all(name.endswith(FILTER_SUFFIX) for name in names):
        by = " by their frequencies" if how == "spectral" else ""
        return f"filters: {len(names)} resized to the grids of the new image size{by}"
    return f"resized to the new image size: {', '.join(names[:3])}" + (f", {len(names)} in all" if names[3:] else "")


def map_head(
    start: Pretrained, fresh: Mapping[str, Tensor], *, label_space: LabelSpace
) -> tuple[dict[str, Tensor], str]:
    """Return the head's tensors for `label_space` and a line that says how they were made."""
    source = start.label_space
    if not all(name in start.state_dict for name in fresh):
        return dict(fresh), f"head: a fresh one of {len(label_space)} classes, since {start.source} holds none"
    weight, *_ = (start.state_dict[name] for name in fresh)
    num_rows = len(weight) if weight.dim() else 0
    if source is None:
        return dict(fresh), (
            f"head: replaced by a fresh one of {len(label_space)} classes, since the label space of the start is not "
            f"known; name it in start.label_space to keep its rows{guess_by_size(num_rows)}"
        )
    if any(not _is_head_like(start.state_dict[name], tensor, num_rows=num_rows) for name, tensor in fresh.items()):
        return {name: start.state_dict[name] for name in fresh}, ""  # load_weights says all that does not fit
    if num_rows != len(source):
        raise UserError(
            f"start.label_space: {source.name!r} has {len(source)} classes, the head of {start.source} {num_rows} rows"
            f"{guess_by_size(num_rows)}"
        )
    if source.fingerprint == label_space.fingerprint:
        return {name: start.state_dict[name] for name in fresh}, f"head: kept, both label spaces are {source.name!r}"
    if source.is_numbered or label_space.is_numbered:
        return dict(fresh), f"head: replaced by a fresh one, {explain_mismatch(source, label_space)}"
    rows = torch.tensor(map_classes(source, label_space).source_indices)
    is_known = rows >= 0
    num_known = int(is_known.sum())
    if num_known == 0:
        return dict(fresh), f"head: replaced by a fresh one, no class of {label_space.name!r} is in {source.name!r}"
    mapped = {}
    for name in fresh:
        old = start.state_dict[name].float()
        tensor = fresh[name].clone()
        tensor[is_known] = old[rows[is_known]]
        mapped[name] = tensor
    missing = [name for name, known in zip(label_space.classes, is_known.tolist(), strict=True) if not known]
    remark = f"head: {num_known} of {len(label_space)} rows mapped by class name from {source.name!r}"
    return mapped, remark + (
        f"; fresh rows for {', '.join(missing[:5])}" + ("..." if len(missing) > 5 else "") if missing else ""
    )
