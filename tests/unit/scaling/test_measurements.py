from dataclasses import replace

import numpy as np
import pytest

from hornet.errors import UserError
from scaling.measurements import Measurement, gather
from tests.unit.scaling.worlds import make_study


def run(name="a", value=1.0, seed=0, **factors):
    return Measurement(name=name, factors=factors or {"N": 1.0}, value=value, seed=seed)


def test_runs_that_differ_by_seed_are_one_cell():
    cells = gather([run("b", 3.0, seed=1), run("a", 2.0), run("c", 5.0, N=2.0)], ["N"])
    assert cells.names == (("a", "b"), ("c",))
    np.testing.assert_array_equal(cells.values, [[2.0, 3.0], [5.0, np.nan]])
    np.testing.assert_array_equal(cells.num_runs, [2, 1])


def test_runs_without_a_result_are_named_and_left_out():
    cells = gather([run("a"), run("b", None, N=2.0)], ["N"])
    assert cells.without_result == ("b",)
    assert len(cells) == 1


def test_the_digest_knows_the_data_and_not_their_order():
    runs = make_study(noise=0.01)
    digest = gather(runs, ["N", "D"]).digest
    assert gather(runs[::-1], ["N", "D"]).digest == digest
    changed = [replace(runs[0], value=runs[0].value + 1e-9), *runs[1:]]
    assert gather(changed, ["N", "D"]).digest != digest


@pytest.mark.parametrize(
    ("runs", "text"),
    [
        ([run(value=None)], "none of the 1 runs has a result, so there is nothing to fit"),
        ([], "none of the 0 runs has a result"),
        ([run(), run()], "run a stands twice among the measurements"),
        ([run(D=1.0)], "run a has no factor N; it has D"),
        ([run(N=0.0)], "run a: N is 0, but a factor is a positive number"),
        ([run(value=-1.0)], "run a: its value is -1, but laws are of positive numbers; give None for a run without"),
        ([run(value=float("nan"))], "run a: its value is nan"),
    ],
)
def test_bad_records_are_refused_by_name(runs, text):
    with pytest.raises(UserError, match=text):
        gather(runs, ["N"])


def test_image_values_belong_to_the_value_and_to_all_runs():
    whole = replace(run("a", 2.0), image_values=np.array([1.0, 3.0]))
    assert gather([whole], ["N"]).image_values.shape == (1, 1, 2)
    with pytest.raises(UserError, match="either all runs have them, for the same images, or none has"):
        gather([whole, run("b", seed=1)], ["N"])
    with pytest.raises(UserError, match="run a: image_values have the mean 2, but its value is 1"):
        gather([replace(whole, value=1.0)], ["N"])
