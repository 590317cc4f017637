import math

import numpy as np
import pytest

from hornet.config import ConfigError, build_config
from hornet.training.config import ScheduleConfig, StepScheduleConfig
from hornet.training.schedule import PolySchedule, plan_schedule


def original_cosine(base, final, epochs, steps_per_epoch, warmup_epochs):
    """The formula of the original's cosine_scheduler, in numpy."""
    warmup = np.linspace(0, base, warmup_epochs * steps_per_epoch)
    rest = np.arange(epochs * steps_per_epoch - len(warmup))
    cosine = [final + 0.5 * (base - final) * (1 + math.cos(math.pi * i / len(rest))) for i in rest]
    return np.concatenate([warmup, cosine])


@pytest.mark.parametrize(("epochs", "warmup"), [(3, 1), (2, 0)])
def test_equals_the_original(epochs, warmup):
    config = ScheduleConfig(num_epochs=epochs, warmup_epochs=warmup, peak_lr=4e-3, min_lr=1e-6)
    schedule = plan_schedule(config, steps_per_epoch=7)
    ours = [schedule.lr_at(step) for step in range(schedule.num_steps)]
    np.testing.assert_allclose(ours, original_cosine(4e-3, 1e-6, epochs, 7, warmup), rtol=1e-12)


def test_the_22k_recipe_has_the_published_number_of_steps():
    # 90 epochs of 14,197,122 images in batches of 4096, the last partial batch dropped: facts of the recipe
    config = ScheduleConfig(num_epochs=90, warmup_epochs=5, peak_lr=4e-3)
    assert plan_schedule(config, steps_per_epoch=14_197_122 // 4096).num_steps == 311_940


COOLDOWNS = {  # by hand: 10 steps, 2 of warm-up, 4 of cooldown at progress 0, 1/4, 1/2, 3/4; peak 1, least 0.2
    "1-sqrt": [1, 0.2 + 0.8 * 0.5, 0.2 + 0.8 * 0.292893219, 0.2 + 0.8 * 0.133974596],
    "linear": [1, 0.8, 0.6, 0.4],
}


def plan_wsd(**changes):
    values = {"num_epochs": 1, "warmup_epochs": 0.2, "peak_lr": 1.0, "min_lr": 0.2, "shape": "wsd"}
    return plan_schedule(ScheduleConfig(**{**values, **changes}), steps_per_epoch=10)


@pytest.mark.parametrize("cooldown", COOLDOWNS)
def test_wsd_rises_stays_and_cools_down(cooldown):
    schedule = plan_wsd(cooldown_share=0.4, cooldown=cooldown)
    assert schedule.num_stable_steps == 6
    rates = [schedule.lr_at(step) for step in range(10)]
    assert rates[:6] == [0, 1, 1, 1, 1, 1], "exactly, whatever min_lr is"
    assert rates[6:] == pytest.approx(COOLDOWNS[cooldown], rel=1e-8)


def test_before_the_cooldown_the_length_does_not_matter():
    short, long = plan_wsd(num_epochs=3), plan_wsd(num_epochs=7, min_lr=0.0, cooldown="linear")
    assert (short.num_stable_steps, long.num_stable_steps) == (24, 56)
    assert [short.lr_at(step) for step in range(24)] == [long.lr_at(step) for step in range(24)]
    assert plan_wsd(cooldown_share=0.01).num_stable_steps == 9, "a cooldown has a step at least"


def test_a_peak_that_is_no_number_is_not_laid_on_the_minimum():
    with pytest.raises(ValueError, match="peak_lr: must be 0 or more, and finite, not nan") as caught:
        ScheduleConfig(num_epochs=3, peak_lr=math.nan)
    assert "min_lr" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_epochs": 0}, "num_epochs: must be above 0"),
        ({"warmup_epochs": 4}, "warmup_epochs: must lie in"),
        ({"min_lr": 1}, "min_lr: must lie in"),
        ({"shape": "wsd", "cooldown_share": 0}, "cooldown_share: must be over 0 and at most 1, not 0"),
        ({"shape": "wsd", "cooldown_share": 1.5}, "cooldown_share: must be over 0 and at most 1, not 1.5"),
        (
            {"shape": "wsd", "cooldown_share": 0.5, "warmup_epochs": 2},
            "warmup_epochs: must end before the cooldown, after 1.5 epochs, not 2",
        ),
        ({"cooldown_share": 0.5}, "cooldown: a cosine has none; set shape=wsd, or leave cooldown and cooldown_share"),
        ({"cooldown": "linear"}, "cooldown: a cosine has none"),
    ],
)
def test_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        ScheduleConfig(**{"num_epochs": 3, "peak_lr": 0.1, **changes})


