"""From pretraining to finetuning: the error after against the loss before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from scaling.fitting import Estimation, Fit, fit
from scaling.laws import saturating
from scaling.measurements import Measurement

LOSS = "pretraining loss"
"""The factor's name in measurements of finetuned runs."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Transfer:
    """How well the loss of pretraining tells the error of finetuning."""

    spearman: float
    """Rank correlation over runs."""
    fit: Fit
    """error = E + A loss^g; g is minus alpha."""


def fit_transfer(measurements: Sequence[Measurement], *, estimation: Estimation | None = None) -> Transfer:
    """Measurements are finetuned runs, each with the factor `pretraining loss` of its parent."""
    with_result = [each for each in measurements if each.value is not None]
    fitted = fit(measurements, saturating(LOSS), estimation=estimation)
    pairs = np.array([[each.factors[LOSS], each.value] for each in with_result], dtype=np.float64)
    return Transfer(spearman=float(spearmanr(pairs[:, 0], pairs[:, 1]).statistic), fit=fitted)
