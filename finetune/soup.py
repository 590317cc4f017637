"""Weights made of several weights of one network: their mean, a greedy soup, a point between two.

Sources: model soups (Wortsman et al. 2022, arXiv 2203.05482), WiSE-FT (Wortsman et al. 2022, arXiv 2109.01903).
Not here: reading, judging and writing weights (average.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from hornet.errors import UserError
from hornet.shards.label_report import describe_space
from hornet.shards.label_space import LabelSpace
from hornet.stages.pretrained import Pretrained

OF_NETWORK = ("model", "module", "arguments", "mean", "std")
"""What descriptions of weights must have in common; the image size shows in the shapes, where it matters."""

Mixed = dict[str, Tensor]
"""A state dict whose floating-point tensors are float64."""


def mix(first: Mapping[str, Tensor], second: Mapping[str, Tensor], *, share: float) -> Mixed:
    """Return (1 - share) first + share second, in float64; counts and other whole numbers are those of `second`."""
    return {
        name: (1 - share) * first[name].double() + share * tensor.double() if tensor.is_floating_point() else tensor
        for name, tensor in second.items()
    }


def average(states: Iterable[Mapping[str, Tensor]]) -> Mixed:
    """Return the mean of at least one state dict, in float64. Holds one of them at a time."""
    mean: Mixed = {}
    for number, state in enumerate(states):
        mean = mix(mean or state, state, share=1 / (number + 1))
    return mean


def round_to(mixed: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors in the types of a state dict's."""
    return {name: tensor.to(like[name].dtype) for name, tensor in mixed.items()}


def choose_greedily(scores: Sequence[int], try_with: Callable[[Sequence[int]], int]) -> list[int]:
    """Return which ingredients make the soup, the best first; the earlier of equal ones.

    `scores` are the ingredients' own. From the best to the worst, each is kept if the mean with it, `try_with(those)`,
    scores at least as much as without.
    """
    order = sorted(range(len(scores)), key=lambda number: -scores[number])
    kept, best = [order[0]], scores[order[0]]
    for number in order[1:]:
        score = try_with([*kept, number])
        if score >= best:
            kept, best = [*kept, number], score
    return kept


def _require_labels(start: Pretrained) -> LabelSpace:
    if start.label_space is None:
        raise UserError(f"{start.source}: does not say what it is; give runs, or checkpoints in them")
    return start.label_space


def require_one_network(first: Pretrained, other: Pretrained) -> None:
    """Raise UserError, naming both, unless the weights are of one network and one label space, and finite."""
    remedy = "only weights of one network and one label space can be mixed"
    for key in OF_NETWORK:
        here, there = first.description.get(key), other.description.get(key)
        if here != there:
            raise UserError(f"{other.source}: has {key}={there!r}, {first.source} {key}={here!r}; {remedy}")
    here, there = _require_labels(first), _require_labels(other)
    if here.fingerprint != there.fingerprint:
        raise UserError(
            f"{other.source}: its head is of {describe_space(there)}, that of {first.source} of "
            f"{describe_space(here)}; {remedy}"
        )
    shapes, others = ({name: tuple(t.shape) for name, t in start.state_dict.items()} for start in (first, other))
    differing = sorted(name for name in shapes.keys() | others.keys() if shapes.get(name) != others.get(name))
    if differing:
        name = differing[0]
        raise UserError(
            f"{other.source}: {len(differing)} tensors are not as in {first.source} ({name}: {others.get(name)} and "
            f"{shapes.get(name)}); {remedy}, at one image size"
        )
    damaged = [name for name, tensor in other.state_dict.items() if not torch.isfinite(tensor).all()]
    if damaged:
        raise UserError(f"{other.source}: holds NaN or infinity in {len(damaged)} tensors ({damaged[0]}); leave it out")
