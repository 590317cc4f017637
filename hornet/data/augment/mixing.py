"""Whole micro batches on the device: uint8 to float, erased rectangles, mixup and cutmix with soft targets.

The mathematics of timm's RandomErasing (mode pixel) and Mixup (mode batch). Draws that are few come from numpy's frozen
legacy stream on the host, the noise from a generator of the device; the caller seeds both, by step and micro batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hornet.batch import Batch
from hornet.data.config import Channels, MixingConfig


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a model and a loss take."""

    images_bchw: Tensor
    """float32 (B, 3, H, W), normalised, channels-last in memory."""
    targets_bk: Tensor
    """float32 (B, K): the share of each class; rows sum to 1."""


@dataclass(frozen=True, kw_only=True)
class Mix:
    """How the images of a micro batch are mixed with those of the same batch in reverse order."""

    share: float
    """Of the image itself in its target; its partner has the rest."""
    box: tuple[int, int, int, int] | None
    """top, bottom, left, right (ends excluded) of what cutmix takes from the partner; None for mixup."""


def prepare(batch: Batch, *, config: MixingConfig, num_classes: int, device: torch.device, seed: int) -> Inputs:
    """Make a training micro batch: normalised, with noise in its erase boxes, mixed, with soft targets.

    `seed` names the micro batch, for instance by run, step and its number in the global batch; all draws derive from
    it.
    """
    images = normalise(batch, mean=config.mean, std=config.std, device=device)
    fill_boxes(images, batch.erase_boxes, seed=seed)
    mix = sample_mix(config, image_shape=images.shape[-2:], seed=seed)
    labels = batch.labels.to(device, non_blocking=True)
    return Inputs(
        images_bchw=mix_images(images, mix),
        targets_bk=mix_targets(labels, mix, num_classes=num_classes, label_smoothing=config.label_smoothing),
    )


def normalise(batch: Batch, *, mean: Channels, std: Channels, device: torch.device) -> Tensor:
    """Return (B, 3, H, W) float32 images on `device`, channels-last: all that evaluation needs."""
    images = batch.images_bchw.to(device, non_blocking=True).to(torch.float32)
    shift = torch.tensor(mean, device=device).mul_(255).view(1, 3, 1, 1)
    scale = torch.tensor(std, device=device).mul_(255).view(1, 3, 1, 1)
    return images.sub_(shift).div_(scale)


def fill_boxes(images_bchw: Tensor, boxes: Tensor, *, seed: int) -> None:
    """Fill each image's rectangle (top, left, height, width; height 0 for none) with normal noise, in place."""
    rows = [(row, box) for row, box in enumerate(boxes.tolist()) if box[2] > 0]
    if not rows:
        return
    generator = torch.Generator(images_bchw.device).manual_seed(seed)
    for row, (top, left, height, width) in rows:
        noise = torch.randn(3, height, width, generator=generator, device=images_bchw.device)
        images_bchw[row, :, top : top + height, left : left + width] = noise


def sample_mix(config: MixingConfig, *, image_shape: Sequence[int], seed: int) -> Mix:
    """Draw as timm's Mixup does in mode batch, draw for draw, from `numpy.random.RandomState`."""
    nothing = Mix(share=1.0, box=None)
    if config.mixup_alpha == 0 and config.cutmix_alpha == 0:
        return nothing
    random = np.random.RandomState([seed & 0xFFFFFFFF, seed >> 32])
    if random.rand() >= config.probability:
        return nothing
    is_cutmix = config.cutmix_alpha > 0
    if config.mixup_alpha > 0 and config.cutmix_alpha > 0:
        is_cutmix = random.rand() < config.switch_probability
    alpha = config.cutmix_alpha if is_cutmix else config.mixup_alpha
    share = float(random.beta(alpha, alpha))
    if share == 1.0 or not is_cutmix:
        return Mix(share=share, box=None)
    return _sample_cut(random, share, image_shape)


def mix_images(images_bchw: Tensor, mix: Mix) -> Tensor:
    """Mix each image with its partner, in place; return the same tensor."""
    if mix.share == 1.0:
        return images_bchw
    if mix.box is not None:
        top, bottom, left, right = mix.box
        images_bchw[:, :, top:bottom, left:right] = images_bchw[:, :, top:bottom, left:right].flip(0)
        return images_bchw
    partners = images_bchw.flip(0).mul_(1.0 - mix.share)
    return images_bchw.mul_(mix.share).add_(partners)


def mix_targets(labels: Tensor, mix: Mix, *, num_classes: int, label_smoothing: float) -> Tensor:
    """Return (B, K) float32 soft targets: smoothed one-hot rows, mixed with the partners' by `mix.share`."""
    spread = label_smoothing / num_classes
    targets = torch.full((len(labels), num_classes), spread, device=labels.device)
    targets.scatter_(1, labels.view(-1, 1), 1.0 - label_smoothing + spread)
    if mix.share == 1.0:
        return targets
    return targets * mix.share + targets.flip(0) * (1.0 - mix.share)


def _sample_cut(random: np.random.RandomState, share: float, image_shape: Sequence[int]) -> Mix:
    """Draw cutmix's box round a uniform centre; the share is corrected for what the borders cut off."""
    height, width = image_shape
    ratio = np.sqrt(1 - share)
    cut_height, cut_width = int(height * ratio), int(width * ratio)
    centre_y, centre_x = random.randint(0, height), random.randint(0, width)
    top, bottom = np.clip([centre_y - cut_height // 2, centre_y + (cut_height + 1) // 2], 0, height).tolist()
    left, right = np.clip([centre_x - cut_width // 2, centre_x + (cut_width + 1) // 2], 0, width).tolist()
    area = (bottom - top) * (right - left)
    return Mix(share=1.0 - area / float(height * width), box=(top, bottom, left, right))
