"""Does an order by variance tell sooner than corners first? Widths of a held-out prediction after k runs.

  python -m benchmarks.scaling_order [--laws 300]

A study is 4 sizes x 4 shares of the data x 3 seeds; 2.5 times the largest size, on all data, is foretold. The present
rule is that of scaling/order.py. The other takes, greedily, the run that lessens the variance of the foretold logarithm
most, or most by FLOP, at a prior guess of the law (I-optimal for one point). After k runs, or a share of the compute,
the widths are compared at laws that neither knows: exponents of 0.1 to 0.6, a floor of 10 to 70 % of the value in the
centre, terms of any ratio. The variance is that of the linearised law; seeds scatter by 1 %, in a second world cells by
1 % too.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from scaling.cells import Cell
from scaling.order import sort_runs

SIZES = np.log([0.2e6, 0.8e6, 1.75e6, 3.08e6])
DATA = np.log([496.0, 992.0, 1984.0, 3968.0])
FAR = np.array([[np.log(7.7e6), DATA[-1]]])
CENTRE = np.array([SIZES.mean(), DATA.mean()])
GUESS = {"alpha": 0.35, "beta": 0.35, "floor": 0.4, "share": 0.5}
PRIOR_SD = np.array([1.0, 2.0, 2.0, 0.5, 0.5])
"""Of (log E, log A, log B, alpha, beta): what is known before the first run, nearly nothing."""
NOISE = 0.01
COUNTS = (6, 8, 12, 16, 24, 36)
SHARES = (0.1, 0.25, 0.5, 0.75)

Array = NDArray[np.float64]


def find_gradient(law: dict[str, float], log_x: Array) -> Array:
    """Return d log L / d theta (n, 5) at (n, 2) logarithms, of L = E + A N^-alpha + B D^-beta, 1 in the centre."""
    z = log_x - CENTRE
    floor, rest = law["floor"], 1 - law["floor"]
    by_size = rest * law["share"] * np.exp(-law["alpha"] * z[:, 0])
    by_data = rest * (1 - law["share"]) * np.exp(-law["beta"] * z[:, 1])
    columns = [np.full(len(z), floor), by_size, by_data, -by_size * z[:, 0], -by_data * z[:, 1]]
    gradient: Array = np.column_stack(columns) / (floor + by_size + by_data)[:, None]
    return gradient


def find_variance(law: dict[str, float], runs: Sequence[Any], *, tau: float) -> float:
    """Return the variance of the foretold logarithm after these runs."""
    cells: dict[tuple[float, float], int] = {}
    for run in runs:
        cells[run.at] = cells.get(run.at, 0) + 1
    gradient = find_gradient(law, np.array(list(cells)))
    weights = 1 / (NOISE**2 / np.array(list(cells.values())) + tau**2)
    information = np.diag(PRIOR_SD**-2.0) + gradient.T @ (gradient * weights[:, None])
    far = find_gradient(law, FAR)[0]
    return float(far @ np.linalg.solve(information, far))


def make_runs() -> list[Any]:
    """Return 48 runs, as scaling/order.py looks at them."""
    return [
        SimpleNamespace(
            name=f"{n}-{d}-{seed}", group="grid", stage="pretrain", is_held_out=False, tried=None, trunk=None,
            seed=seed, size=str(n), fraction=2.0 ** (d - 3), images_seen=float(np.exp(data)),
            at=(float(size), float(data)), cost=float(np.exp(size + data)),
        )
        for n, size in enumerate(SIZES) for d, data in enumerate(DATA) for seed in range(3)
    ]  # fmt: skip


def order_greedily(runs: Sequence[Any], *, tau: float, by_cost: bool) -> list[Any]:
    """Return the runs, each the one that lessens the variance at the guessed law most, by FLOP if `by_cost`."""
    left: list[Any] = list(runs)
    taken: list[Any] = []
    before = float(find_gradient(GUESS, FAR)[0] ** 2 @ PRIOR_SD**2)
    while left:
        variances = [find_variance(GUESS, [*taken, run], tau=tau) for run in left]
        gains = [(before - after) / (run.cost if by_cost else 1.0) for run, after in zip(left, variances, strict=True)]
        best = int(np.argmax(gains))
        before = variances[best]
        taken.append(left.pop(best))
    return taken


def draw_law(rng: np.random.Generator) -> dict[str, float]:
    """Return a law that no order knows."""
    alpha, beta = rng.uniform(0.1, 0.6, 2)
    return {"alpha": alpha, "beta": beta, "floor": rng.uniform(0.1, 0.7), "share": rng.uniform(0.2, 0.8)}


def cut(runs: Sequence[Any], share: float) -> list[Any]:
    """Return the beginning that takes at most this share of the compute of all."""
    used = np.cumsum([run.cost for run in runs])
    return list(runs[: int(np.searchsorted(used, share * used[-1], side="right"))])


def count_cells(runs: Sequence[Any]) -> int:
    """Return of how many cells these runs are; an interval needs 12."""
    return len({run.at for run in runs})


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the ratios of widths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--laws", type=int, default=300)
    laws = [draw_law(np.random.default_rng(seed)) for seed in range(parser.parse_args(arguments).laws)]
    runs = make_runs()
    seconds = {run.name: run.cost for run in runs}
    present = cast(list[Any], sort_runs(cast(list[Cell], runs), seconds=seconds))
    for tau in (0.0, 0.01):
        print(f"\nnoise of seeds {NOISE:.0%}, of cells {tau:.0%}; width by variance / width by the present rule")
        for name, by_cost in (("by variance", False), ("by variance and FLOP", True)):
            other = order_greedily(runs, tau=tau, by_cost=by_cost)
            print(f"  {name}: first {' '.join(run.name for run in other[:12])}")
            pairs = [(f"{count} runs", other[:count], present[:count]) for count in COUNTS]
            pairs += [(f"{share:.0%} of the compute", cut(other, share), cut(present, share)) for share in SHARES]
            for label, mine, theirs in (pair for pair in pairs if pair[1] and pair[2]):
                ratios = [
                    np.sqrt(find_variance(law, mine, tau=tau) / find_variance(law, theirs, tau=tau)) for law in laws
                ]
                low, middle, high = np.quantile(ratios, [0.1, 0.5, 0.9])
                print(
                    f"    {label:20} {middle:.2f} ({low:.2f} to {high:.2f} for 80 % of laws), "
                    f"runs {len(mine)} against {len(theirs)}, cells {count_cells(mine)} against {count_cells(theirs)}"
                )


if __name__ == "__main__":
    main()
