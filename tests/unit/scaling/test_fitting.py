from dataclasses import replace

import numpy as np
import pytest

from hornet.errors import UserError
from scaling import laws
from scaling.fitting import Estimation, fit
from scaling.measurements import Measurement
from scaling.noise import estimate_sigma, estimate_tau
from tests.unit.scaling.test_laws import CASES
from tests.unit.scaling.worlds import LEAST_SQUARES, TRUTH, make_curve, make_study, value_of


def codes(fitted):
    return {flag.code for flag in fitted.flags}


def text_of(fitted, code):
    return next(flag.text for flag in fitted.flags if flag.code == code)


def test_a_joint_law_without_noise_comes_back():
    fitted = fit(make_study(), laws.chinchilla())
    assert fitted.parameters == pytest.approx(TRUTH, rel=1e-6)
    assert fitted.proof.num_agreeing >= 3
    assert not codes(fitted) & {"multimodal", "at_bound", "not_converged", "lack_of_fit", "outlier"}
    assert fitted.predict({"N": 3e7, "D": 1e4}) == pytest.approx(value_of(3e7, 1e4), rel=1e-8)


@pytest.mark.parametrize("index", [1, 2, 5, 6])
def test_other_laws_come_back(index):
    law, _, truth, formula = CASES[index]
    sizes = np.exp(np.linspace(8, 17, 12 if len(law.factors) == 1 else 5))
    grid = np.array(np.meshgrid(*[sizes] * len(law.factors))).reshape(len(law.factors), -1).T
    runs = [
        Measurement(name=str(i), factors=dict(zip(law.factors, x, strict=True)), value=float(y))
        for i, (x, y) in enumerate(zip(grid, formula(grid, **truth), strict=True))
    ]
    assert fit(runs, law).parameters == pytest.approx(truth, rel=1e-5)


def test_units_do_not_change_predictions():
    plain = fit(make_study(noise=0.01), laws.chinchilla())
    scaled = [
        replace(run, factors={"N": run.factors["N"] / 1e6, "D": run.factors["D"] / 1e9}, value=100 * run.value)
        for run in make_study(noise=0.01)
    ]
    other = fit(scaled, laws.chinchilla())
    assert other.predict({"N": 30.0, "D": 1e-5}) == pytest.approx(100 * plain.predict({"N": 3e7, "D": 1e4}), rel=1e-9)
    assert other.parameters["alpha"] == pytest.approx(plain.parameters["alpha"], rel=1e-7)
    assert other.proof.condition == pytest.approx(plain.proof.condition, rel=1e-5)


def test_runs_that_differ_in_more_than_their_seed_are_no_seeds_of_a_cell():
    """Two lengths of the same share, where the law knows the share alone: their difference is no noise."""
    short, long = (
        [
            replace(run, name=f"{start}{run.name}", factors={**run.factors, "T": length * run.factors["D"]})
            for run in make_study(noise=0.01, seeds=2, rng=rng)
        ]
        for rng, (start, length) in enumerate([("short-", 4), ("long-", 8)])
    )
    assert "mixed_cells" not in codes(fit(long, laws.chinchilla()))
    both = fit([*short, *long], laws.chinchilla())
    assert text_of(both, "mixed_cells") == (
        "runs that differ in T count as seeds: in 16 cells, first long-n0d0s0/short-n0d0s0/long-n0d0s1/short-n0d0s1"
    )
    twins = [*long, *(replace(run, name=f"cosine-{run.name}") for run in long)]
    assert text_of(fit(twins, laws.chinchilla()), "mixed_cells").startswith(
        "runs of the same seed count as seeds: in 16 cells, first cosine-long-n0d0s0/long-n0d0s0/"
    )


def test_failed_runs_are_named():
    runs = make_study(noise=0.01)
    runs[5] = replace(runs[5], value=None)
    fitted = fit(runs, laws.chinchilla())
    assert text_of(fitted, "without_result") == f"no result, so not in the fit: {runs[5].name}"


def test_one_outlier_moves_the_fit_by_less_than_its_error_and_is_named():
    points = {"N": 3.1e7, "D": 6376.0}
    clean = [fit(make_study(noise=0.01, rng=rng), laws.chinchilla()).predict(points) for rng in range(6)]
    runs = make_study(noise=0.01)
    bad = [replace(run, value=1.3 * run.value) if run.cell == "n1d2" else run for run in runs]
    fitted = fit(bad, laws.chinchilla())
    squares = fit(bad, laws.chinchilla(), estimation=LEAST_SQUARES)
    assert abs(fitted.predict(points) - clean[0]) < np.std(clean)
    assert abs(squares.predict(points) - clean[0]) > abs(fitted.predict(points) - clean[0])
    assert "n1d2s0/n1d2s1/n1d2s2" in text_of(fitted, "outlier")


