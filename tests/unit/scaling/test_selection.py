import numpy as np
import pytest

from hornet.errors import UserError
from scaling import laws
from scaling.selection import choose, hold_out_largest, roll
from tests.unit.scaling.worlds import LEAST_SQUARES, make_curve, make_study

XS = np.geomspace(1e3, 1e7, 14)


def make(values, noise=0.01, rng=0):
    return make_curve(XS, values * np.exp(noise * np.random.default_rng(rng).standard_normal(len(XS))))


def test_the_largest_level_is_held_out():
    runs = make_study(seeds=1)
    (fold,) = hold_out_largest(runs, "N")
    assert {run.factors["N"] for run in runs if run.name in fold.held_out} == {7.7e6}
    assert fold.seen | fold.held_out == {run.name for run in runs}
    assert not fold.seen & fold.held_out


def test_rolling_foretells_each_next_level_from_those_below():
    folds = roll(make(XS**-0.2), "T", first=10)
    assert [len(fold.seen) for fold in folds] == [10, 11, 12, 13]
    assert [len(fold.held_out) for fold in folds] == [1, 1, 1, 1]
    with pytest.raises(UserError, match="T has 14 levels: none is left to foretell after the first 14"):
        roll(make(XS**-0.2), "T", first=14)


def test_the_law_that_foretells_is_chosen():
    saturating = make(0.3 + 8 * XS**-0.4)
    choice = choose(saturating, [laws.power("T"), laws.saturating("T")], roll(saturating, "T", first=8))
    assert choice.taken.law.name == "saturating"
    assert choice.scores[0].rmsle < choice.scores[1].rmsle / 3
    assert choice.scores[0].aicc < choice.scores[1].aicc


def test_of_laws_that_foretell_as_well_the_simpler_is_taken():
    straight = make(8 * XS**-0.2)
    choice = choose(straight, [laws.saturating("T"), laws.power("T")], roll(straight, "T", first=8))
    assert choice.taken.law.name == "power"


def test_an_error_is_that_of_logarithms():
    curve = make_curve([1.0, 10.0, 100.0, 1000.0], [8.0, 4.0, 2.0, 1.5])
    choice = choose(curve, [laws.power("T")], hold_out_largest(curve, "T"), estimation=LEAST_SQUARES)
    assert choice.taken.rmsle == pytest.approx(np.log(1.5), rel=1e-9)
    assert choice.taken.num_held_out == 1


def test_folds_divide_cells_not_runs():
    runs = make_study()
    (fold,) = hold_out_largest([run for run in runs if run.seed == 0], "N")
    with pytest.raises(UserError, match="no cell has all its runs in this fold, which names 12 runs"):
        choose(runs, [laws.chinchilla()], [fold])


def test_without_folds_nothing_is_chosen():
    with pytest.raises(UserError, match="no fold: nothing would be foretold"):
        choose(make_study(), [laws.chinchilla()], [])
