"""Laws: how the value of a metric follows from sizes, as pure functions with gradients.

A law sees z, logarithms of its factors from which a centre was taken, and gives y in units of the data's own scale
(`Units`), so that a change of units (parameters in millions) changes no prediction. In all laws

    floor            y = E + S
    no floor         y = S
    bounded by P     y = (E + P S) / (1 + S)        P is the value of chance: log K, or 1 - 1/K

and S is a sum of terms such as A N^-alpha. Theta is (E, logarithms of the amplitudes, shape), without E where a law has
no floor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hornet.errors import UserError
from scaling.measurements import Array

EXPONENTS = (-2.0, 4.0)
"""What an exponent may be. A negative one is an answer too: more parameters made it worse."""
LOG_AMPLITUDES = (-16.0, 16.0)
"""Of a term at the centre of the data; below, it is nothing beside the floor."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Units:
    """Where z = 0 stands, and what y = 1 means."""

    centres: Array
    """(f,) logarithms of the factors at z = 0."""
    scale: float


@dataclass(frozen=True, kw_only=True)
class Law:
    """A sum of terms, each an amplitude and powers of factors; the base of the others."""

    name: str
    factors: tuple[str, ...]
    terms: tuple[tuple[str, tuple[tuple[int, str, int], ...]], ...]
    """(amplitude, ((factor's index, exponent, +1 if the term falls with the factor, else -1), ...)) of each term."""
    has_floor: bool = True
    chance: float | None = None

    @property
    def amplitudes(self) -> tuple[str, ...]:
        """Names of the amplitudes."""
        return tuple(amplitude for amplitude, _ in self.terms)

    @property
    def shape(self) -> tuple[str, ...]:
        """Names of what is not linear: exponents and the like."""
        return tuple(exponent for _, powers in self.terms for _, exponent, _ in powers)

    @property
    def logarithms(self) -> frozenset[str]:
        """Shapes of which theta holds the logarithm: constants, not exponents."""
        return frozenset()

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names, in the order of theta."""
        return (*(("E",) if self.has_floor else ()), *self.amplitudes, *self.shape)

    @property
    def num_parameters(self) -> int:
        """The length p of theta."""
        return len(self.parameters)

    @property
    def bounds(self) -> Array:
        """(2, p): the least and the largest theta."""
        limits = [(0.0, np.inf if self.chance is None else self.chance)] if self.has_floor else []
        limits += [LOG_AMPLITUDES for _ in self.amplitudes]
        limits += [self._shape_bounds(name) for name in self.shape]
        return np.array(limits).T

    def _shape_bounds(self, name: str) -> tuple[float, float]:
        return EXPONENTS

    def shape_starts(self, name: str) -> tuple[float, float]:
        """Between what a search for this shape begins."""
        return 0.03, 1.5

    def units(self, log_x: Array, y: Array) -> Units:
        """Centre the data (n, f) and scale its values (n,)."""
        scale = float(np.exp(np.mean(np.log(y)))) if self.chance is None else 1.0
        return Units(centres=log_x.mean(axis=0), scale=scale)

    def log_terms(self, theta: Array, z: Array) -> tuple[Array, Array]:
        """(R, p), (R or 1, n, f) -> logarithms of the terms (k, R, n) and their gradients (k, R, n, p)."""
        first = int(self.has_floor)
        at = {name: index for index, name in enumerate(self.parameters)}
        shape = (len(self.terms), len(theta), z.shape[1])
        logs, gradients = np.zeros(shape), np.zeros((*shape, theta.shape[1]))
        for k, (_, powers) in enumerate(self.terms):
            logs[k] += theta[:, None, first + k]
            gradients[k, ..., first + k] = 1
            for factor, exponent, sign in powers:
                logs[k] -= sign * theta[:, None, at[exponent]] * z[..., factor]
                gradients[k, ..., at[exponent]] = -sign * z[..., factor]
        return logs, gradients

    def evaluate(self, theta: Array, z: Array) -> tuple[Array, Array]:
        """(R, p), (R or 1, n, f) -> y (R, n) and its gradient (R, n, p)."""
        logs, gradients = self.log_terms(theta, z)
        terms = np.exp(np.minimum(logs, 300.0))
        total = terms.sum(axis=0)
        slope = np.einsum("krn,krnp->rnp", terms, gradients)
        floor = theta[:, :1] if self.has_floor else np.zeros((len(theta), 1))
        if self.chance is None:
            y, by_floor = floor + total, np.ones_like(total)
        else:
            share = total / (1 + total)
            y, by_floor = floor + (self.chance - floor) * share, 1 - share
            slope *= ((self.chance - floor) / (1 + total) ** 2)[..., None]
        if self.has_floor:
            slope[..., 0] = by_floor
        return y, slope

    def exponents_of_terms(self, parameters: Mapping[str, Array]) -> tuple[Array, ...]:
        """Exponent (R,) of each term of one factor, from parameters (R,) in the units of the data."""
        return tuple(parameters[name] for _, ((_, name, _),) in self.terms)

    def unit_of_terms(self, theta: Array, units: Units) -> Array:
        """Say what a term of 1 is in the units of the data (R,), from theta (R, p)."""
        return np.full(len(theta), units.scale)

    def columns(self, shape: Array, z: Array, y: Array) -> tuple[Array, Array]:
        """For one shape, the linear problem in (E, amplitudes): columns (n, k), target (n,).

        For a bounded law y (1 + S) = E + P S, so y = E + S (P - y): linear too, if y is taken as measured.
        """
        theta = np.concatenate([np.zeros(len(self.parameters) - len(shape)), shape])[None]
        logs, _ = self.log_terms(theta, z[None])
        terms = np.exp(np.minimum(logs[:, 0].T, 300.0))
        if self.chance is not None:
            terms = terms * (self.chance - y)[:, None]
        return (np.column_stack([np.ones(len(y)), terms]) if self.has_floor else terms), y

    def in_user_units(self, theta: Array, units: Units) -> dict[str, Array]:
        """(R, p) -> each parameter (R,) as it stands in the formula over the factors themselves."""
        found = {name: theta[:, index] for index, name in enumerate(self.parameters)}
        scale = units.scale
        if self.has_floor:
            found["E"] = found["E"] * scale
        for amplitude, powers in self.terms:
            log = found[amplitude] + sum(sign * found[name] * units.centres[i] for i, name, sign in powers)
            found[amplitude] = np.exp(log) * scale
        return found

    def in_own_units(self, parameters: Mapping[str, float], units: Units) -> Array:
        """Invert `in_user_units`, for one set of parameters (p,)."""
        missing = [name for name in self.parameters if name not in parameters]
        if missing:
            raise UserError(f"a start of {self.name} needs {', '.join(self.parameters)}; {missing[0]} is missing")
        zero = np.array([[0.0] * len(self.parameters)])
        for index, name in enumerate(self.parameters):
            if name in self.shape:
                zero[0, index] = self._to_theta(name, parameters[name], units)
        reference = self.in_user_units(zero, units)  # amplitudes at log amplitude 0
        for index, name in enumerate(self.parameters):
            if name in self.amplitudes:
                zero[0, index] = np.log(parameters[name] / reference[name][0])
            elif name == "E":
                zero[0, index] = parameters[name] / units.scale
        theta: Array = zero[0]
        return theta

    def _to_theta(self, name: str, number: float, units: Units) -> float:
        return number
