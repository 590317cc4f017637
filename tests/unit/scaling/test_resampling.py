from dataclasses import replace

import numpy as np
import pytest

from hornet.errors import UserError
from scaling import laws
from scaling.fitting import Estimation, fit
from scaling.measurements import Measurement
from scaling.resampling import resample, values_of_runs
from tests.unit.scaling.worlds import TRUTH, make_study, value_of

FEW_STARTS = Estimation(num_starts=2)
FAR = {"N": 4 * 7.7e6, "D": 2 * 6376.0}


@pytest.mark.slow
@pytest.mark.parametrize(("tau", "least"), [(0.0, 0.9), (0.01, 0.85)])
def test_intervals_cover_the_truth_even_when_seeds_share_an_error(tau, least):
    """In short, with room for 25 studies' chance; in full in benchmarks/scaling_coverage.py."""
    inside = []
    for rng in range(25):
        fitted = fit(make_study(noise=0.01, tau=tau, rng=rng), laws.chinchilla(), estimation=FEW_STARTS)
        found = resample(fitted, resamples=100)
        truth = value_of(FAR["N"], FAR["D"])
        inside.append(
            [truth in found.curve(FAR), *(TRUTH[name] in found.parameter(name) for name in ("alpha", "beta"))]
        )
    assert np.mean(inside, axis=0).min() >= least


def test_shuffled_values_have_exponents_that_may_be_nothing():
    runs = make_study(noise=0.01, sizes=np.geomspace(1e5, 1e7, 16), data=(6376.0,))
    values = [run.value for run in runs]
    true = resample(fit(runs, laws.power("N")), resamples=200)
    assert 0 not in true.parameter("alpha")
    for rng in range(3):
        order = np.random.default_rng(rng).permutation(len(runs))
        shuffled = [replace(run, value=values[i]) for run, i in zip(runs, order, strict=True)]
        assert 0 in resample(fit(shuffled, laws.power("N")), resamples=200).parameter("alpha")


def test_resamples_repeat_with_their_seed():
    fitted = fit(make_study(noise=0.01), laws.chinchilla(), estimation=FEW_STARTS)
    first, again, other = (resample(fitted, resamples=50, seed=seed).theta for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("scheme", ["cells_then_seeds", "runs", "cell_residuals"])
def test_every_scheme_scatters_about_the_estimate(scheme):
    fitted = fit(make_study(noise=0.01, tau=0.005), laws.chinchilla(), estimation=FEW_STARTS)
    found = resample(fitted, scheme=scheme, resamples=200)
    assert fitted.predict(FAR) in found.curve(FAR)
    interval = found.curve(FAR)
    assert 0.003 < (interval.high - interval.low) / fitted.predict(FAR) < 0.3


def test_a_straight_line_has_the_interval_of_the_textbook():
    """A power law is a line in logarithms: residual resampling gives least squares' standard error of its slope."""
    xs = np.geomspace(1e3, 1e6, 40)
    noise = 0.05 * np.random.default_rng(0).standard_normal(40)
    runs = [
        Measurement(name=str(i), factors={"C": x}, value=float(5 * x**-0.2 * np.exp(e)))
        for i, (x, e) in enumerate(zip(xs, noise, strict=True))
    ]
    fitted = fit(runs, laws.power(), estimation=Estimation(huber=None, noise="unit"))
    interval = resample(fitted, scheme="cell_residuals", resamples=2000).parameter("alpha")
    slope, covariance = np.polyfit(np.log(xs), np.log([run.value for run in runs]), 1, cov=True)
    assert fitted.parameters["alpha"] == pytest.approx(-slope[0], rel=1e-9)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * np.sqrt(covariance[0, 0]), rel=0.1)


def test_validation_images_are_a_level_that_all_runs_share():
    """Few images: their choice moves all runs together, which resampling cells alone cannot see."""
    rng = np.random.default_rng(0)
    difficulty = np.exp(rng.normal(size=60))
    difficulty /= difficulty.mean()
    runs = [replace(run, image_values=run.value * difficulty) for run in make_study(noise=0.002)]
    without = [replace(run, image_values=None) for run in runs]
    point = {"N": 3e6, "D": 3000.0}
    wide, narrow = (
        resample(fit(each, laws.chinchilla(), estimation=FEW_STARTS), resamples=400).predict([point])[:, 0]
        for each in (runs, without)
    )
    error = difficulty.std() / np.sqrt(60)
    assert np.log(wide).std() == pytest.approx(error, rel=0.15)
    assert np.log(narrow).std() < error / 10


@pytest.mark.filterwarnings("error")
def test_images_none_of_which_is_missed_in_a_sample_count_as_half_an_image():
    """A top-1 error of 3 images in 355: one sample in twenty has none of them, and no logarithm."""
    rng = np.random.default_rng(0)
    runs = []
    for run in make_study(seeds=1):
        missed = np.zeros(355)
        missed[rng.choice(355, 3, replace=False)] = 1
        runs.append(replace(run, value=missed.mean(), image_values=missed))
    fitted = fit(runs, laws.chinchilla(), estimation=FEW_STARTS)
    values = values_of_runs(fitted, 200, np.random.default_rng(1))
    assert np.isfinite(values).all()
    assert np.exp(values.min()) == pytest.approx(0.5 / 355)
    assert np.isfinite(resample(fitted, resamples=50).theta).all()


def test_too_few_cells_have_no_interval():
    fitted = fit(make_study(noise=0.01, sizes=(1e6, 2e6, 4e6), data=(1e3, 2e3, 4e3)), laws.chinchilla())
    with pytest.raises(UserError, match="9 cells are too few for an interval: 12 are the least"):
        resample(fitted)


def test_an_unknown_parameter_is_refused():
    found = resample(fit(make_study(noise=0.01), laws.chinchilla(), estimation=FEW_STARTS), resamples=10)
    with pytest.raises(UserError, match="chinchilla has no parameter gamma; it has E, A, B, alpha, beta"):
        found.parameter("gamma")