@pytest.mark.parametrize("seeds", [1, 2])
def test_noise_of_plain_residuals_is_in_the_units_of_the_values(seeds):
    """tau beside sigma: of a value near 2.8, 3 % are 0.08."""
    law, plain = laws.chinchilla(), Estimation(residual="plain")
    runs = make_study(noise=0.003, tau=0.03, seeds=seeds)
    one, hundred = (
        fit([replace(run, value=unit * run.value) for run in runs], law, estimation=plain) for unit in (1, 100)
    )
    size = np.mean([run.value for run in runs])
    assert one.noise.tau == pytest.approx(fit(runs, law).noise.tau * size, rel=0.3)
    assert hundred.noise.tau == pytest.approx(100 * one.noise.tau, rel=1e-3)
    assert hundred.predict({"N": 3e7, "D": 6376.0}) == pytest.approx(
        100 * one.predict({"N": 3e7, "D": 6376.0}), rel=1e-5
    )


@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("value", [4.6, 1e6])
def test_one_run_that_diverged_is_not_the_noise_of_all(seeds, value):
    """Its twin has not; without seeds it would be one cell that Huber holds down, and more runs must not be worse."""
    clean = make_study(noise=0.01, seeds=seeds)
    bad = [replace(run, value=value) if run.name == "n2d1s0" else run for run in clean]
    before, after = (fit(runs, laws.chinchilla()) for runs in (clean, bad))
    assert after.noise.of_mean(1) < 1.5 * before.noise.of_mean(1)
    point = {"N": 3e7, "D": 6376.0}
    assert after.predict(point) == pytest.approx(before.predict(point), rel=0.01)
    assert "n2d1s0/n2d1s1" in text_of(after, "outlier")


@pytest.mark.slow
def test_noise_is_divided_into_that_of_seeds_and_that_of_cells():
    alike = [fit(make_study(noise=0.01, rng=rng), laws.chinchilla()).noise for rng in range(5)]
    apart = [fit(make_study(noise=0.01, tau=0.02, rng=rng), laws.chinchilla()).noise for rng in range(5)]
    assert np.mean([noise.sigma for noise in alike]) == pytest.approx(0.01, rel=0.15)
    assert np.median([noise.tau for noise in alike]) < 0.005
    assert np.mean([noise.tau for noise in apart]) == pytest.approx(0.02, rel=0.3)


def test_sigma_is_the_pooled_deviation():
    values = np.array([[1.0, 3.0, np.nan], [4.0, 4.0, 4.0], [7.0, np.nan, np.nan]])
    assert estimate_sigma(values) == pytest.approx(np.sqrt(2 / 3))
    assert estimate_sigma(values[2:]) is None


@pytest.mark.parametrize(("num_cells", "num_seeds"), [(1, 2), (4, 2), (16, 2), (5, 3)])
def test_sigma_of_normal_noise_is_hardly_changed_by_what_holds_outliers_down(num_cells, num_seeds):
    draws = np.random.default_rng(0).standard_normal((2000, num_cells, num_seeds))
    assert np.mean([estimate_sigma(each) ** 2 for each in draws]) == pytest.approx(1, abs=0.06)


def test_tau_of_a_balanced_straight_line_is_the_textbook_number():
    """With equal counts REML is: residual variance on n - p degrees of freedom, less sigma squared / runs."""
    columns = np.column_stack([np.ones(30), np.arange(30.0)])
    noise = np.random.default_rng(1).choice([-1.0, 1.0], 30)  # none of which counts as an outlier
    rest = noise - columns @ np.linalg.lstsq(columns, noise, rcond=None)[0]
    found = estimate_tau(rest, columns, sigma=0.5, num_runs=np.full(30, 4))
    assert found == pytest.approx(np.sqrt(rest @ rest / 28 - 0.25 / 4), rel=1e-4)


