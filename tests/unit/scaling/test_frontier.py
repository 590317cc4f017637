from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from hornet.errors import UserError
from scaling import laws
from scaling.fitting import Estimation, fit
from scaling.frontier import find_frontier, fit_isoflops
from scaling.measurements import Measurement
from scaling.resampling import resample
from tests.unit.scaling.worlds import TRUTH, make_curve, make_study, value_of

FEW_STARTS = Estimation(num_starts=2)


def test_the_frontier_is_the_minimum_along_the_budget():
    fitted = fit(make_study(), laws.chinchilla(), estimation=FEW_STARTS)
    found = find_frontier(fitted, [1e11, 1e13], flops_per_unit=7.0)
    for index, budget in enumerate([1e11, 1e13]):
        numeric = minimize_scalar(
            lambda log_n, c=budget: value_of(np.exp(log_n), c / 7 / np.exp(log_n)), bounds=(5, 22), method="bounded"
        )
        assert np.log(found.size[0, index]) == pytest.approx(numeric.x, abs=1e-3)
        assert found.value[0, index] == pytest.approx(numeric.fun, rel=1e-8)
        assert found.size[0, index] * found.data[0, index] * 7 == pytest.approx(budget)
    assert found.exponent[0] == pytest.approx(0.38 / (0.33 + 0.38), rel=1e-6)


def test_resamples_give_the_frontier_a_band():
    fitted = fit(make_study(noise=0.01), laws.chinchilla(), estimation=FEW_STARTS)
    found = find_frontier(fitted, [1e12], flops_per_unit=6, theta=resample(fitted, resamples=50).theta)
    assert found.size.shape == (50, 1)
    assert np.nanstd(found.exponent) > 0


def kaplan_of(size, data):
    return (1e10 * size ** (-0.04 / 0.075) + 1.7e10 / data) ** 0.075


def fit_kaplan():
    runs = [
        replace(run, value=kaplan_of(run.factors["N"], run.factors["D"]) * (1 + 1e-4 * (i % 3)))
        for i, run in enumerate(make_study())
    ]
    return fit(runs, laws.kaplan(), estimation=FEW_STARTS)


def test_the_frontier_of_kaplans_law_is_its_own_minimum():
    """Its terms stand under a common power: N^(-alpha / beta) and 1 / D are what a budget trades."""
    fitted = fit_kaplan()
    found = find_frontier(fitted, [1e11, 1e13], flops_per_unit=80.0)
    for index, budget in enumerate([1e11, 1e13]):
        numeric = minimize_scalar(
            lambda log_n, c=budget: fitted.predict({"N": np.exp(log_n), "D": c / 80 / np.exp(log_n)}),
            bounds=(5, 25), method="bounded", options={"xatol": 1e-9},
        )  # fmt: skip
        assert np.log(found.size[0, index]) == pytest.approx(numeric.x, abs=1e-3)
        assert found.value[0, index] == pytest.approx(numeric.fun, rel=1e-8)
    found_alpha, found_beta = (fitted.parameters[name] for name in ("alpha", "beta"))
    assert found.exponent[0] == pytest.approx(found_beta / (found_alpha + found_beta), rel=1e-9)


def test_the_terms_of_kaplans_law_are_those_under_its_power():
    fitted = fit_kaplan()
    point = {"N": 3e6, "D": 1000.0}
    terms = fitted.terms(point)
    known = fitted.parameters
    assert terms["A"] == pytest.approx(known["A"] * 3e6 ** (-known["alpha"] / known["beta"]), rel=1e-6)
    assert terms["B"] == pytest.approx(known["B"] / 1000, rel=1e-6)
    assert sum(terms.values()) ** known["beta"] == pytest.approx(fitted.predict(point), rel=1e-9)


def test_laws_without_a_frontier_are_refused():
    curve = fit(make_curve(np.geomspace(1, 1e3, 9), np.geomspace(9, 1, 9)), laws.power("T"))
    with pytest.raises(
        UserError, match="power has no frontier in closed form; chinchilla, bounded_joint and kaplan have one"
    ):
        find_frontier(curve, [1.0], flops_per_unit=6)
    rising = fit(make_study(truth={**TRUTH, "A": 0.01, "alpha": -0.2}), laws.chinchilla())
    with pytest.raises(UserError, match="alpha and beta must be positive: without, more of one factor is never better"):
        find_frontier(rising, [1.0], flops_per_unit=6)


def make_isoflops(truth, budgets=(1e17, 1e18, 1e19, 1e20), width=1.0, shift=0.0, num=9):
    """Sizes around the true optimum of C = 6 N D, shifted by a factor e^shift."""
    a, b = truth["alpha"], truth["beta"]
    scale = (a * truth["A"] / (b * truth["B"])) ** (1 / (a + b))
    runs = []
    for budget in budgets:
        best = scale * (budget / 6) ** (b / (a + b))
        for i, size in enumerate(best * np.exp(shift + np.linspace(-width, width, num))):
            value = value_of(size, budget / 6 / size, truth)
            runs.append(Measurement(name=f"{budget:g}-{i}", factors={"C": budget, "N": size}, value=float(value)))
    return runs


def test_parabolas_of_a_symmetric_law_give_the_true_exponent():
    truth = {"E": 1.7, "A": 400.0, "B": 400.0, "alpha": 0.3, "beta": 0.3}
    found = fit_isoflops(make_isoflops(truth))
    assert found.exponent == pytest.approx(0.5, abs=1e-9)
    assert [curve.marks for curve in found.curves] == [()] * 4
    assert len(found.warnings) == 1  # the one that all of them bear
    assert "read the joint law first" in found.warnings[0]


def test_grids_off_centre_and_minima_at_the_edge_are_marked():
    truth = {"E": 1.7, "A": 400.0, "B": 1200.0, "alpha": 0.33, "beta": 0.4}
    leaning = fit_isoflops(make_isoflops(truth, shift=0.7))
    assert all("off-centre" in curve.marks for curve in leaning.curves)
    assert "budgets whose grid is off centre or thin on a side" in leaning.warnings[1]
    beyond = fit_isoflops(make_isoflops(truth, shift=2.5))
    assert all({"edge", "no minimum"} & set(curve.marks) for curve in beyond.curves)
    assert np.isnan(beyond.exponent)
    assert "budgets without a minimum inside their grid, left out of the line: 1e+17" in beyond.warnings[1]
    thin = fit_isoflops(make_isoflops(truth, num=3))
    assert all("fewer than 2 points on a side" in curve.marks for curve in thin.curves)
    assert fit_isoflops(make_isoflops(truth, num=2)).curves[0].marks == ("no minimum",)


def test_what_limits_is_the_larger_term():
    fitted = fit(make_study(), laws.chinchilla(), estimation=FEW_STARTS)
    terms = fitted.terms({"N": 1e6, "D": 100.0})
    assert terms == pytest.approx({"A": 40 * 1e6**-0.33, "B": 30 * 100**-0.38}, rel=1e-5)
    other = fitted.terms({"N": 1e4, "D": 1e6})
    assert terms["B"] > terms["A"]
    assert other["A"] > other["B"]
