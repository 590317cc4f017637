import json
from types import SimpleNamespace

import pytest

from hornet.errors import UserError
from hornet.hardware import get_gpu
from hornet.planning.question import Question
from hornet.planning.speed import choose_speed, describe_gpu, plan_duration

NETWORK = SimpleNamespace(name="hornet_tiny_gf", image_size=224, training_flops_per_image=989_000_000_000)


def ask(gpu="h100-80", **known):
    return Question(gpu=get_gpu(gpu), num_gpus=4, **known)


def choose(question, *, precision="bf16", run=None):
    return choose_speed(question, network=NETWORK, precision=precision, run=run)


def write_run(folder, *, shares, model="hornet_tiny_gf"):
    folder.mkdir()
    rows = [{"images_per_second": 50.0 * (number + 1), "mfu": share} for number, share in enumerate(shares)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "environment.json").write_text(json.dumps({"world": {"num_ranks": 2}}))
    (folder / "config.yaml").write_text(f"model: {{name: {model}}}\ndata: {{transform: {{image_size: 224}}}}\n")
    return folder


def test_speed_follows_from_a_share_of_the_rate():
    speed = choose(ask(mfu=0.2))
    assert speed.images_per_second == pytest.approx(200), "989e12 * 0.2 / 989e9"
    assert speed.source == "given"
    assumed = choose(ask())
    assert assumed.source == "assumed, not measured"
    assert choose(ask(), precision="fp32").images_per_second < assumed.images_per_second


def test_a_measured_share_goes_before_and_the_first_row_does_not_count(tmp_path):
    speed = choose(ask(mfu=0.2), run=write_run(tmp_path / "run", shares=[0.01, 0.1, 0.3, 0.4]))
    assert speed.mfu == 0.3
    assert speed.images_per_second == pytest.approx(300)
    assert "measured: median of 3 rows" in speed.source
    assert "on 2 ranks" in speed.source


def test_without_a_share_images_a_second_are_taken_of_the_same_network_alone(tmp_path):
    run = write_run(tmp_path / "run", shares=[None, None, None, None])
    assert choose(ask(), run=run).images_per_second == 75, "150 on 2 ranks"
    assert choose(ask("v100-32"), run=run).mfu is None
    other = write_run(tmp_path / "other", shares=[None, None], model="hornet_base_gf")
    with pytest.raises(
        UserError, match=r"other: has no MFU .*trained hornet_base_gf at 224 pixels, not hornet_tiny_gf"
    ):
        choose(ask(), run=other)


def test_what_nobody_knows_is_told(tmp_path):
    with pytest.raises(UserError, match=r"gpu: the bf16 rate of v100-32 is not known.*--from-run runs/NAME"):
        choose(ask("v100-32"))
    with pytest.raises(UserError, match="holds no measured speed; --from-run needs a run with two rows"):
        choose(ask(), run=write_run(tmp_path / "run", shares=[0.1]))
    with pytest.raises(UserError, match="mfu: is a share, above 0 and at most 1, not 30"):
        ask(mfu=30.0)
    with pytest.raises(UserError, match=r"pue: .*1 or more, not 0.9"):
        ask(pue=0.9)


def test_hours_energy_and_cost_by_hand():
    speed = choose(ask(mfu=0.2))
    duration = plan_duration(
        speed,
        num_gpus=4,
        num_steps=3600,
        global_batch_size=1600,
        question=ask(pue=1.5, price_per_gpu_hour=2.5),
    )
    assert duration.step_seconds == pytest.approx(2)
    assert duration.hours == pytest.approx(2)
    assert duration.gpu_hours == pytest.approx(8)
    assert duration.kilowatt_hours == pytest.approx(8 * 0.7 * 1.5)
    assert duration.cost == pytest.approx(20)


def test_a_gpu_is_described_with_and_without_a_rate():
    assert describe_gpu(get_gpu("h100-80")) == "h100-80 (80 GiB, 989 TFLOP/s dense bf16, 700 W)"
    assert "no bf16" in describe_gpu(get_gpu("v100-32"))
