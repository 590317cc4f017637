"""The published recipes, by our keys.

HorNet: raoyongming/HorNet @ac9e210, the commands of TRAINING.md over the defaults of main.py. TRAINING.md has no
command for finetuning at 224 pixels. Where the repository contradicts itself, README training T 7x7 with a clip of 5
and TRAINING.md with 100, TRAINING.md stands here. Peers: facebookresearch/ConvNeXt @231af90, the commands of
TRAINING.md over the defaults of main.py, which HorNet's code comes from; microsoft/Swin-Transformer @00f2800, configs/
over the defaults of config.py, learning rates times batch / 512 as its main.py has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
    "model.head_init_scale": 1.0,
    "model.layer_scale_init": 1e-6,
    "optimizer.betas": [0.9, 0.999],
    "optimizer.epsilon": 1e-8,
    "schedule.min_lr": 1e-6,
    "schedule.shape": "cosine",
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
    "in1k_384_large_gf": _row(_FINETUNING, "hornet_large_gf", clip=1.0, **{"model.resize": "bilinear"}),
}

# ConvNeXt clips nothing, and its micro batch is what its commands give a GPU.
_CONVNEXT_IN1K: dict[str, Any] = {**_IN1K, "micro_batch_size": 128, "recipe.clipping": "standard"}
_CONVNEXT_IN22K: dict[str, Any] = {
    **_IN22K,
    "model.drop_path_rate": 0.1,
    "optimizer.weight_decay": 0.05,
    "recipe.clipping": "standard",
}
_CONVNEXT_FINETUNING: dict[str, Any] = {
    **_FINETUNING,
    "micro_batch_size": 16,
    "model.head_init_scale": 0.001,
    "model.drop_path_rate": 0.3,
    "optimizer.ema_decay": None,
    "optimizer.layer_decay": 0.8,
}
# Swin runs in fp16 under autocast with scaled losses, for which there is no key here; it scales no layers and no head.
_WITHOUT = (
    "model.head_init_scale",
    "model.layer_scale_init",
    "zero.precision",
    "precision",
    "optimizer.layer_decay",
)
_SWIN_IN1K: dict[str, Any] = {
    **{key: value for key, value in _IN1K.items() if key not in _WITHOUT},
    "global_batch_size": 1024,
    "micro_batch_size": 128,
    "optimizer.ema_decay": None,
    "recipe.clipping": "standard",
    "schedule.peak_lr": 1e-3,
    "schedule.min_lr": 1e-5,
}
_SWIN_IN22K: dict[str, Any] = {
    **{key: value for key, value in _SWIN_IN1K.items() if key != "micro_batch_size"},
    "global_batch_size": 4096,
    "model.drop_path_rate": 0.2,
    "schedule.num_epochs": 90.0,
    "schedule.warmup_epochs": 5.0,
}
# get_started.md finetunes with 8 GPUs x 64 images x 2 micro steps. Mixing is as in pretraining.
_SWIN_FINETUNING: dict[str, Any] = {
    **{key: value for key, value in _SWIN_IN1K.items() if key != "micro_batch_size"},
    **_EVALUATED_AT_384,
    "data.transform.image_size": 384,
    "model.arguments.window_size": 12,
    "model.drop_path_rate": 0.2,
    "optimizer.layer_decay": None,
    "optimizer.weight_decay": 1e-8,
    "schedule.num_epochs": 30.0,
    "schedule.peak_lr": 4e-5,
    "schedule.min_lr": 4e-7,
    "schedule.warmup_epochs": 5.0,
    "start.weights": "raw",
}


def _peer(shared: Mapping[str, Any], name: str, rate: float | None = None, *, clip: float | None) -> dict[str, Any]:
    rates = {} if rate is None else {"model.drop_path_rate": rate}
    return {**shared, "model.name": name, "optimizer.clip_grad_norm": clip, **rates}


PUBLISHED |= {
    "in1k_tiny_convnext": _peer(_CONVNEXT_IN1K, "convnext_tiny", 0.1, clip=None),
    "in1k_small_convnext": _peer(_CONVNEXT_IN1K, "convnext_small", 0.4, clip=None),
    "in1k_base_convnext": _peer(_CONVNEXT_IN1K, "convnext_base", 0.5, clip=None),
    "in22k_large_convnext": _peer(_CONVNEXT_IN22K, "convnext_large", clip=None),
    "in1k_384_large_convnext": _peer(_CONVNEXT_FINETUNING, "convnext_large", clip=None),
    "in1k_tiny_swin": _peer(_SWIN_IN1K, "swin_tiny_patch4_window7_224", 0.2, clip=5.0),
    "in1k_small_swin": _peer(_SWIN_IN1K, "swin_small_patch4_window7_224", 0.3, clip=5.0),
    "in1k_base_swin": _peer(_SWIN_IN1K, "swin_base_patch4_window7_224", 0.5, clip=5.0),
    "in22k_large_swin": _peer(_SWIN_IN22K, "swin_large_patch4_window7_224", clip=5.0),
    "in1k_384_large_swin": _peer(_SWIN_FINETUNING, "swin_large_patch4_window7_224", clip=5.0),
}
