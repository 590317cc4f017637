"""Each law against its formula written naively over the factors themselves, and its gradient against differences."""

# ruff: noqa: N803  the symbols of the papers

import numpy as np
import pytest

from hornet.errors import UserError
from scaling import laws
from scaling.comparison import PairedLaw
from scaling.law import Units

RNG = np.random.default_rng(0)
X1 = np.exp(RNG.uniform(8, 12, (9, 1)))
X2 = np.exp(RNG.uniform([14, 6], [17, 10], (9, 2)))
X3 = X2[:, [0, 1, 1]] * np.exp(RNG.uniform([0, 0, 0.1], [0, 0, 3], (9, 3)))  # N, U, T > U
CHANCE = 4.6


def bound(floor, total):
    return (floor + CHANCE * total) / (1 + total)


def repeated(x, E, A, B, alpha, beta, R_star):
    n, unique, seen = x.T
    worth = unique + unique * R_star * (1 - np.exp(-(seen / unique - 1) / R_star))
    return E + A * n**-alpha + B * worth**-beta


CASES = [
    (laws.power(), X1, {"A": 7.0, "alpha": 0.2}, lambda x, A, alpha: A * x[:, 0] ** -alpha),
    (laws.saturating(), X1, {"E": 0.4, "A": 7.0, "alpha": 0.2}, lambda x, E, A, alpha: E + A * x[:, 0] ** -alpha),
    (
        laws.bounded(chance=CHANCE),
        X1,
        {"E": 0.4, "A": 30.0, "alpha": 0.4},
        lambda x, E, A, alpha: bound(E, A * x[:, 0] ** -alpha),
    ),
    (
        laws.shifted(),
        X1,
        {"E": 0.4, "A": 7.0, "alpha": 0.2, "shift": 5000.0},
        lambda x, E, A, alpha, shift: E + A * (x[:, 0] + shift) ** -alpha,
    ),
    (
        laws.chinchilla(),
        X2,
        {"E": 0.4, "A": 40.0, "B": 30.0, "alpha": 0.3, "beta": 0.4},
        lambda x, E, A, B, alpha, beta: E + A * x[:, 0] ** -alpha + B * x[:, 1] ** -beta,
    ),
    (
        laws.bounded_joint(chance=CHANCE),
        X2,
        {"E": 0.4, "A": 40.0, "B": 30.0, "alpha": 0.3, "beta": 0.4},
        lambda x, E, A, B, alpha, beta: bound(E, A * x[:, 0] ** -alpha + B * x[:, 1] ** -beta),
    ),
    (
        laws.kaplan(),
        X2,
        {"A": 900.0, "B": 2000.0, "alpha": 0.2, "beta": 0.4},
        lambda x, A, B, alpha, beta: (A * x[:, 0] ** (-alpha / beta) + B / x[:, 1]) ** beta,
    ),
    (
        laws.repeated(),
        X3,
        {"E": 0.4, "A": 40.0, "B": 30.0, "alpha": 0.3, "beta": 0.4, "R_star": 15.0},
        repeated,
    ),
    (
        laws.three_term(chance=CHANCE),
        X3[:, [0, 2, 1]],
        {"E": 0.4, "A": 40.0, "B": 30.0, "G": 0.02, "alpha": 0.3, "beta": 0.4, "gamma": 0.2, "delta": 0.5},
        lambda x, E, A, B, G, alpha, beta, gamma, delta: bound(
            E, A * x[:, 0] ** -alpha + B * x[:, 1] ** -beta + G * x[:, 0] ** gamma * x[:, 2] ** -delta
        ),
    ),
]
IDS = [law.name for law, *_ in CASES]


@pytest.mark.parametrize(("law", "x", "parameters", "formula"), CASES, ids=IDS)
def test_a_law_is_its_formula(law, x, parameters, formula):
    expected = formula(x, **parameters)
    units = law.units(np.log(x), expected)
    theta = law.in_own_units(parameters, units)
    y, _ = law.evaluate(theta[None], (np.log(x) - units.centres)[None])
    np.testing.assert_allclose(y[0] * units.scale, expected, rtol=1e-10)
    back = law.in_user_units(theta[None], units)
    assert {name: pytest.approx(value) for name, value in parameters.items()} == {k: v[0] for k, v in back.items()}


@pytest.mark.parametrize(("law", "x", "parameters", "formula"), CASES, ids=IDS)
def test_gradients_are_those_of_differences(law, x, parameters, formula):
    units = law.units(np.log(x), formula(x, **parameters))
    theta = law.in_own_units(parameters, units)
    check_gradient(law, theta, np.log(x) - units.centres)


@pytest.mark.parametrize("shared", ["nothing", "shape", "all"])
def test_gradients_of_two_families_are_those_of_differences(shared):
    base = laws.chinchilla()
    law = PairedLaw(name="pair", factors=("N", "D", "family"), terms=base.terms, base=base, shared=shared)
    assert law.num_parameters == {"nothing": 10, "shape": 8, "all": 5}[shared]
    z = np.column_stack([np.log(X2) - np.log(X2).mean(axis=0), np.arange(9) % 2])
    check_gradient(law, np.linspace(0.1, 0.6, law.num_parameters), z)


def check_gradient(law, theta, z):
    _, slope = law.evaluate(theta[None], z[None])
    step = 1e-6
    for index in range(len(theta)):
        moved = np.stack([theta, theta])
        moved[:, index] += [step, -step]
        y, _ = law.evaluate(moved, z[None])
        np.testing.assert_allclose(slope[0, :, index], (y[0] - y[1]) / (2 * step), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("law", "x", "parameters", "formula"), CASES, ids=IDS)
def test_the_linear_problem_of_the_true_shape_gives_the_true_amplitudes(law, x, parameters, formula):
    y = formula(x, **parameters)
    units = law.units(np.log(x), y)
    theta = law.in_own_units(parameters, units)
    num_linear = len(theta) - len(law.shape)
    columns, target = law.columns(theta[num_linear:], np.log(x) - units.centres, y / units.scale)
    found = np.linalg.lstsq(columns, target, rcond=None)[0]
    first = int(law.has_floor)
    np.testing.assert_allclose(found[:first], theta[:first], rtol=1e-7)
    np.testing.assert_allclose(np.log(found[first:]), theta[first:num_linear], rtol=1e-6, atol=1e-7)


def test_of_less_than_one_epoch_repeated_data_are_worth_the_images_seen():
    """Muennighoff et al. 2023: unique data are those that were seen, not the whole set that they are of."""
    known = {"E": 0.4, "A": 40.0, "B": 30.0, "alpha": 0.3, "beta": 0.4, "R_star": 15.0}
    x = np.array([[1e6, 1000.0, 1000.0], [1e6, 8000.0, 1000.0], [1e6, 8000.0, 8000.0]])
    law = laws.repeated()
    units = law.units(np.log(x), np.ones(3))
    (once, part, whole), _ = (
        each[0] for each in law.evaluate(law.in_own_units(known, units)[None], (np.log(x) - units.centres)[None])
    )
    assert part == pytest.approx(once)
    assert whole < once


def test_chance_is_a_positive_number():
    with pytest.raises(UserError, match="chance: -1, but the value of chance is positive: log K, or 1 - 1/K"):
        laws.bounded(chance=-1)


def test_a_start_needs_all_parameters():
    units = Units(centres=np.zeros(1), scale=1.0)
    with pytest.raises(UserError, match="a start of saturating needs E, A, alpha; alpha is missing"):
        laws.saturating().in_own_units({"E": 1.0, "A": 1.0}, units)
