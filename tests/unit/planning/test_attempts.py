import pytest

from hornet.hardware import get_gpu
from hornet.planning.attempts import explain_limit, plan_attempts, plan_checkpoints
from hornet.planning.question import Question
from hornet.training.config import RetentionConfig

LARGE_GF = 228_300_000


def ask(**known):
    return Question(gpu=get_gpu("h100-80"), num_gpus=64, **known)


def plan(retention=None, *, stage=1, num_steps=10_500, has_ema=False, **known):
    return plan_checkpoints(
        LARGE_GF,
        stage=stage,
        has_ema=has_ema,
        retention=retention or RetentionConfig(),
        num_steps=num_steps,
        save_every_steps=1000,
        question=ask(**known),
    )


@pytest.mark.parametrize(("stage", "megabytes"), [(0, 2740), (1, 3653), (2, 3653), (3, 2740)])
def test_checkpoints_are_as_large_as_docs_scale_has_them(stage, megabytes):
    assert plan(stage=stage).num_bytes / 1e6 == pytest.approx(megabytes, abs=1)


def test_retention_and_the_one_being_written_fill_the_disk():
    one = plan().num_bytes
    assert (plan().num_kept, plan().disk_bytes) == (3, 4 * one)
    assert plan(num_steps=1500).num_kept == 2, "no more than were saved"
    # Saved at 1000, 2000, ... 10000, 10500; the newest three are 9000, 10000, 10500; for good 2000, 4000, 6000, 8000.
    assert plan(RetentionConfig(every_steps=2000)).num_kept == 3 + 4
    assert plan(RetentionConfig(newest=1, best=True)).num_kept == 2


def test_saving_takes_what_the_disk_takes():
    assert plan(disk_gb_per_second=0.5).save_seconds == pytest.approx(7.3, abs=0.01)
    assert plan(has_ema=True).num_bytes == plan().num_bytes * 5 // 4


def live(*, hours=100.0, step=10.0, save=20.0, **known):
    question = ask(**known)
    return plan_attempts(train_hours=hours, longest_step_seconds=step, save_seconds=save, question=question), question


def test_attempts_are_the_hours_over_what_a_job_leaves():
    attempts, question = live(time_limit_hours=10.0, lead_seconds=1800.0, start_seconds=1800.0)
    assert attempts.num_attempts == 12, "nine hours each"
    assert attempts.needed_lead_seconds == 2 * 10 + 2 * 20 + 30
    assert explain_limit(attempts, question) is None
    assert live()[0] is None


def test_a_signal_that_comes_too_late_is_told():
    attempts, question = live(time_limit_hours=10.0, step=60.0, save=100.0)
    assert explain_limit(attempts, question) == (
        "signal lead: 300 s are too short for two of the longest steps and two saves, which take 350 s; submit with "
        "--signal=B:USR1@350 and plan with --signal-lead 350"
    )
    attempts, question = live(hours=2.0, time_limit_hours=10.0, step=60.0, save=100.0)
    assert explain_limit(attempts, question) is None, "one job is enough"


def test_a_job_without_time_to_train_is_told():
    attempts, question = live(time_limit_hours=0.1)
    assert explain_limit(attempts, question) == (
        "time limit: 0.1 h leave no time to train, after 180 s to start and 300 s to stop; ask for longer jobs"
    )
