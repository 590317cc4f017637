import numpy as np
import pytest

from benchmarks import scaling_order
from benchmarks.scaling_order import CENTRE, FAR, GUESS, NOISE, find_gradient, find_variance, main, make_runs


def log_value(theta, log_x):
    """By the formula: theta is (log E, log A, log B, alpha, beta) with amplitudes in the centre."""
    z = log_x - CENTRE
    terms = [np.exp(theta[0]), np.exp(theta[1] - theta[3] * z[:, 0]), np.exp(theta[2] - theta[4] * z[:, 1])]
    return np.log(sum(terms))


def test_the_gradient_is_that_of_the_formula():
    rest = 1 - GUESS["floor"]
    theta = np.array(
        [np.log(GUESS["floor"]), *2 * [np.log(rest * GUESS["share"])], GUESS["alpha"], GUESS["beta"]]
    )  # the share is a half
    places = np.array([run.at for run in make_runs()] + [tuple(FAR[0])])
    steps = 1e-6 * np.eye(5)
    numbers = [(log_value(theta + step, places) - log_value(theta - step, places)) / 2e-6 for step in steps]
    assert find_gradient(GUESS, places) == pytest.approx(np.array(numbers).T, abs=1e-8)


def test_seeds_of_a_cell_tell_less_where_they_share_an_error():
    runs = make_runs()
    cells = runs[::3]
    assert find_variance(GUESS, runs, tau=0.0) < find_variance(GUESS, cells, tau=0.0)
    # Two seeds of one noise are one run of noise / sqrt(2); of a shared error they are hardly more than one.
    both = [run for run in runs if run.seed < 2]
    halved = find_variance(GUESS, both, tau=0.0) / find_variance(GUESS, cells, tau=0.0)
    shared = find_variance(GUESS, both, tau=10 * NOISE) / find_variance(GUESS, cells, tau=10 * NOISE)
    assert 0.5 <= halved < 0.6 < 0.99 < shared < 1


def test_the_benchmark_prints_ratios_of_widths(monkeypatch, capsys):
    monkeypatch.setattr(scaling_order, "make_runs", lambda: [run for run in make_runs() if run.seed < 1])
    monkeypatch.setattr(scaling_order, "COUNTS", (6, 16))
    main(["--laws", "2"])
    lines = capsys.readouterr().out.splitlines()
    last = [line for line in lines if line.strip().startswith("16 runs")]
    assert len(last) == 4
    assert all("1.00 (1.00 to 1.00" in line for line in last), "all runs tell the same in any order"
