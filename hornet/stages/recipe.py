"""The published recipes, and where a run's config departs from the one it names.

Values: raoyongming/HorNet @ac9e210, the commands of TRAINING.md over the defaults of main.py. TRAINING.md has no
command for finetuning at 224 pixels. Where the repository contradicts itself, README training T 7x7 with a clip of 5
and TRAINING.md with 100, TRAINING.md stands here.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hornet.config import Settings, flatten_values, resumable, to_values
from hornet.training.config import Clipping

ALL = "all"
"""In place of a number of shards: as many as there are."""

# datasets.py: the short edge to 256 and the centre of 224 pixels; from 384 pixels on the whole image, warped.
_EVALUATED_AT_224: dict[str, Any] = {
    "evaluation.crop_fraction": 0.875,
    "evaluation.image_size": 224,
    "evaluation.interpolation": "bicubic",
}
_EVALUATED_AT_384: dict[str, Any] = {
    **_EVALUATED_AT_224,
    "evaluation.crop_fraction": None,
    "evaluation.image_size": 384,
}

# main.py's defaults and what all commands of TRAINING.md share, by our keys.
_EVERYWHERE: dict[str, Any] = {
    "data.partial_batch": "drop",
    "data.shuffle_window_shards": ALL,
    "data.transform.crop_ratio": [3 / 4, 4 / 3],
    "data.transform.crop_scale": [0.08, 1.0],
    "data.transform.interpolation": "bicubic",
    "data.transform.flip_probability": 0.5,
    "data.transform.rand_augment": "rand-m9-mstd0.5-inc1",
    "data.transform.erase_probability": 0.25,
    "mixing.mean": [0.485, 0.456, 0.406],
    "mixing.probability": 1.0,
    "mixing.std": [0.229, 0.224, 0.225],
    "mixing.switch_probability": 0.5,
    "mixing.label_smoothing": 0.1,
    "model.layer_scale_init": 1e-6,
    "optimizer.betas": [0.9, 0.999],
    "optimizer.epsilon": 1e-8,
    "schedule.min_lr": 1e-6,
}
_PRETRAINING: dict[str, Any] = {
    **_EVERYWHERE,
    "global_batch_size": 4096,
    "data.transform.image_size": 224,
    "mixing.mixup_alpha": 0.8,
    "mixing.cutmix_alpha": 1.0,
    "optimizer.layer_decay": None,
    "schedule.peak_lr": 4e-3,
    "zero.precision": "fp32",  # --use_amp is off
}
_IN1K: dict[str, Any] = {
    **_PRETRAINING,
    **_EVALUATED_AT_224,
    "optimizer.weight_decay": 0.05,
    "optimizer.ema_decay": 0.9999,
    "schedule.num_epochs": 300.0,
    "schedule.warmup_epochs": 20.0,
}
# In fp32 engine.py clips after every micro batch: T has one micro batch a step (32 x 128), the others have two.
_IN1K_SMALL: dict[str, Any] = {
    **_IN1K,
    "micro_batch_size": 64,
    "model.drop_path_rate": 0.4,
    "recipe.clipping": "paper",
}
_IN1K_BASE: dict[str, Any] = {**_IN1K_SMALL, "model.drop_path_rate": 0.5}
_IN22K: dict[str, Any] = {
    **_PRETRAINING,
    "evaluation": None,  # --disable_eval true
    "micro_batch_size": 32,
    "model.drop_path_rate": 0.2,
    "optimizer.weight_decay": 0.1,
    "optimizer.ema_decay": None,
    "recipe.clipping": "paper",
    "schedule.num_epochs": 90.0,
    "schedule.warmup_epochs": 5.0,
}
_FINETUNING: dict[str, Any] = {
    **_EVERYWHERE,
    **_EVALUATED_AT_384,
    "global_batch_size": 512,
    "data.transform.image_size": 384,
    "mixing.mixup_alpha": 0.0,
    "mixing.cutmix_alpha": 0.0,
    "model.drop_path_rate": 0.4,
    "optimizer.clip_grad_norm": 1.0,
    "optimizer.ema_decay": 0.9999,
    "optimizer.layer_decay": 0.7,
    "optimizer.weight_decay": 1e-8,
    "precision": "fp32",
    "recipe.clipping": "standard",
    "schedule.num_epochs": 30.0,
    "schedule.peak_lr": 5e-5,
    "schedule.warmup_epochs": 0.0,
    "start.weights": "raw",  # pretraining on 22K keeps no average
}


def _row(shared: Mapping[str, Any], name: str, *, clip: float, **others: Any) -> dict[str, Any]:
    return {**shared, "model.name": name, "optimizer.clip_grad_norm": clip, **others}


_TINY = {"micro_batch_size": 128, "model.drop_path_rate": 0.2, "recipe.clipping": "standard"}
_M12 = {"data.transform.rand_augment": "rand-m12-mstd0.5-inc1"}
_M15 = {"data.transform.rand_augment": "rand-m15-mstd0.5-inc1"}

PUBLISHED: dict[str, dict[str, Any]] = {
    "in1k_tiny_7x7": _row(_IN1K, "hornet_tiny_7x7", clip=100.0, **_TINY),
    "in1k_tiny_gf": _row(_IN1K, "hornet_tiny_gf", clip=1.0, **_TINY),
    "in1k_small_7x7": _row(_IN1K_SMALL, "hornet_small_7x7", clip=5.0),
    "in1k_small_gf": _row(_IN1K_SMALL, "hornet_small_gf", clip=1.0, **_M12),
    "in1k_base_7x7": _row(_IN1K_BASE, "hornet_base_7x7", clip=5.0),
    "in1k_base_gf": _row(_IN1K_BASE, "hornet_base_gf", clip=1.0, **_M15),
    "in22k_large_7x7": _row(_IN22K, "hornet_large_7x7", clip=5.0),
    "in22k_large_gf": _row(_IN22K, "hornet_large_gf", clip=1.0),
    "in1k_384_large_7x7": _row(_FINETUNING, "hornet_large_7x7", clip=1.0),
    # The original's hornet_large_gf_img384; either name is shaped for image_size, and so the same network.
    "in1k_384_large_gf": _row(_FINETUNING, "hornet_large_gf", clip=1.0),
}

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
