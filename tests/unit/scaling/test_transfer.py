import numpy as np
import pytest

from scaling.measurements import Measurement
from scaling.transfer import LOSS, fit_transfer


def test_the_error_after_finetuning_follows_the_loss_before():
    losses = np.linspace(1.5, 4.0, 14)
    runs = [
        Measurement(name=f"ft{i}", factors={LOSS: loss}, value=float(0.05 + 0.02 * loss**1.7))
        for i, loss in enumerate(losses)
    ]
    found = fit_transfer([*runs, Measurement(name="failed", factors={LOSS: 9.0}, value=None)])
    assert found.spearman == pytest.approx(1)
    assert found.fit.parameters == pytest.approx({"E": 0.05, "A": 0.02, "alpha": -1.7}, rel=1e-4)
    assert "failed" in found.fit.flags[-1].text
