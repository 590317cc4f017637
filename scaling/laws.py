"""The laws, by name; `law.py` says what a law is.

Sources: power and saturating power laws as in Alabdulmohsin et al. 2022 (their M1, M2; `bounded` is M4 with its own
alpha 1); `shifted` Zhai et al. 2022; `chinchilla` Hoffmann et al. 2022; `kaplan` Kaplan et al. 2020, equation 1.5;
`repeated` Muennighoff et al. 2023, for repeated data; `bounded_joint` in the spirit of Rosenfeld et al. 2020;
`three_term` arXiv 2605.09189, with the level of chance fixed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hornet.errors import UserError
from scaling.law import EXPONENTS, Law, Units
from scaling.measurements import Array


@dataclass(frozen=True, kw_only=True)
class ShiftedLaw(Law):
    """E + A (x + shift)^-alpha: the second saturation, for small x."""

    @property
    def shape(self) -> tuple[str, ...]:
        """Names of what is not linear."""
        return ("alpha", "shift")

    @property
    def logarithms(self) -> frozenset[str]:
        """See `Law.logarithms`."""
        return frozenset({"shift"})

    def _shape_bounds(self, name: str) -> tuple[float, float]:
        return (-12.0, 8.0) if name == "shift" else EXPONENTS

    def shape_starts(self, name: str) -> tuple[float, float]:
        """Between what a search for this shape begins."""
        return (-5.0, 2.0) if name == "shift" else (0.03, 1.5)

    def log_terms(self, theta: Array, z: Array) -> tuple[Array, Array]:
        """See `Law.log_terms`."""
        first = int(self.has_floor)
        log_a, alpha, shift = (theta[:, None, first + k] for k in range(3))
        log_sum = np.logaddexp(z[..., 0], shift)
        gradients = np.zeros((1, *log_sum.shape, theta.shape[1]))
        gradients[0, ..., first] = 1
        gradients[0, ..., first + 1] = -log_sum
        gradients[0, ..., first + 2] = -alpha * np.exp(shift - log_sum)
        return (log_a - alpha * log_sum)[None], gradients

    def in_user_units(self, theta: Array, units: Units) -> dict[str, Array]:
        """See `Law.in_user_units`; the shift has the unit of the factor."""
        found = super().in_user_units(theta, units)
        found["shift"] = np.exp(found["shift"] + units.centres[0])
        return found

    def _to_theta(self, name: str, number: float, units: Units) -> float:
        return float(np.log(number) - units.centres[0]) if name == "shift" else number


@dataclass(frozen=True, kw_only=True)
class RepeatedLaw(Law):
    """E + A N^-alpha + B D'^-beta, where D' = U + U R* (1 - exp(-R / R*)) and R = T / U - 1 repetitions.

    Factors are N, U (unique) and T (seen); of a set that is not seen whole, T counts as U. Not here: the same for
    parameters in excess (R_N*).
    """

    @property
    def shape(self) -> tuple[str, ...]:
        """Names of what is not linear."""
        return ("alpha", "beta", "R_star")

    @property
    def logarithms(self) -> frozenset[str]:
        """See `Law.logarithms`."""
        return frozenset({"R_star"})

    def _shape_bounds(self, name: str) -> tuple[float, float]:
        return (np.log(0.05), np.log(1e4)) if name == "R_star" else EXPONENTS

    def shape_starts(self, name: str) -> tuple[float, float]:
        """Between what a search for this shape begins."""
        return (np.log(0.5), np.log(300)) if name == "R_star" else (0.03, 1.5)

    def units(self, log_x: Array, y: Array) -> Units:
        """U and T share a centre: their ratio is the number of epochs."""
        plain = super().units(log_x, y)
        centres = plain.centres.copy()
        centres[2] = centres[1]
        return Units(centres=centres, scale=plain.scale)

    def log_terms(self, theta: Array, z: Array) -> tuple[Array, Array]:
        """See `Law.log_terms`."""
        first = int(self.has_floor)
        log_a, log_b, alpha, beta, log_r = (theta[:, None, first + k] for k in range(5))
        r_star = np.exp(log_r)
        repeats = np.maximum(np.exp(z[..., 2] - z[..., 1]) - 1, 0)
        decay = np.exp(-repeats / r_star)
        data = 1 + r_star * (1 - decay)
        log_data = np.minimum(z[..., 1], z[..., 2]) + np.log(data)
        by_r = (r_star * (1 - decay) - repeats * decay) / data  # d log D' / d log R*
        logs = np.stack([log_a - alpha * z[..., 0], log_b - beta * log_data])
        gradients = np.zeros((*logs.shape, theta.shape[1]))
        gradients[0, ..., first] = 1
        gradients[0, ..., first + 2] = -z[..., 0]
        gradients[1, ..., first + 1] = 1
        gradients[1, ..., first + 3] = -log_data
        gradients[1, ..., first + 4] = -beta * by_r
        return logs, gradients

    def in_user_units(self, theta: Array, units: Units) -> dict[str, Array]:
        """See `Law.in_user_units`."""
        found = super().in_user_units(theta, units)
        found["R_star"] = np.exp(found["R_star"])
        return found

    def _to_theta(self, name: str, number: float, units: Units) -> float:
        return float(np.log(number)) if name == "R_star" else number


@dataclass(frozen=True, kw_only=True)
class KaplanLaw(Law):
    """(A N^(-alpha / beta) + B / D)^beta: data and model joined in one power, without a floor."""

    def log_terms(self, theta: Array, z: Array) -> tuple[Array, Array]:
        """See `Law.log_terms`; the terms are those under the common power."""
        log_a, log_b, alpha, beta = (theta[:, None, k] for k in range(4))
        beta = _keep_from_zero(beta)
        ratio = alpha / beta
        logs = np.stack([log_a - ratio * z[..., 0], log_b - z[..., 1]])
        gradients = np.zeros((*logs.shape, theta.shape[1]))
        gradients[0, ..., 0] = gradients[1, ..., 1] = 1
        gradients[0, ..., 2] = -z[..., 0] / beta
        gradients[0, ..., 3] = ratio / beta * z[..., 0]
        return logs, gradients

    def evaluate(self, theta: Array, z: Array) -> tuple[Array, Array]:
        """See `Law.evaluate`."""
        beta = _keep_from_zero(theta[:, None, 3])
        logs, gradients = self.log_terms(theta, z)
        log_sum = np.logaddexp(logs[0], logs[1])
        shares = np.exp(logs - log_sum)
        y = np.exp(np.clip(beta * log_sum, -300, 300))
        slope = beta[..., None] * np.einsum("krn,krnp->rnp", shares, gradients)
        slope[..., 3] += log_sum
        return y, y[..., None] * slope

    def exponents_of_terms(self, parameters: Mapping[str, Array]) -> tuple[Array, ...]:
        """See `Law.exponents_of_terms`."""
        return parameters["alpha"] / parameters["beta"], np.ones_like(parameters["beta"])

    def unit_of_terms(self, theta: Array, units: Units) -> Array:
        """See `Law.unit_of_terms`."""
        return np.asarray(units.scale ** (1 / theta[:, 3]))

    def columns(self, shape: Array, z: Array, y: Array) -> tuple[Array, Array]:
        """y^(1/beta) is linear in the amplitudes."""
        alpha, beta = shape
        return np.exp(np.column_stack([-alpha / beta * z[:, 0], -z[:, 1]])), y ** (1 / beta)

    def shape_starts(self, name: str) -> tuple[float, float]:
        """Between what a search for this shape begins."""
        return 0.05, 1.0

    def in_user_units(self, theta: Array, units: Units) -> dict[str, Array]:
        """See `Law.in_user_units`."""
        log_a, log_b, alpha, beta = theta.T
        log_scale = np.log(units.scale) / beta
        return {
            "A": np.exp(log_a + alpha / beta * units.centres[0] + log_scale),
            "B": np.exp(log_b + units.centres[1] + log_scale),
            "alpha": alpha,
            "beta": beta,
        }


_ONE = (("A", ((0, "alpha", 1),)),)
_TWO = (("A", ((0, "alpha", 1),)), ("B", ((1, "beta", 1),)))


def power(factor: str = "C") -> Law:
    """Return the law A x^-alpha of one factor."""
    return Law(name="power", factors=(factor,), terms=_ONE, has_floor=False)


def saturating(factor: str = "C") -> Law:
    """Make E + A x^-alpha."""
    return Law(name="saturating", factors=(factor,), terms=_ONE)


def bounded(factor: str = "C", *, chance: float) -> Law:
    """(E + P A x^-alpha) / (1 + A x^-alpha): between the floor E and chance P."""
    return Law(name="bounded", factors=(factor,), terms=_ONE, chance=_check_chance(chance))


def shifted(factor: str = "C") -> Law:
    """E + A (x + shift)^-alpha."""
    return ShiftedLaw(name="shifted", factors=(factor,), terms=_ONE)


def chinchilla(size: str = "N", data: str = "D") -> Law:
    """E + A N^-alpha + B D^-beta."""
    return Law(name="chinchilla", factors=(size, data), terms=_TWO)


def bounded_joint(size: str = "N", data: str = "D", *, chance: float) -> Law:
    """(E + P S) / (1 + S), S = A N^-alpha + B D^-beta."""
    return Law(name="bounded_joint", factors=(size, data), terms=_TWO, chance=_check_chance(chance))


def kaplan(size: str = "N", data: str = "D") -> Law:
    """Make (A N^(-alpha / beta) + B / D)^beta."""
    return KaplanLaw(name="kaplan", factors=(size, data), terms=_TWO, has_floor=False)


def repeated(size: str = "N", unique: str = "U", seen: str = "T") -> Law:
    """E + A N^-alpha + B D'^-beta with D' the worth of repeated data."""
    return RepeatedLaw(name="repeated", factors=(size, unique, seen), terms=_TWO)


def three_term(size: str = "N", seen: str = "T", unique: str = "U", *, chance: float) -> Law:
    """(E + P S) / (1 + S), S = A N^-alpha + B T^-beta + G N^gamma U^-delta: capacity, training, overfitting."""
    third = ("G", ((0, "gamma", -1), (2, "delta", 1)))
    terms = (*_TWO, third)
    return Law(name="three_term", factors=(size, seen, unique), terms=terms, chance=_check_chance(chance))


def _keep_from_zero(beta: Array) -> Array:
    return np.where(np.abs(beta) < 1e-6, 1e-6, beta)


def _check_chance(chance: float) -> float:
    if not (np.isfinite(chance) and chance > 0):
        raise UserError(f"chance: {chance:g}, but the value of chance is positive: log K, or 1 - 1/K, for K classes")
    return float(chance)
