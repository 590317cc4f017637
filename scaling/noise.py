"""How far runs scatter: sigma, between the seeds of a cell; tau, what the seeds of a cell share and the law has not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from scaling.measurements import Array

LEAST_SD = 1e-7
"""No metric is known to more digits."""
OUTLYING = 3.0
"""Robust standard deviations beyond which a residual counts as no more, or one outlier would be everybody's noise."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Standard deviations of residuals: of log y (so 0.01 is 1 %), or of y where residuals are plain."""

    sigma: float | None
    """Of a run about its cell; None where no cell has two seeds."""
    tau: float
    """Of a cell about the law. Without sigma it holds both."""

    def of_cells(self, num_runs: NDArray[np.int64]) -> Array:
        """Compute the standard deviation of each cell's mean (n,)."""
        by_seeds = (self.sigma or 0.0) ** 2 / num_runs
        return np.sqrt(by_seeds + self.tau**2 + LEAST_SD**2)

    def of_mean(self, num_runs: int) -> float:
        """Compute the standard deviation of the mean of a new cell's runs."""
        return float(self.of_cells(np.array([num_runs]))[0])


def estimate_sigma(values: Array) -> float | None:
    """Pool the variance within cells (n, m), NaN where a run is not; None without a cell of two.

    Runs beyond three robust standard deviations of their cell's mean count as three.
    """
    values = values[np.isfinite(values).sum(axis=1) > 1]
    if not len(values):
        return None
    counts = np.isfinite(values).sum(axis=1, keepdims=True)
    alike = (values - np.nanmean(values, axis=1, keepdims=True)) * np.sqrt(counts / (counts - 1))  # sigma each
    clipped = _clip(alike, 1.4826 * float(np.nanmedian(np.abs(alike))))
    return float(np.sqrt(np.nansum(clipped**2 * (counts - 1) / counts) / (counts - 1).sum()))


def estimate_tau(residuals: Array, slope: Array, *, sigma: float | None, num_runs: NDArray[np.int64]) -> float:
    """REML's tau from residuals of cell means (n,) and their gradients (n, p), in the units of sigma.

    Residuals beyond three robust standard deviations count as three.
    """
    freedom = len(residuals) - slope.shape[1]
    spread = 1.4826 * np.median(np.abs(residuals)) * np.sqrt(len(residuals) / freedom)
    clipped = _clip(residuals, float(spread))
    seeds = (sigma or 0.0) ** 2 / num_runs + LEAST_SD**2
    columns, _ = np.linalg.qr(slope)  # parameters that do nothing do no harm

    def deviance(log_tau: float) -> float:
        variance = seeds + np.exp(2 * log_tau)
        root = columns / np.sqrt(variance)[:, None]
        information = root.T @ root
        bent = root.T @ (clipped / np.sqrt(variance))
        quadratic = (clipped**2 / variance).sum() - bent @ np.linalg.solve(information, bent)
        return float(np.log(variance).sum() + np.linalg.slogdet(information)[1] + quadratic)

    scale = np.sqrt((clipped**2).sum() / freedom) + LEAST_SD
    found = minimize_scalar(deviance, bounds=(np.log(scale) - 12, np.log(scale) + 2), method="bounded")
    tau = float(np.exp(found.x))
    return tau if deviance(found.x) < deviance(-40.0) else 0.0


def _clip(residuals: Array, spread: float) -> Array:
    limit = OUTLYING * spread
    return np.clip(residuals, -limit, limit) if spread > 0 else residuals