def test_a_law_that_lacks_something_is_told():
    xs = np.geomspace(1e3, 1e7, 16)
    rng = np.random.default_rng(0)
    curve = make_curve(xs, (0.3 + 8 * xs**-0.4) * np.exp(0.01 * rng.standard_normal(16)))
    assert "lack_of_fit" in codes(fit(curve, laws.power("T")))
    assert "lack_of_fit" not in codes(fit(curve, laws.saturating("T")))
    assert "cells are off the law by" in text_of(
        fit(make_study(noise=0.002, tau=0.03), laws.chinchilla()), "lack_of_fit"
    )


def test_a_floor_at_nothing_is_told():
    xs = np.geomspace(1e3, 1e7, 16)
    bent_up = make_curve(xs, np.exp(-0.2 * np.log(xs) - 0.01 * np.log(xs) ** 2 + 5))
    assert text_of(fit(bent_up, laws.saturating("T")), "at_bound") == "E at the end of what is allowed"


def test_too_few_levels_are_told():
    fitted = fit(make_study(noise=0.01), laws.chinchilla())
    assert "D has 4 levels over a factor of 8: its exponent is not separable" in [flag.text for flag in fitted.flags]
    wide = make_study(noise=0.01, sizes=np.geomspace(1e5, 1e7, 5), data=np.geomspace(1e2, 1e4, 5))
    assert "too_few_levels" not in codes(fit(wide, laws.chinchilla()))


def test_parameters_that_stand_for_each_other_are_told():
    """Size and data grow together: no data can divide the two terms."""
    sizes = np.geomspace(1e5, 1e8, 12)
    rng = np.random.default_rng(0)
    runs = [
        Measurement(
            name=str(i), factors={"N": n, "D": 20 * n}, value=float(value_of(n, 20 * n) * np.exp(0.01 * rng.normal()))
        )
        for i, n in enumerate(sizes)
    ]
    assert "multimodal" in codes(fit(runs, laws.chinchilla()))


def test_a_range_too_narrow_to_tell_floor_and_exponent_apart_is_told():
    xs = np.geomspace(1e3, 1.3e3, 12)
    narrow = make_curve(xs, 0.3 + 8 * xs**-0.4)
    assert "read predictions, not exponents" in text_of(fit(narrow, laws.saturating("T")), "ill_conditioned")


def test_an_exponent_whose_sign_is_open_is_told():
    xs = np.geomspace(1e3, 1e6, 16)
    flat = make_curve(xs, np.exp(0.1 * (-1.0) ** np.arange(16)))
    assert "even its sign is open" in text_of(fit(flat, laws.power("T")), "not_identified")


def test_an_end_that_is_no_minimum_is_told(monkeypatch):
    monkeypatch.setattr("scaling.fitting.polish", lambda problem, theta: (theta + 0.05, 0.0))
    assert "the gradient is" in text_of(fit(make_study(noise=0.01), laws.chinchilla()), "not_converged")


def test_a_constant_of_repetition_that_the_data_do_not_hold_is_told():
    """No run repeats more than 1.2 times: any R* will do."""
    rng = np.random.default_rng(0)
    runs = [
        Measurement(
            name=f"{n}{u}{t}",
            factors={"N": n, "U": u, "T": u * t},
            value=float(value_of(n, u * t) * np.exp(0.01 * rng.normal())),
        )
        for n in np.geomspace(1e5, 1e7, 4)
        for u in np.geomspace(1e3, 1e5, 4)
        for t in (1.0, 1.2)
    ]
    fitted = fit(runs, laws.repeated())
    assert text_of(fitted, "not_identified").startswith("R_star is known to a factor of")


@pytest.mark.parametrize(
    ("runs", "text"),
    [
        (
            make_curve([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]),
            "saturating has 3 parameters and needs more cells.* there are 3",
        ),
        (
            [replace(run, family=run.name) for run in make_curve(range(1, 9), range(9, 1, -1))][:4],
            "a law is of one family; fit x0, x1, x2, x3 apart, or compare them",
        ),
    ],
)
def test_what_cannot_be_fitted_is_refused(runs, text):
    with pytest.raises(UserError, match=text):
        fit(runs, laws.saturating("T"))


def test_a_point_without_a_factor_is_refused():
    with pytest.raises(UserError, match="chinchilla needs N, D of each point; D is missing"):
        fit(make_study(), laws.chinchilla()).predict({"N": 1.0})


def test_a_report_can_state_the_loss():
    assert str(Estimation()) == (
        "Huber 1.345 of the log value's residual / estimated noise, summed over cells; 20 + 5 starts"
    )
    assert str(Estimation(residual="plain", huber=None, noise="unit", num_starts=0)).startswith(
        "least squares of the value"
    )
