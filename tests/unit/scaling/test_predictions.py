import json
from dataclasses import replace

import numpy as np
import pytest

from hornet.errors import UserError
from scaling import laws
from scaling.fitting import Estimation, fit
from scaling.measurements import Measurement
from scaling.predictions import judge, predict, read_prediction
from scaling.resampling import resample
from tests.unit.scaling.worlds import make_study, value_of

POINT = {"N": 3e7, "D": 6376.0}
FEW_STARTS = Estimation(num_starts=2)


@pytest.fixture(scope="module")
def resampled():
    return resample(fit(make_study(noise=0.01), laws.chinchilla(), estimation=FEW_STARTS), resamples=200)


def foretell(resampled, **others):
    return predict(resampled, name="nano", factors=POINT, written_at="2026-11-26T00:00:00Z", **others)


def result(value, **others):
    return Measurement(**{"name": "nano", "factors": POINT, "value": value, **others})


def test_a_prediction_is_written_read_and_judged(resampled):
    prediction = foretell(resampled)
    again = read_prediction(json.loads(json.dumps(prediction.as_json())))
    assert again == prediction
    assert prediction.data_digest == resampled.fit.cells.digest
    judgement = judge(again, result(value_of(3e7, 6376.0)))
    assert judgement.is_inside
    assert abs(judgement.z) < 2
    assert not judge(again, result(2 * prediction.value)).is_inside
    assert judge(again, result(prediction.value * np.exp(3 * prediction.log_sd))).z == pytest.approx(3)


def test_the_interval_holds_the_noise_of_runs_and_of_the_evaluation(resampled):
    sd = resampled.predict([POINT])[:, 0]
    curve = np.log(sd).std(ddof=1)
    noise = resampled.fit.noise
    assert foretell(resampled).log_sd == pytest.approx(np.sqrt(curve**2 + noise.sigma**2 + noise.tau**2), rel=1e-6)
    one, four, unsure = foretell(resampled), foretell(resampled, num_runs=4), foretell(resampled, evaluation_sd=0.1)
    assert four.high - four.low < one.high - one.low < (unsure.high - unsure.low) / 3


def test_a_run_on_the_same_images_is_not_foretold_as_one_on_others():
    """Which images are measured on moves curves and exponents, but not a run against runs on the very same ones."""
    difficulty = np.exp(np.random.default_rng(0).normal(size=60))
    difficulty /= difficulty.mean()
    runs = make_study(noise=0.01)
    with_images = [replace(run, image_values=run.value * difficulty) for run in runs]
    alone, together = (
        resample(fit(each, laws.chinchilla(), estimation=FEW_STARTS), resamples=100) for each in (runs, with_images)
    )
    first, second = foretell(alone), foretell(together)
    assert (second.low, second.high, second.log_sd) == pytest.approx((first.low, first.high, first.log_sd), rel=1e-6)
    assert together.curve(POINT).high - together.curve(POINT).low > 1.5 * (second.high - second.low)


@pytest.mark.slow
def test_most_predictions_come_true():
    inside = []
    for rng in range(20):
        fitted = fit(make_study(noise=0.01, tau=0.01, rng=rng), laws.chinchilla(), estimation=FEW_STARTS)
        prediction = foretell(resample(fitted, resamples=100))
        noise = np.random.default_rng([rng, 1]).standard_normal(2) * 0.01
        inside.append(judge(prediction, result(value_of(3e7, 6376.0) * np.exp(noise.sum()))).is_inside)
    assert np.mean(inside) >= 0.85


@pytest.mark.parametrize(
    ("run", "text"),
    [
        (result(None), "nano has no result, so its prediction cannot be judged yet"),
        (result(1.0, name="n0d0s0"), "n0d0s0 was among the data of the fit: that is no prediction"),
        (result(1.0, factors={"N": 3e7, "D": 1.0}), "nano: D is 1.0, but 6376 was foretold"),
        (result(1.0, factors={"N": 3e7}), "nano: D is None, but 6376 was foretold"),
    ],
)
def test_what_cannot_be_judged_is_refused(resampled, run, text):
    with pytest.raises(UserError, match=text):
        judge(foretell(resampled), run)


def test_what_is_no_prediction_is_refused(resampled):
    with pytest.raises(UserError, match="this is no prediction that `predict` wrote"):
        read_prediction({"name": "nano"})
    content = foretell(resampled).as_json()
    with pytest.raises(UserError, match="this is no prediction"):
        read_prediction({**content, "colour": 1})


def test_measurements_used_are_kept_by_name(resampled):
    assert len(foretell(resampled).runs_seen) == 48
    assert replace(foretell(resampled), runs_seen=()).runs_seen == ()
