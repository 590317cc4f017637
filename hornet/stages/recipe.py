"""Where a run's config departs from the published recipe that it names; the values are in published.py."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hornet.config import Settings, flatten_values, resumable, to_values
from hornet.stages.published import ALL, PUBLISHED
from hornet.training.config import Clipping

AT_384 = "_img384"
"""At the end of a network's name: shaped for 384 pixels, where the config's image size does not say another."""

_REMARKS = {
    "global_batch_size": "the published learning rate belongs to the published batch; nothing is scaled here",
    "zero.precision": "autocast only: parameters, gradient sums and optimizer stay fp32",
    "precision": "autocast only: parameters, gradient sums and optimizer stay fp32",
    "micro_batch_size": "images are mixed within a micro batch, all in one way",
    "recipe.clipping": "paper clips the growing sum after each half of a step, standard once a step",
    "data.partial_batch": "the original drops an epoch's last images",
    "data.shuffle_window_shards": "the original shuffles the whole set; a window of all its shards does so too",
    "evaluation": "changes nothing that is learned",
    "evaluation.crop_fraction": "changes what is measured; null warps the whole image",
    "evaluation.image_size": "changes what is measured",
    "evaluation.interpolation": "changes what is measured",
    "start.weights": "pretraining on 22K as published keeps no average",
    "data.transform.image_size": "global filters take the shape of the size; there is no published command for others",
    "model.name": "another network than the published one",
    "model.resize": "of global filters, where weights or images are of another size; the original's is bilinear",
    "model.head_init_scale": "of a fresh head; rows that are mapped by class name keep their values",
    "model.arguments.window_size": "another window cuts the map otherwise",
    "optimizer.ema_decay": "per step, so its horizon goes with the global batch",
    "schedule.peak_lr": "for the whole global batch",
}


@dataclass(frozen=True, kw_only=True)
class RecipeConfig(Settings):
    """Which published recipe a run follows, and how its gradients are clipped."""

    published: str | None = resumable(None)
    """The published recipe that the config is compared with at the start, such as in1k_tiny_gf; null for none."""
    clipping: Clipping = "standard"
    """standard: the gradient is clipped once a step; paper: as the original's commands for S, B and L in fp32, what has
    accumulated over all ranks is clipped after each half of a step; every_micro_step: after each micro step."""

    def _find_problems(self) -> Iterator[str]:
        if self.published is not None and self.published not in PUBLISHED:
            near = difflib.get_close_matches(self.published, PUBLISHED, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(PUBLISHED)}"
            yield f"published: no published recipe is called {self.published!r}; {hint}"


@dataclass(frozen=True, kw_only=True)
class Departure:
    """One value in which a config is not the published recipe."""

    key: str
    """Dotted key of our config."""
    published: Any
    """The value of the published recipe."""
    ours: Any
    """The config's value; None where it has no such key."""
    remark: str
    """What to know about it; may be empty."""


def list_departures(config: Any, *, num_shards: int | None = None) -> list[Departure]:
    """Compare a stage's config with the published recipe it names; empty if they agree or it names none.

    `num_shards` are those of the training split, None if they are not known.
    """
    if config.recipe.published is None:
        return []
    published = dict(PUBLISHED[config.recipe.published])
    ours = dict(flatten_values(to_values(config)))
    if config.evaluation is not None:
        ours["evaluation"] = f"split {config.evaluation.split}"
    elif "evaluation" not in published:
        size = published["evaluation.image_size"]
        published = {key: value for key, value in published.items() if not key.startswith("evaluation.")}
        published["evaluation"] = f"at {size} pixels"
    if num_shards is not None and config.data.shuffle_window_shards >= num_shards:
        ours["data.shuffle_window_shards"] = ALL
    ours["model.name"] = ours["model.name"].removesuffix(AT_384)
    return [
        Departure(key=key, published=value, ours=ours.get(key), remark=_REMARKS.get(key, ""))
        for key, value in published.items()
        if ours.get(key) != value
    ]


def format_audit(name: str, departures: list[Departure]) -> str:
    """Return the table a run begins with: where it departs from the published recipe `name`."""
    if not departures:
        return f"recipe {name}: no departure from the published values"
    rows = [(entry.key, str(entry.published), str(entry.ours), entry.remark) for entry in departures]
    head = ("key", "published", "ours", "")
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(3)]
    cells = [[*(f"{row[column]:<{widths[column]}}" for column in range(3)), row[3]] for row in [head, *rows]]
    lines = [f"  {'  '.join(row)}".rstrip() for row in cells]
    number = f"{len(departures)} departure" + ("" if len(departures) == 1 else "s")
    return "\n".join([f"recipe {name}: {number} from the published values", *lines])
