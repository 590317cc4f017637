from dataclasses import replace

import numpy as np
import pytest

from hornet.errors import UserError
from scaling import laws
from scaling.comparison import compare
from scaling.fitting import Estimation
from tests.unit.scaling.worlds import SIZES, TRUTH, make_study

FEW_STARTS = Estimation(num_starts=2)
STEEPER = {**TRUTH, "A": 150.0, "alpha": 0.42}


def make_pair(second=TRUTH, *, noise=0.005, rng=0, factor=1.0):
    first = make_study(noise=noise, family="gf", start="gf-", rng=[rng, 0])
    sizes = [1.02 * size for size in SIZES]  # matched in parameters, not equal
    other = make_study(noise=noise, family="convnext", start="cn-", truth=second, sizes=sizes, rng=[rng, 1])
    return [*first, *(replace(run, value=factor * run.value) for run in other)]


def ask(runs, **others):
    return compare(runs, laws.chinchilla(), ("gf", "convnext"), estimation=FEW_STARTS, resamples=200, **others)


def point(size):
    return {"N": size, "D": 6376.0}


@pytest.mark.slow
def test_a_family_that_is_five_percent_worse_is_found_so():
    found = ask(make_pair(factor=1.05))
    assert found.is_paired
    difference = found.difference(point(3e6), point(3e6))
    assert difference.value == pytest.approx(np.log(1.05), abs=0.01)
    assert np.log(1.05) in difference.interval
    assert 0 not in difference.interval
    share_all, share_shape = found.tests
    assert share_all.chance < 1e-4
    assert share_shape.chance > 0.01
    assert (share_all.freedom, share_shape.freedom) == (5, 2)


def test_families_of_one_law_may_share_it():
    found = ask(make_pair())
    assert 0 in found.difference(point(3e6), point(3e6)).interval
    assert min(test.chance for test in found.tests) > 0.01


@pytest.mark.slow
def test_other_exponents_are_found():
    (_, shape) = ask(make_pair(STEEPER, noise=0.0005)).tests
    assert shape.chance < 0.01


@pytest.mark.slow
def test_pairing_takes_out_what_both_families_share():
    """The same validation images for both: their difficulty moves both laws, not their difference."""
    difficulty = np.exp(np.random.default_rng(0).normal(size=40))
    difficulty /= difficulty.mean()
    paired = [replace(run, image_values=run.value * difficulty) for run in make_pair(noise=0.001)]
    widths = []
    for runs in (paired, [replace(run, cell="") for run in paired]):
        found = ask(runs)
        interval = found.difference(point(3e6), point(3e6)).interval
        widths.append(interval.high - interval.low)
    assert not found.is_paired
    assert widths[0] < widths[1] / 10


@pytest.mark.slow
def test_seeds_that_do_not_agree_are_not_paired():
    runs = make_pair()
    assert not ask([run for run in runs if run.name != "cn-n0d0s1"]).is_paired


@pytest.mark.slow
def test_a_crossover_is_found_with_its_interval_and_not_invented():
    sizes = np.geomspace(0.8e6, 8e6, 12)
    computes = 6 * sizes * 6376
    path = [point(size) for size in sizes]
    crossing = ask(make_pair(STEEPER, noise=0.001)).crossover(computes, path, path)
    # the floors and data terms agree: 40 N^-0.33 = 150 N^-0.42
    truth = 6 * 6376 * (150 / 40) ** (1 / 0.09)
    assert crossing.compute == pytest.approx(truth, rel=0.2)
    assert crossing.interval is not None
    assert truth in crossing.interval
    assert "they cross at" in crossing.text
    none = ask(make_pair(factor=1.1)).crossover(computes, path, path)
    assert none.compute is None
    assert none.text.startswith("no crossover inside the data: gf is better throughout")


def test_an_unknown_family_is_refused():
    with pytest.raises(UserError, match="no run is of the family 'swin'; families are convnext, gf"):
        compare(make_pair(), laws.chinchilla(), ("gf", "swin"))


def test_too_few_cells_are_refused():
    with pytest.raises(UserError, match="4 cells are too few for an interval"):
        ask([run for run in make_pair() if run.factors["D"] == 797.0])
