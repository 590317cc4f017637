"""Made-up studies whose law is known, and the published curves."""

import os
from pathlib import Path

import numpy as np
import pytest

from scaling.fitting import Estimation
from scaling.measurements import Measurement

SIZES = (0.8e6, 1.75e6, 3.08e6, 7.7e6)
DATA = (797.0, 1594.0, 3188.0, 6376.0)
TRUTH = {"E": 0.6, "A": 40.0, "B": 30.0, "alpha": 0.33, "beta": 0.38}
LEAST_SQUARES = Estimation(huber=None, noise="unit")


def value_of(size, data, truth=TRUTH):
    return truth["E"] + truth["A"] * size ** -truth["alpha"] + truth["B"] * data ** -truth["beta"]


def make_study(*, noise=0.0, tau=0.0, seeds=3, sizes=SIZES, data=DATA, truth=TRUTH, family="", rng=0, start=""):
    """Runs of a grid: `noise` is the log's scatter between seeds, `tau` what the seeds of a cell share."""
    rng = np.random.default_rng(rng)
    runs = []
    for n, size in enumerate(sizes):
        for d, unique in enumerate(data):
            shared = tau * rng.standard_normal()
            for seed in range(seeds):
                value = value_of(size, unique, truth) * np.exp(shared + noise * rng.standard_normal())
                name = f"{start}n{n}d{d}s{seed}"
                factors = {"N": size, "D": unique, "C": 6 * size * unique}
                runs.append(
                    Measurement(name=name, factors=factors, value=value, seed=seed, family=family, cell=f"n{n}d{d}")
                )
    return runs


def make_curve(xs, values, factor="T"):
    """One run at each x."""
    return [
        Measurement(name=f"x{i}", factors={factor: float(x)}, value=float(value))
        for i, (x, value) in enumerate(zip(xs, values, strict=True))
    ]


def find_published(name):
    """A file of other people's measurements, which are not ours to copy; docs/scaling.md says where each is public."""
    folder = os.environ.get("HORNET_PUBLISHED_CURVES")
    if not folder:
        pytest.skip("HORNET_PUBLISHED_CURVES names no folder of published curves (docs/scaling.md)")
    return Path(folder) / name
