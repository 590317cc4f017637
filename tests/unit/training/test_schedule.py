import math

import numpy as np
import pytest

from hornet.training.config import ScheduleConfig
from hornet.training.schedule import plan_schedule


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
    ],
)
def test_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        ScheduleConfig(**{"num_epochs": 3, "peak_lr": 0.1, **changes})
