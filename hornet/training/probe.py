"""Frozen features judged by themselves: weighted nearest neighbours and a linear classifier, over any number of ranks.

Each rank keeps the features of its own images (1.28 million of 1,536 numbers in half precision are 3.9 GB over all);
what is compared goes through in blocks, so no matrix of images by images or by classes is ever whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed import get_rank
from torch.nn import functional

from hornet.training.process_group import add_over_ranks, stack_from_all, sum_over_ranks

BLOCK = 65_536
"""Rows of the memory that queries are compared with at once."""
MAX_LINEAR_STEPS = 300


@dataclass(frozen=True, kw_only=True)
class Features:
    """One rank's images, padded so that all ranks have as many."""

    rows: Tensor
    """(N, D) float, on the device."""
    labels: Tensor
    """int64 (N,)."""
    is_real: Tensor
    """bool (N,): False for padding."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """How many images were classified rightly."""

    hits: int
    """Images, over all ranks, whose label was found."""
    num_images: int
    """Images that were asked for."""

    @property
    def top1(self) -> float:
        """The share in percent."""
        return 100 * self.hits / max(1, self.num_images)


@torch.no_grad()
def classify_by_neighbours(
    memory: Features,
    queries: Features,
    *,
    neighbours: tuple[int, ...],
    temperature: float,
    num_classes: int,
    block: int = 1024,
) -> dict[int, Share]:
    """Return the hits of a vote among the k most similar images of the memory, for each k. Collective.

    Similarity is the cosine; a neighbour's vote weighs exp(cosine / temperature) (Wu et al. 2018, arXiv 1805.01978).
    `block` queries of each rank are compared at once.
    """
    keys = functional.normalize(memory.rows.float(), dim=1).to(memory.rows.dtype)
    most = max(neighbours)
    hits = torch.zeros(len(neighbours) + 1, dtype=torch.int64)
    for start in range(0, len(queries.rows), block):
        part = slice(start, start + block)
        asked = functional.normalize(queries.rows[part].float(), dim=1).to(keys.dtype)
        everyone = stack_from_all(asked).flatten(0, 1)
        similar, labels = _find_nearest(keys, memory, everyone, count=most)
        # Of each rank the nearest of its part: (ranks, queries of all, count) -> the nearest of all for our own.
        mine = torch.arange(len(asked), device=asked.device) + get_rank() * len(asked)
        all_similar = stack_from_all(similar)[:, mine].transpose(0, 1).flatten(1)
        all_labels = stack_from_all(labels)[:, mine].transpose(0, 1).flatten(1)
        nearest, order = all_similar.topk(most, dim=1)
        votes = (nearest / temperature - 1 / temperature).exp()  # at most 1: half precision's range is no concern
        chosen = all_labels.gather(1, order)
        for index, count in enumerate(neighbours):
            scores = torch.zeros(len(asked), num_classes, device=asked.device, dtype=votes.dtype)
            scores.scatter_add_(1, chosen[:, :count], votes[:, :count])
            found = scores.argmax(dim=1) == queries.labels[part]
            hits[index] += (found & queries.is_real[part]).sum().cpu()
        hits[-1] += queries.is_real[part].sum().cpu()
    *found_hits, num_images = sum_over_ranks(hits).tolist()
    return {
        count: Share(hits=right, num_images=num_images) for count, right in zip(neighbours, found_hits, strict=True)
    }


def fit_linear(memory: Features, *, num_classes: int, l2: float, block: int = BLOCK) -> tuple[Tensor, Tensor]:
    """Return weight (K, D) and bias (K,) of the logistic regression on the memory. Collective; the same on all ranks.

    Least mean cross entropy plus l2 / 2 times the sum of the squared weights, by L-BFGS from zero.
    """
    device = memory.rows.device
    total = int(sum_over_ranks(memory.is_real.sum().cpu()))
    parameters = torch.zeros(num_classes, memory.rows.shape[1] + 1, device=device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [parameters], max_iter=MAX_LINEAR_STEPS, history_size=20, line_search_fn="strong_wolfe", tolerance_change=1e-12
    )

    def compute() -> Tensor:
        loss = torch.zeros((), device=device)
        gradient = torch.zeros_like(parameters)
        for rows, labels in _iterate_real(memory, block):
            part = parameters.detach().requires_grad_()
            value = functional.cross_entropy(
                functional.linear(rows, part[:, :-1], part[:, -1]), labels, reduction="sum"
            )
            gradient += torch.autograd.grad(value / total, part)[0]
            loss += value.detach() / total
        packed = torch.cat([gradient.flatten(), loss[None]])
        add_over_ranks(packed)
        weight = parameters.detach()[:, :-1]
        parameters.grad = packed[:-1].view_as(parameters).clone()
        parameters.grad[:, :-1] += l2 * weight
        return packed[-1] + 0.5 * l2 * weight.square().sum()

    optimizer.step(compute)
    found = parameters.detach()
    return found[:, :-1].clone(), found[:, -1].clone()


@torch.no_grad()
def classify_linearly(queries: Features, weight: Tensor, bias: Tensor, *, block: int = BLOCK) -> Share:
    """Return the hits of a linear classifier. Collective."""
    hits = torch.zeros(2, dtype=torch.int64)
    for rows, labels in _iterate_real(queries, block):
        found = functional.linear(rows, weight, bias).argmax(dim=1) == labels
        hits += torch.stack([found.sum(), torch.tensor(len(labels), device=found.device)]).cpu()
    right, num_images = sum_over_ranks(hits).tolist()
    return Share(hits=right, num_images=num_images)


def _find_nearest(keys: Tensor, memory: Features, asked: Tensor, *, count: int) -> tuple[Tensor, Tensor]:
    """Return similarities (Q, count) and labels of the most similar of this rank's images; -inf where it has fewer."""
    similar = torch.full((len(asked), count), -torch.inf, device=asked.device)
    labels = torch.zeros(len(asked), count, dtype=torch.int64, device=asked.device)
    for start in range(0, len(keys), BLOCK):
        part = slice(start, start + BLOCK)
        products = (asked @ keys[part].T).float().masked_fill(~memory.is_real[part], -torch.inf)
        known = memory.labels[part].expand(len(asked), -1)
        similar, order = torch.cat([similar, products], dim=1).topk(count, dim=1)
        labels = torch.cat([labels, known], dim=1).gather(1, order)
    return similar, labels


def _iterate_real(features: Features, block: int) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(features.rows), block):
        part = slice(start, start + block)
        is_real = features.is_real[part]
        yield features.rows[part][is_real].float(), features.labels[part][is_real]