def lr_of_mmcv(step, *, num_steps, base, power, least, warmup_steps, warmup_ratio):
    """mmcv 1.x's PolyLrUpdaterHook with a linear warm-up, which the original's configs ask for."""
    coefficient = (1 - step / num_steps) ** power
    regular = (base - least) * coefficient + least
    if step >= warmup_steps:
        return regular
    k = (1 - step / warmup_steps) * (1 - warmup_ratio)
    return regular * (1 - k)


@pytest.mark.parametrize("power", [1.0, 0.9])
def test_the_poly_schedule_is_mmcv_s(power):
    config = StepScheduleConfig(num_steps=160, peak_lr=1e-4, warmup_steps=15, warmup_factor=1e-6, power=power)
    expected = [
        lr_of_mmcv(step, num_steps=160, base=1e-4, power=power, least=0.0, warmup_steps=15, warmup_ratio=1e-6)
        for step in range(160)
    ]
    schedule = PolySchedule(config=config)
    assert schedule.num_steps == 160
    np.testing.assert_allclose([schedule.lr_at(step) for step in range(160)], expected, rtol=1e-12)


def test_a_staircase_is_mmcv_s_step_policy():
    """The original's for COCO: a tenth from epoch 27 on, a hundredth from 33 on; here epochs of 4 steps."""
    config = StepScheduleConfig(num_steps=144, peak_lr=2e-4, warmup_steps=5, warmup_factor=1e-3, drop_steps=(108, 132))
    rates = [PolySchedule(config=config).lr_at(step) for step in range(144)]
    assert rates[0] == pytest.approx(2e-4 * 1e-3)
    assert rates[1] == pytest.approx(2e-4 * (1 - (1 - 1 / 5) * (1 - 1e-3)))
    np.testing.assert_allclose(rates[5:108], 2e-4, rtol=1e-12)
    np.testing.assert_allclose(rates[108:132], 2e-5, rtol=1e-12)
    np.testing.assert_allclose(rates[132:], 2e-6, rtol=1e-12)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"drop_steps": [10]}, r"drop_steps: must be rising steps between 0 and num_steps \(10\), not \[10\]"),
        ({"drop_steps": [5, 3]}, r"drop_steps: must be rising steps"),
        ({"drop_steps": [5], "power": 0.9}, "drop_steps: a staircase has no power and no min_lr"),
        ({"num_steps": 0}, "num_steps: must be at least 1"),
        ({"warmup_steps": 11}, r"warmup_steps: must lie in 0..num_steps \(10\)"),
        ({"warmup_factor": 2}, "warmup_factor: must lie in 0..1"),
        ({"power": 0}, "power: must be above 0"),
        ({"min_lr": 1.0}, "min_lr: must lie in 0..peak_lr"),
        ({"peak_lr": -1}, "peak_lr: must be 0 or more"),
    ],
)
def test_settings_of_the_poly_schedule_are_checked(values, message):
    with pytest.raises(ConfigError, match=message):
        build_config(StepScheduleConfig, {"num_steps": 10, "peak_lr": 0.1, **values}, source="test")
