"""Predictions: written down with their interval before a run starts, judged after it has ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hornet.errors import UserError
from scaling.measurements import Measurement
from scaling.resampling import Resampled, hold_images


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a run will give, as plain data."""

    name: str
    """The run, or the cell if it has several seeds."""
    factors: dict[str, float]
    value: float
    low: float
    high: float
    level: float
    log_sd: float
    """Standard deviation of the logarithm of what is foretold."""
    num_runs: int
    """Seeds whose mean is foretold."""
    law: str
    estimation: str
    scheme: str
    data_digest: str
    """Which measurements the fit has seen."""
    runs_seen: tuple[str, ...]
    written_at: str
    """ISO 8601; the time is the caller's."""

    def as_json(self) -> dict[str, Any]:
        """Values that JSON can hold."""
        return {**asdict(self), "runs_seen": list(self.runs_seen)}


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """How a prediction came true."""

    prediction: Prediction
    measured: float
    is_inside: bool
    z: float
    """log(measured / predicted) in standard deviations."""


def predict(
    resampled: Resampled,
    *,
    name: str,
    factors: Mapping[str, float],
    written_at: str,
    num_runs: int = 1,
    evaluation_sd: float = 0.0,
    seed: int = 0,
) -> Prediction:
    """Foretell the mean of `num_runs` runs at a point, measured on the images that the fit's runs were measured on.

    The interval holds what the fit does not know, the scatter of runs, the misfit of a cell, and `evaluation_sd`, the
    relative standard deviation by which a validation set of this size errs, for a run on another one. Validation images
    that were sampled are held: all runs have the same ones.
    """
    resampled = hold_images(resampled)
    fit = resampled.fit
    value = fit.predict(factors)
    curve = np.log(np.maximum(resampled.predict([factors])[:, 0], 1e-300))
    of_mean = fit.noise.of_mean(num_runs)
    if fit.estimation.residual == "plain":
        of_mean /= value
    sd = float(np.hypot(of_mean, evaluation_sd))
    noisy = curve[:, None] + sd * np.random.default_rng(seed).standard_normal((len(curve), 20))
    low, high = np.exp(np.quantile(noisy, [(1 - resampled.level) / 2, (1 + resampled.level) / 2]))
    return Prediction(
        name=name,
        factors={key: float(factors[key]) for key in fit.law.factors},
        value=value,
        low=float(low),
        high=float(high),
        level=resampled.level,
        log_sd=float(np.hypot(curve.std(ddof=1), sd)),
        num_runs=num_runs,
        law=fit.law.name,
        estimation=str(fit.estimation),
        scheme=resampled.scheme,
        data_digest=fit.cells.digest,
        runs_seen=tuple(sorted(run for names in fit.cells.names for run in names)),
        written_at=written_at,
    )


def read_prediction(content: Mapping[str, Any]) -> Prediction:
    """Invert `Prediction.as_json`."""
    try:
        return Prediction(**{**content, "runs_seen": tuple(content["runs_seen"])})
    except (TypeError, KeyError) as error:
        raise UserError(f"this is no prediction that `predict` wrote: {error}") from error


def judge(prediction: Prediction, measurement: Measurement) -> Judgement:
    """Compare with a run, or with the mean of a cell's runs as one measurement.

    Raises:
        UserError: the run has no result, other factors, or was among the data of the fit.

    """
    if measurement.value is None:
        raise UserError(f"{measurement.name} has no result, so its prediction cannot be judged yet")
    if measurement.name in prediction.runs_seen:
        raise UserError(f"{measurement.name} was among the data of the fit: that is no prediction")
    for name, number in prediction.factors.items():
        if not np.isclose(measurement.factors.get(name, np.nan), number, rtol=1e-6):
            raise UserError(
                f"{measurement.name}: {name} is {measurement.factors.get(name)}, but {number:g} was foretold"
            )
    z = float(np.log(measurement.value / prediction.value) / prediction.log_sd)
    inside = prediction.low <= measurement.value <= prediction.high
    return Judgement(prediction=prediction, measured=measurement.value, is_inside=inside, z=z)
