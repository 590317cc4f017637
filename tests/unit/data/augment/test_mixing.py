"""Against timm's Mixup, seeded alike, and against the definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.mixup import Mixup
from torch import Tensor
from torchvision import transforms

from hornet.batch import Batch
from hornet.data.augment.mixing import fill_boxes, mix_images, mix_targets, normalise, prepare, sample_mix
from hornet.data.augment.sampling import unchanged_randomness
from hornet.data.config import MixingConfig
from hornet.errors import UserError

CPU = torch.device("cpu")
NUM_CLASSES = 7


def make_batch(size: int = 6, edge: int = 16, boxes: Tensor | None = None) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (size, edge, edge, 3), dtype=torch.uint8, generator=generator)
    return Batch(
        images_bchw=images.permute(0, 3, 1, 2),
        labels=torch.arange(size) % NUM_CLASSES,
        erase_boxes=torch.zeros(size, 4, dtype=torch.int32) if boxes is None else boxes,
        key_hashes=torch.arange(size),
        keys=("",) * size,
        is_real=torch.ones(size, dtype=torch.bool),
        bad_samples=(),
    )


def settings_of(**changes: Any) -> MixingConfig:
    return MixingConfig(**{"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "label_smoothing": 0.1} | changes)


alphas = st.sampled_from([(0.8, 1.0), (0.8, 0.0), (0.0, 1.0)])


@given(st.integers(0, 2**63 - 1), alphas, st.sampled_from([0.5, 1.0]), st.sampled_from([0.0, 0.1]))
def test_images_and_targets_are_timms(
    seed: int, alpha: tuple[float, float], probability: float, smoothing: float
) -> None:
    timms = Mixup(
        mixup_alpha=alpha[0],
        cutmix_alpha=alpha[1],
        prob=probability,
        switch_prob=0.5,
        label_smoothing=smoothing,
        num_classes=NUM_CLASSES,
    )
    config = settings_of(
        mixup_alpha=alpha[0], cutmix_alpha=alpha[1], probability=probability, label_smoothing=smoothing
    )
    batch = make_batch()
    found = prepare(batch, config=config, num_classes=NUM_CLASSES, device=CPU, seed=seed)
    with unchanged_randomness():
        np.random.seed([seed & 0xFFFFFFFF, seed >> 32])
        images = normalise(batch, mean=config.mean, std=config.std, device=CPU)
        expected_images, expected_targets = timms(images, batch.labels)
    torch.testing.assert_close(found.images_bchw, expected_images, rtol=0, atol=0)
    torch.testing.assert_close(found.targets_bk, expected_targets, rtol=0, atol=1e-7)
    torch.testing.assert_close(found.targets_bk.sum(1), torch.ones(6))


def test_cutmix_target_is_the_share_of_pixels_kept() -> None:
    config = settings_of(mixup_alpha=0.0)
    for seed in range(40):
        mix = sample_mix(config, image_shape=(16, 12), seed=seed)
        image = torch.stack([torch.zeros(3, 16, 12), torch.ones(3, 16, 12)])
        mixed = mix_images(image, mix)
        assert mix.share == pytest.approx(1 - float(mixed[0].mean()))


def test_targets_by_hand() -> None:
    config = settings_of(cutmix_alpha=0.0)
    mix = sample_mix(config, image_shape=(4, 4), seed=3)
    targets = mix_targets(torch.tensor([0, 2]), mix, num_classes=4, label_smoothing=0.2)
    share = mix.share
    assert targets[0].tolist() == pytest.approx([0.05 + 0.8 * share, 0.05, 0.05 + 0.8 * (1 - share), 0.05])


def test_without_mixing_targets_are_smoothed_and_images_normalised_as_torchvision_does() -> None:
    config = MixingConfig(label_smoothing=0.1)
    batch = make_batch()
    found = prepare(batch, config=config, num_classes=NUM_CLASSES, device=CPU, seed=0)
    standard = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)]
    )
    expected = torch.stack([standard(image.permute(1, 2, 0).numpy()) for image in batch.images_bchw])
    torch.testing.assert_close(found.images_bchw, expected, rtol=0, atol=2e-6)
    assert found.targets_bk[1, 1].item() == pytest.approx(0.9 + 0.1 / NUM_CLASSES)


def test_images_stay_channels_last() -> None:
    found = prepare(make_batch(), config=settings_of(), num_classes=NUM_CLASSES, device=CPU, seed=0)
    assert found.images_bchw.is_contiguous(memory_format=torch.channels_last)
    assert found.images_bchw.dtype == found.targets_bk.dtype == torch.float32


def test_noise_fills_the_boxes_and_nothing_else() -> None:
    boxes = torch.tensor([[0, 0, 0, 0], [4, 8, 40, 20]], dtype=torch.int32)
    images = torch.full((2, 3, 64, 64), 9.0)
    fill_boxes(images, boxes, seed=1)
    inside = torch.zeros(2, 64, 64, dtype=torch.bool)
    inside[1, 4:44, 8:28] = True
    noise = images.permute(0, 2, 3, 1)[inside]
    assert (images.permute(0, 2, 3, 1)[~inside] == 9).all()
    assert abs(float(noise.mean())) < 0.1
    assert abs(float(noise.std()) - 1) < 0.1
    assert noise.unique().numel() == noise.numel()  # each pixel and channel its own


def test_everything_follows_from_the_seed() -> None:
    batch = make_batch(boxes=torch.tensor([[1, 1, 5, 5]] * 6, dtype=torch.int32))

    def run(seed: int) -> Tensor:
        state = torch.default_generator.get_state()
        images = prepare(batch, config=settings_of(), num_classes=NUM_CLASSES, device=CPU, seed=seed).images_bchw
        assert torch.equal(state, torch.default_generator.get_state())
        return images

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_the_batch_itself_is_not_changed() -> None:
    batch = make_batch()
    before = batch.images_bchw.clone()
    prepare(batch, config=settings_of(), num_classes=NUM_CLASSES, device=CPU, seed=0)
    assert torch.equal(batch.images_bchw, before)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"std": (0.2, 0.0, 0.2)}, r"std: must be over 0 in each channel"),
        ({"mixup_alpha": -1.0}, "mixup_alpha: must be 0 or more, not -1.0"),
        ({"probability": 2.0}, "probability: must be a probability from 0 to 1, not 2.0"),
        ({"switch_probability": -0.5}, "switch_probability: must be a probability"),
        ({"label_smoothing": 1.0}, "label_smoothing: must be at least 0 and under 1, not 1.0"),
    ],
)
def test_bad_settings_are_named(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=f"(?m)^{problem}"):
        settings_of(**changes)
